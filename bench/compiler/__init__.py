"""What the compiler makes of the kernels, without a GPU: registers, spills, instructions.

Import `compile_kernel` for one kernel, `resources` for a grid of them.
"""
