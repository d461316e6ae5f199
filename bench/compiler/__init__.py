"""Compile the kernels without a GPU, and count registers, spills and instructions.

Import `compile_kernel` for one kernel, `resources` for a grid of them.
"""
