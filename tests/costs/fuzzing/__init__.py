"""Combinations of costs, options, dtypes, strides, values and modes, drawn at random, against the textbook."""
