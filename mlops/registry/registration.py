"""From a run to a version that can be read, compared and served: with its card, its tags and its description."""

from mlops.config import RunIdentity
from mlops.models.declaration import Model
from mlops.registry import card_page
from mlops.registry.aliases import PRODUCTION, STAGING
from mlops.registry.card import FILE, card
from mlops.registry.card_page import as_html
from mlops.registry.record import CALIBRATION, FEATURE_SERVICE, SLICES, Record
from mlops.result import Refused
from mlops.stores.object_store import reports_bucket
from mlops.stores.tracking import DESCRIPTION_LIMIT, MODEL_ARTIFACT, Tracking


def register(tracking: Tracking, model: Model, record: Record) -> str:
    """The version of a run's model, complete before anybody gives it an alias. Repeating it registers nothing twice.

    Raises Refused for a model without a signature, whose inputs nobody could check, and for one that reads other
    columns than the version that is in use under its name.
    """
    columns = tracking.input_columns(f"runs:/{record.run_id}/{MODEL_ARTIFACT}")
    if not columns:
        raise Refused(
            f"the model of run {record.run_id} has no signature: log it with 'python -m mlops training fit', which "
            "gives it one"
        )
    _refuse_another_contract(tracking, model, record.run_id, columns)
    slices = tracking.find_text(record.run_id, SLICES)
    text = card(model, record, slices=slices)
    tracking.log_text(record.run_id, FILE, text)
    tracking.log_text(record.run_id, card_page.FILE, as_html(text, tracking.find_text(record.run_id, CALIBRATION)))
    version = tracking.register(model.name, record.run_id)
    short = card(model, record, slices=slices, limit=DESCRIPTION_LIMIT)
    tracking.describe(model.name, version, short, record.version_tags)
    return version


def keep_card(tracking: Tracking, model: str, version: str) -> str | None:
    """Puts the page of a registered version's card into the bucket of reports, and beside the reports of this task.

    Hands back the key of the latter, which the task links to; None outside of a task. To repeat it changes nothing.
    """
    content = tracking.read_text(tracking.made_by(model, version), card_page.FILE).encode()
    reports, task = reports_bucket(), RunIdentity.if_told()
    reports.write_bytes(f"models/{model}/v{version}/{card_page.FILE}", content)
    if task is None:
        return None
    key = f"{task.run_key}/{card_page.FILE}"
    reports.write_bytes(key, content)
    return key


def stage(tracking: Tracking, model: Model, record: Record) -> str:
    """Registers a run's model and gives it the alias `staging`: passed the gate last, for people and tests to look at.

    The alias is set last: a process that dies before leaves the old version in staging.
    """
    version = register(tracking, model, record)
    tracking.set_alias(model.name, STAGING, version)
    return version


def _refuse_another_contract(tracking: Tracking, model: Model, run_id: str, columns: dict[str, str]) -> None:
    """Compares with the version in production, or else in staging: whoever asks a model by its name asks that one."""
    name, alias = model.name, PRODUCTION
    version = tracking.aliased(name, alias)
    if version is None:
        alias = STAGING
        version = tracking.aliased(name, alias)
        if version is None or _of_another_source(tracking, model, version):
            return
    known = tracking.input_columns(f"models:/{name}/{version}")
    # Of a column that was missing in all rows of its example, a version of before 0.2 knows no type.
    same = {
        column for column, dtype in known.items() if columns.get(column) == dtype or (column in columns and not dtype)
    }
    lines = [f"- {column} {dtype}" for column, dtype in known.items() if column not in same]
    lines += [f"+ {column} {dtype}" for column, dtype in columns.items() if column not in same]
    if known and lines:
        raise Refused(
            f"the model of run {run_id} reads other columns than version {version} of {name!r}, which has the alias "
            f"{alias!r}:\n"
            + "\n".join(lines)
            + "\nOne name stands for one contract: declare it under a name of its own "
            f"in mlops/models, or take the alias away where nobody asks {name!r} for the old columns"
        )


def _of_another_source(tracking: Tracking, model: Model, version: str) -> bool:
    """Whether a version learned from a feature service that the model does not have.

    Before 0.2 a model of columns and one of features were registered under one name, and one of them was never served.
    """
    tags = tracking.run(tracking.made_by(model.name, version)).data.tags
    return tags.get(FEATURE_SERVICE) != model.feature_service
