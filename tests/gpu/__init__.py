"""Tests of bench/gpu and of campaigns, rehearsed without a GPU.

Nothing is imported from here.
"""
