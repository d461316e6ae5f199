"""Studies of numerical error, apart from the sweep: activations, repeatability, training, models.

Import `rounding_model`, `gradient_model` and `tensor_core`, which need no torch; and `studies`,
which runs the others.
"""
