"""Bring a dataset into the object store, and a table of it into a DAG run."""
