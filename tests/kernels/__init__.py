"""Tests of kernels/: values, gradients, the barrier, memory accesses, plans, launches.

Nothing is imported from here.
"""
