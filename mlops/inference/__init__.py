"""Batch inference: files that were delivered, scored once by one version of a registered model."""
