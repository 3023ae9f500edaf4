"""The clustering model: how it is fitted, scores, is compared, and is found by its alias."""
