"""What needs a GPU: checks of the kernels, and microbenchmarks of what bounds the time loop.

Import `run_checks` to run all checks, `floor` for the microbenchmarks, `campaign` for everything.
"""
