"""Watch how the newest rows of a dataset differ from its reference: drift and anomalies."""
