"""The aliases of registered versions, one vocabulary for every model that is trained, served or watched here."""

from mlops.result import Failure
from mlops.stores.tracking import Tracking

STAGING = "staging"  # passed the gate last; for people and tests to look at
PRODUCTION = "production"  # is served
PREVIOUS = "previous"  # was served before, to go back to


def production(tracking: Tracking, model: str) -> str | None:
    """The version in production, if any."""
    return tracking.aliased(model, PRODUCTION)


def previous(tracking: Tracking, model: str) -> str:
    """The version that was in production before. Raises Failure where there is none."""
    version = tracking.aliased(model, PREVIOUS)
    if version is None or version == production(tracking, model):
        raise Failure(
            f"model {model!r} has no previous version to go back to: set the alias {PREVIOUS!r} in MLflow to choose one"
        )
    return version


def promote(tracking: Tracking, model: str, version: str) -> str | None:
    """Makes the version the production one and keeps the one that it replaces as `previous`, which is handed back.

    Repeating it changes nothing. `previous` is set first: a process that dies between the two steps leaves the old
    version in production.
    """
    replaced = production(tracking, model)
    if replaced == version:
        return tracking.aliased(model, PREVIOUS)
    if replaced is not None:
        tracking.set_alias(model, PREVIOUS, replaced)
    tracking.set_alias(model, PRODUCTION, version)
    return replaced
