"""Tests of reference/: values against torch.nn, and what it refuses.

Nothing is imported from here.
"""
