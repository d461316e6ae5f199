"""Four textbook uses of the kernels, each a script and a module.

Import each for its function; the tests compare it with torch.nn.
"""
