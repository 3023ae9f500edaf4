"""Compute, define and serve features, and make training and test sets of them."""
