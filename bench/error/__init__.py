"""Studies of numerical error beside the sweep: activations, repeatability, training, a model.

Import `rounding_model`, which needs no torch; the others run as processes of their own.
"""
