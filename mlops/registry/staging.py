"""The alias `staging`: the version that passed the gate last, for people and tests to look at before production."""

from mlops.models.declaration import Model
from mlops.registry.aliases import STAGING
from mlops.registry.card import FILE, card
from mlops.registry.record import Record
from mlops.result import Refused
from mlops.stores.tracking import DESCRIPTION_LIMIT, MODEL_ARTIFACT, Tracking


def stage(tracking: Tracking, model: Model, record: Record) -> str:
    """Registers a run's model, with its card and tags, and gives it the alias. Repeating it registers nothing twice.

    The alias is set last: a process that dies before leaves the old version in staging, and whoever finds a version by
    the alias finds it complete. Raises Refused for a model without a signature, whose inputs nobody could check.
    """
    if not tracking.input_columns(f"runs:/{record.run_id}/{MODEL_ARTIFACT}"):
        raise Refused(
            f"the model of run {record.run_id} has no signature: log it with 'python -m mlops training fit', which "
            "gives it one"
        )
    tracking.log_text(record.run_id, FILE, card(model, record))
    version = tracking.register(model.name, record.run_id)
    tracking.describe(model.name, version, card(model, record, limit=DESCRIPTION_LIMIT), record.version_tags)
    tracking.set_alias(model.name, STAGING, version)
    return version
