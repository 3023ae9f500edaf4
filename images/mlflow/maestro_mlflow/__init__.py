"""What stands before MLflow's server: who may ask, which of its routes there are, and where artifacts may lie."""
