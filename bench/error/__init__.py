"""Studies of numerical error, apart from the sweep: activations, repeatability, training, a model.

Import `rounding_model`, which needs no torch; and `studies`, which runs the others.
"""
