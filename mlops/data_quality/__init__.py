"""Check data against its dataset's declaration with Great Expectations."""

import os

# Great Expectations reads this when it is imported. Nothing leaves the cluster.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
