"""Train a clustering model of sensor readings, say whether it may be served, and publish it once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from mlops.registry import card_page
from mlops.registry.card import FILE as FILE_OF_CARD
from mlops.registry.card import card_of_readings
from mlops.registry.promotion import Reason, changing
from mlops.registry.record import Record
from mlops.registry.runs import finished_run
from mlops.result import Refused
from mlops.sensor_trainer.model.clusters import FEWEST_ROWS, Fitted, fit, judge
from mlops.sensor_trainer.model.comparison import Decision, Evaluation, Flagged, auc_and_f1, not_worse, quality, rivals
from mlops.sensor_trainer.model.scoring import ClusterModel, Numbers
from mlops.sensor_trainer.model.served import FILE, MODEL, load, served_version
from mlops.stores.tracking import Input, Signature
from mlops.training.families import sklearn

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

    from mlops.stores.ledger import Ledger
    from mlops.stores.tracking import Tracking

EXPERIMENT = MODEL
JOB_ID = "maestro.job_id"
HELD_OUT = 0.2  # of the readings, the latest ones
SEED = 7

_REPLACES, _REASON, _CHAMPION = "maestro.replaces", "maestro.reason", "maestro.champion"
_NEWEST = "newest_reading"
_DESCRIPTION = "Clusters of sensor readings: how unusual a reading is, and whether it looks like those before failures."
_EVIDENCE = ("auc", "f1", "champion_auc", "champion_f1", "window_rows")  # of the metrics, for the ledger
_EXAMPLE_ROWS = 5
_COMPARED_ROWS = 50_000  # of either part, for the comparison with other methods, which are slower

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """replaces: whether the model may be served; reason: why, in words; newest_reading: the id of the last one that it
    was made from, by which the next training counts the new ones."""

    run_id: str
    metrics: dict[str, float]
    clusters: int
    replaces: bool
    reason: str
    newest_reading: int


def train(
    table: pd.DataFrame,
    columns: Sequence[str],
    *,
    job_id: str,
    tracking: Tracking,
    report: Callable[[str, float], None],
) -> Trained:
    """The job's model, fitted on the earlier readings, measured on the latest, and logged as one MLflow run.

    table: readings in order of time, as Readings.table gives them; report(step, share of the work) may raise to stop.
    An attempt that finds the run that an earlier one finished takes it, and ends one that was left unfinished.
    The model that was measured is the one that is served: it is not fitted again with the window, of which nobody
    could then say how good it is. Raises Refused for too few readings.
    """
    finished = finished_run(tracking, EXPERIMENT, JOB_ID, job_id, "replaced by a later attempt of the job")
    if finished is not None:
        log.info("run %s was finished by an earlier attempt", finished.info.run_id)
        return _from_run(finished)
    known, window = split(table, columns)
    with tracking.new_run(EXPERIMENT, f"{MODEL} {job_id}", {JOB_ID: job_id}) as run_id:
        report("clustering", 0.0)
        fitted = fit(known[list(columns)], _labels(known), SEED)
        report("comparing with other methods", 0.4)
        metrics = _sizes(fitted, known, window) | _beside_others(fitted, known, window, columns)
        report("comparing with the champion", 0.7)
        champion, measured, verdict = _beside_champion(fitted.model, window, columns, tracking)
        report("logging", 0.8)
        metrics |= measured
        _log(tracking, run_id, fitted, known, metrics)
        newest = int(table["id"].max())
        params = {
            "columns": ",".join(columns),
            "clusters": len(fitted.model.centres),
            "period": f"{table['time'].min().isoformat()}/{table['time'].max().isoformat()}",
            _NEWEST: newest,
        }
        tags = {_CHAMPION: champion or "none", _REPLACES: json.dumps(verdict.replaces), _REASON: verdict.reason}
        tracking.log(run_id, params=params, metrics=metrics, tags=tags)
    log.info("run %s: %d clusters, %s", run_id, len(fitted.model.centres), verdict.reason)
    return Trained(run_id, metrics, len(fitted.model.centres), *verdict, newest)


def publish(trained: Trained, *, job_id: str, tracking: Tracking, ledger: Ledger) -> dict[str, object]:
    """Registers the job's model and serves it where it may be. Repeating it changes nothing.

    Call it while the job is held, so that no two attempts do.
    """
    if not tracking.versions(MODEL, JOB_ID, job_id):
        text = card_of_readings(MODEL, _DESCRIPTION, Record.read(tracking, trained.run_id))
        tracking.log_text(trained.run_id, FILE_OF_CARD, text)
        tracking.log_text(trained.run_id, card_page.FILE, card_page.as_html(text))
    made = tracking.register(MODEL, trained.run_id, {JOB_ID: job_id, _REPLACES: json.dumps(trained.replaces)})
    served = served_version(tracking)
    with changing(tracking, ledger, MODEL) as production:
        if served is not None and production.version is None:
            production.promote(served, Reason("a release before 0.2 served it by another alias"))
        if trained.replaces:
            measured = {name: value for name, value in trained.metrics.items() if name in _EVIDENCE and isfinite(value)}
            by = f"{MODEL} job {job_id}"
            production.promote(made, Reason(trained.reason, {"run_id": trained.run_id, **measured}, by))
            served = made
    log.info("version %s of %s; version %s is served: %s", made, MODEL, served, trained.reason)
    return {"model_version": made, "served_version": served, "served": served == made, "reason": trained.reason}


def split(table: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(the earlier readings, the held-out window): the latest fifth, and what has the time of its first reading.

    Readings that are no finite numbers are in neither. Raises Refused where one of them is too small to say anything.
    """
    finite = table[np.isfinite(table[list(columns)].to_numpy(dtype=float)).all(axis=1)]
    latest = finite["time"].sort_values().iloc[int(len(finite) * (1 - HELD_OUT)) :]
    held_out = finite["time"] >= latest.min()
    known, window = finite[~held_out], finite[held_out]
    if len(known) < FEWEST_ROWS or not len(window):
        raise Refused(
            f"{len(table)} readings give {len(known)} to learn from and {len(window)} to measure on: at least "
            f"{FEWEST_ROWS} before the latest {HELD_OUT:.0%} are needed: send more, or train on more days"
        )
    return known, window


def _from_run(run: Run) -> Trained:
    tags, params = run.data.tags, run.data.params
    return Trained(
        run_id=run.info.run_id,
        metrics=dict(run.data.metrics),
        clusters=int(params["clusters"]),
        replaces=bool(json.loads(tags[_REPLACES])),
        reason=tags[_REASON],
        newest_reading=int(params[_NEWEST]),
    )


def _sizes(fitted: Fitted, known: pd.DataFrame, window: pd.DataFrame) -> dict[str, float]:
    model, labels = fitted.model, _labels(window)
    index = fitted.criterion.get(len(model.centres))
    return {
        "train_rows": float(len(known)),
        "window_rows": float(len(window)),
        "window_labelled": float(np.isfinite(labels).sum()),
        "window_failures": float((labels == 1).sum()),
        "clusters": float(len(model.centres)),
        "healthy_clusters": float(model.healthy.sum()),
        "failure_prone_clusters": float(model.failure_prone.sum()),
        "threshold": model.threshold,
        **({} if index is None else {"davies_bouldin": index}),
    }


def _beside_others(
    fitted: Fitted, known: pd.DataFrame, window: pd.DataFrame, columns: Sequence[str]
) -> dict[str, float]:
    """AUC and F1 on the window of each method, none of which is told a label; none without labels to measure by."""
    known, window = (part.sample(min(len(part), _COMPARED_ROWS), random_state=SEED) for part in (known, window))
    labels = _labels(window)
    hidden = judge(fitted.model, _values(known, columns), np.full(len(known), np.nan))
    scores = hidden.score(_values(window, columns))
    ours = Flagged(scores.anomaly, scores.failure)
    if np.isnan(auc_and_f1(ours, labels)[0]):
        return {}
    earlier, latest = (part[list(columns)].astype(float) for part in (known, window))
    others = rivals(earlier, latest, fitted.pipeline[:-1], float(np.nanmean(labels)), SEED)
    measured: dict[str, float] = {}
    for name, found in {"clusters": ours, **others}.items():
        measured[f"unlabelled_{name}_auc"], measured[f"unlabelled_{name}_f1"] = auc_and_f1(found, labels)
    return measured


def _beside_champion(
    model: ClusterModel, window: pd.DataFrame, columns: Sequence[str], tracking: Tracking
) -> tuple[str | None, dict[str, float], Decision]:
    """(the champion's version, both models' quality on the window as metrics, whether the new one replaces it)."""
    values, labels = _values(window, columns), _labels(window)
    found = quality(model, values, labels, SEED)
    flagged = {"flagged_share": float(model.score(values).failure.mean())}
    champion = served_version(tracking)
    if champion is None:
        return None, found.metrics("") | flagged, Decision(True, "no version was served before")
    served = load(tracking, champion)
    if served.columns != model.columns:
        reason = f"version {champion} knows other columns: {', '.join(served.columns)}"
        return champion, found.metrics("") | flagged, Decision(True, reason)
    rival: Evaluation = quality(served, values, labels, SEED)
    metrics = found.metrics("") | flagged | rival.metrics("champion_")
    return champion, metrics, not_worse(found, rival, champion)


def _log(tracking: Tracking, run_id: str, fitted: Fitted, known: pd.DataFrame, metrics: dict[str, float]) -> None:
    example = known[list(fitted.model.columns)].head(_EXAMPLE_ROWS)
    signature = Signature([Input(column, numeric=True, optional=False) for column in fitted.model.columns], "long")
    tracking.log_model(sklearn.save(fitted.pipeline), example, signature, sklearn.PACKAGES)
    tracking.log_sealed_text(run_id, FILE, fitted.model.to_json())
    chosen = {"davies_bouldin_by_clusters": fitted.criterion, "metrics": metrics}
    tracking.log_text(run_id, "comparison.json", json.dumps(chosen, indent=2))


def _values(table: pd.DataFrame, columns: Sequence[str]) -> Numbers:
    return table[list(columns)].to_numpy(dtype=float)


def _labels(table: pd.DataFrame) -> Numbers:
    return table["failure"].to_numpy(dtype=float)
