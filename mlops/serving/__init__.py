"""Bring a model version to the model server, serve it, and go back to the previous one."""
