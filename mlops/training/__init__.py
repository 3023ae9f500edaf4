"""Fit a model, log it to MLflow, and decide whether it is good enough."""
