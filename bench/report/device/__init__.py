"""The report's topics of a device: checks, microbenchmarks, compiled kernels, failures.

Import the constant TOPIC of each file.
"""
