"""The report's topics of a device: checks, microbenchmarks, compiled kernels, failures.

Import the constants TOPIC of each file, and `checks.NOT_MEASURED`.
"""
