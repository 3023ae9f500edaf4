"""Deploy, roll back and serve a model, and join later labels to what it predicted."""

import argparse
import logging
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from mlops import models
from mlops.config import ServedModelSettings
from mlops.datasets.declaration import EVENT_TIME, LABEL
from mlops.models.declaration import Model
from mlops.registry.commands import rollback, rollback_options
from mlops.registry.learned import keep_training_data
from mlops.registry.model_registry import TIMEOUT
from mlops.registry.promotion import Reason, changing
from mlops.registry.record import CHAMPION, NO_CHAMPION, NOT_ASKED, Record
from mlops.registry.registration import keep_card, register
from mlops.result import Failure, Refused, Result, Skip
from mlops.stores.dataset_files import DatasetFiles
from mlops.stores.ledger import Ledger
from mlops.stores.object_store import ObjectStore, data_bucket, predictions_bucket
from mlops.stores.tracking import Tracking

if TYPE_CHECKING:
    import polars as pl

_PATIENCE = 300.0  # seconds
_DAYS = 30

log = logging.getLogger(__name__)


def deploy(*, model: str, run_id: str, timeout: float) -> Result:
    """Registers a run's model with its card, rolls the model server to it, and gives it the alias `production`.

    Skipped where the gate did not pass, or compared the model with another champion than the one it would replace.
    Repeating it registers nothing twice. The ledger gets an entry of it. Where the rollout fails, the server goes back
    and the aliases stay as they were.
    """
    from mlops.registry import rollout

    declared, tracking = models.get(model), Tracking.from_environment()
    record = Record.read(tracking, run_id, declared)
    if not record.passed:
        raise Skip(f"not deployed: {'; '.join(record.reasons)}")
    with changing(tracking, Ledger.from_environment(), model) as production:
        champion = production.version
        _skip_unless_compared(tracking, model, record, champion)
        version = register(tracking, declared, record)
        keep_card(tracking, model, version)
        with rollout.ServedModel(tracking, model, production).rolled(version, timeout) as example:
            # Not the champion, where an earlier try came as far as this.
            replaced = production.promote(version, Reason("it passed the gate", record.evidence))
    keep_training_data(tracking, declared, version, data_bucket())
    log.info("version %s of %s is in production, after version %s", version, model, replaced)
    return {"model": model, "version": version, "previous": replaced, "example": example}


def seal() -> Result:
    """Records what the files of versions with an alias are now, of those that were made before that was done.

    Refused, after all others are sealed, where one of them is not safe to load.
    """
    from mlops.training import families

    tracking = Tracking.from_environment()
    sealed, refused = [], []
    for entry in tracking.aliased_versions():
        name = f"{entry.model}/{entry.version}"
        family = families.of(tracking.run(tracking.made_by(entry.model, entry.version)).data.params)
        try:
            if tracking.seal(entry.model, entry.version, family.LAYOUT):
                log.info("version %s of %s is sealed", entry.version, entry.model)
                sealed.append(name)
        except Failure as failure:
            log.error("%s", failure)
            refused.append(name)
    if refused:
        raise Refused(f"{', '.join(refused)} cannot be sealed, as the log says: take their aliases away, or train anew")
    return {"sealed": sealed}


def serve(*, host: str, port: int, patience: float) -> Result:
    """Serves a model by MLflow's scoring server; without a model, waits and says so."""
    from mlops.serving import server

    server.serve(ServedModelSettings.from_environment(), host, port, patience)
    return {}


def join_labels(
    *, model: str, since: date | None, until: date | None, labels: str | None, within_hours: float, keys: str | None
) -> Result:
    """Joins labels that came later to the logged predictions, and measures each version by them.

    Writes the predictions with their labels as one table into the data bucket; repeating it writes it anew. Refused
    where the model's log or the labels have no key in common.
    """
    from mlops.serving import labels as later
    from mlops.serving.prediction_log import prefix

    declared, store = models.get(model), data_bucket()
    last = until or datetime.now(UTC).date()
    first = since or last - timedelta(days=_DAYS)
    if first > last:
        raise Refused(f"--since {first} is later than --until {last}")
    days = [prefix(model, first + timedelta(days=day)) for day in range((last - first).days + 1)]
    predictions = predictions_bucket().scan_folders(days)
    known = _labels(store, declared, labels)
    shared = keys.split(",") if keys else _shared_keys(predictions, known)
    absent = [key for key in shared for rows in (predictions, known) if key not in rows.collect_schema()]
    if absent or not shared:
        raise Refused(
            f"the predictions of {model} and its labels have no such key: {', '.join(absent) or 'they share none'}: "
            "name columns of both by --keys, and ask the model by ids, or with them among its columns"
        )
    joined = later.join(predictions, known, shared, timedelta(hours=within_hours)).collect()
    key = f"labelled/{model}/{first}_{last}.parquet"
    store.write(key, joined.lazy())
    found = later.versions(joined, declared.data)
    for version, of in found.items():
        log.info("version %s: %d predictions, %d with a label: %s", version, *of)
    labelled = sum(of.labelled for of in found.values())
    if not labelled:
        log.warning("no prediction has a label: look whether the values of %s are the same in both", ", ".join(shared))
    return {
        "model": model,
        "key": key,
        "predictions": joined.height,
        "labelled": labelled,
        "versions": {
            version: {"predictions": of.predictions, "labelled": of.labelled, **of.measured}
            for version, of in found.items()
        },
    }


def _labels(store: ObjectStore, declared: Model, key: str | None) -> "pl.LazyFrame":
    """The table of a key of the data bucket, with `event_time` and `label`; without one, of the model's data set."""
    import polars as pl

    if key is not None:
        table = store.scan(key)
        types = table.collect_schema()
        if absent := {EVENT_TIME, LABEL} - set(types):
            raise Refused(f"s3://{store.bucket}/{key} has no column {', '.join(sorted(absent))}: give it one")
        if not isinstance(types[EVENT_TIME], pl.Datetime):
            raise Refused(f"{EVENT_TIME} of s3://{store.bucket}/{key} is {types[EVENT_TIME]}: give points in time")
        return table
    if declared.data.event_time is None:
        raise Refused(f"the data set {declared.dataset} has no event times: give a table of labels by --labels")
    return DatasetFiles(store).read(declared.data).table.with_columns(declared.data.label.expression)


def _shared_keys(predictions: "pl.LazyFrame", labels: "pl.LazyFrame") -> list[str]:
    """The columns of the log that are the model's own and that the labels have as well."""
    from mlops.serving.prediction_log import schema

    own = [name for name in predictions.collect_schema() if name not in schema(())]
    return [name for name in own if name in labels.collect_schema()]


def _skip_unless_compared(tracking: Tracking, model: str, record: Record, champion: str | None) -> None:
    """Skips a model whose comparison was with another champion: one that was deployed since may be better than it."""
    compared = record.tags.get(CHAMPION, NOT_ASKED)
    if compared in (NOT_ASKED, champion or NO_CHAMPION):
        return
    if champion is not None and tracking.made_by(model, champion) == record.run_id:
        return  # an earlier try of this deployment came as far as that
    raise Skip(
        f"not deployed: it was compared with version {compared} and would replace version {champion or NO_CHAMPION}, "
        "which is in production by now: clear evaluate_model to compare these two"
    )


def _deploy_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a declared model")
    parser.add_argument("--run-id", required=True, help="the MLflow run whose model is deployed")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for the rollout (%(default)s)")


def _seal_options(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (%(default)s)")
    parser.add_argument("--patience", type=float, default=_PATIENCE, help="seconds to wait for MLflow (%(default)s)")


def _join_labels_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a declared model whose predictions are logged")
    parser.add_argument("--since", type=date.fromisoformat, help=f"the first day, UTC ({_DAYS} days before --until)")
    parser.add_argument("--until", type=date.fromisoformat, help="the last day, UTC (today)")
    parser.add_argument(
        "--labels", help="a table in the data bucket with the keys, event_time and label (the model's data set)"
    )
    parser.add_argument("--keys", help="columns, separated by commas, that name what a label is of (all they share)")
    parser.add_argument(
        "--within-hours", type=float, default=168.0, help="how long after a prediction its label may come (%(default)s)"
    )


COMMANDS = {
    "deploy": (deploy, _deploy_options),
    "rollback": (rollback, rollback_options),
    "seal": (seal, _seal_options),
    "serve": (serve, _serve_options),
    "join-labels": (join_labels, _join_labels_options),
}
