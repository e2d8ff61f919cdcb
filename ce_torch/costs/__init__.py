"""The costs, one a file: the formula, its derivatives by hand, the function, the module."""
