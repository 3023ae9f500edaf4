"""A task's pod from its manifest to its end: made by a worker, watched by the triggerer."""
