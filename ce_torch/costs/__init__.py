"""The costs, one in each file: the formula, its derivatives by hand, the function and the module."""
