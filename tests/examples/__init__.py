"""Four textbook uses of the kernels, to read and to run.

Nothing is imported from here: `tests/test_examples.py` runs each as a script.
"""
