"""What several test modules use: inputs, comparisons, simulated devices, recorders.

Any test may import its modules; none of them imports a test.
"""
