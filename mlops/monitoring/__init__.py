"""Watch the newest part of a dataset: its schema, its quality, its drift, its anomalies."""

import os

# Great Expectations reads this when it is imported. Nothing leaves the cluster.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
