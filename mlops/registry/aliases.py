"""The aliases of registered versions, one vocabulary for every model that is trained, served or watched here.

`mlops.registry.promotion` is alone in moving `production` and `previous`.
"""

from mlops.stores.tracking import Tracking

STAGING = "staging"  # passed the gate last; for people and tests to look at
PRODUCTION = "production"  # is served
PREVIOUS = "previous"  # was served before, to go back to


def production(tracking: Tracking, model: str) -> str | None:
    """The version in production, if any."""
    return tracking.aliased(model, PRODUCTION)
