"""Compare the newest rows of a dataset with its reference: drift, column by column, and anomalies."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mlops import datasets
from mlops.data_quality.batch import Batch, batch_options
from mlops.data_quality.findings import ALL_COLUMNS, Alert
from mlops.datasets.declaration import EVENT_TIME
from mlops.drift import reference as references
from mlops.result import Result
from mlops.stores.dataset_files import DatasetFiles
from mlops.stores.metrics import Statsd
from mlops.stores.object_store import data_bucket

if TYPE_CHECKING:
    import pandas as pd

_EXAMPLES = 5  # strange rows that the report shows
_LEAST_ROWS = 30  # of a batch; the share of strange rows among fewer says little


def compare(*, dataset: str, data: str, level: float, effect_threshold: float) -> Result:
    """Compares the newest rows with the reference, column by column; what drifted is told of and fails nothing."""
    from mlops.drift import comparison
    from mlops.drift.columns import comparable, scales

    batch = Batch.read(dataset, data)
    newest = batch.table.collect().to_pandas()
    reference, about = _reference(batch)
    compared = comparison.compare(
        comparable(reference, batch.declared),
        comparable(newest, batch.declared),
        scales(batch.declared),
        level=level,
        effect_threshold=effect_threshold,
    )
    alerts = [
        Alert("drift", one.column, one.effect, effect_threshold, f"drifted by a {one.effect_name} of {one.effect:.3f}")
        for one in compared
        if one.drifted
    ]
    details = {
        "level": level,
        "effect_threshold": effect_threshold,
        "reference": about,
        "columns": [one.as_json() for one in compared],
    }
    metrics = Statsd.from_environment()
    for one in compared:
        metrics.gauge("drift_effect", one.effect, dataset=dataset, column=one.column)
    result = batch.leave("drift", alerts, details)
    return {**result, "drifted": [alert.column for alert in alerts], "tested": len(compared)}


def anomalies(*, dataset: str, data: str, rate_threshold: float) -> Result:
    """Scores the newest rows with an Isolation Forest of the reference; too many strange ones are told of."""
    from mlops.drift.anomalies import contamination, detect
    from mlops.drift.columns import comparable

    batch = Batch.read(dataset, data)
    newest = batch.table.collect().to_pandas()
    declared = batch.declared
    reference, about = _reference(batch)
    share = contamination(declared.label.of(reference), rate_threshold)
    found = detect(comparable(reference, declared), comparable(newest, declared), declared, share)
    labels = declared.label.of(newest).dropna()
    details = {
        "rate": found.rate,
        "threshold": rate_threshold,
        "contamination": found.contamination,
        "label_share": float(labels.mean()) if len(labels) else None,
        "reference": about,
        "edges": found.edges,
        "reference_scores": found.reference,
        "batch_scores": found.batch,
        "examples": _examples(newest.loc[found.scores.sort_values().index[:_EXAMPLES]]),
    }
    alerts = []
    if found.rate > rate_threshold and len(newest) >= _LEAST_ROWS:
        text = f"{found.rate:.2%} of {len(newest):,} rows are anomalous"
        alerts.append(Alert("anomalies", ALL_COLUMNS, found.rate, rate_threshold, text))
    Statsd.from_environment().gauge("anomaly_rate", found.rate, dataset=dataset)
    result = batch.leave("anomalies", alerts, details)
    return {**result, "rate": round(found.rate, 6), "contamination": round(found.contamination, 6)}


def reference(*, dataset: str, fraction: float) -> Result:
    """Stores the earliest part of a dataset as what new rows are compared with from now on."""
    declared, store = datasets.get(dataset), data_bucket()
    raw = DatasetFiles(store).read(declared)
    table = references.make(raw, declared, fraction)
    references.write(store, table, declared)
    return {"reference": references.key(declared), **references.about(table)}


def _reference(batch: Batch) -> tuple[pd.DataFrame, dict[str, Any]]:
    table, made_now = references.stored(data_bucket(), batch.declared, DatasetFiles(data_bucket()).read)
    return table, {**references.about(table), "made_now": made_now}


def _examples(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON. Whatever a value is, it is shown as text."""
    named = [EVENT_TIME, *(name for name in rows.columns if name != EVENT_TIME)] if EVENT_TIME in rows else rows.columns
    return [{str(name): str(row[name]) for name in named} for _, row in rows.iterrows()]


def _compare_options(parser: argparse.ArgumentParser) -> None:
    batch_options(parser)
    parser.add_argument("--level", type=float, default=0.01, help="of a false alarm in any column (%(default)s)")
    parser.add_argument(
        "--effect-threshold", type=float, required=True, help="least KS distance or population stability index"
    )


def _anomalies_options(parser: argparse.ArgumentParser) -> None:
    batch_options(parser)
    parser.add_argument("--rate-threshold", type=float, required=True, help="share of anomalous rows to tell of")


def _reference_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument(
        "--fraction", type=float, default=references.FRACTION, help="of the rows, the earliest (%(default)s)"
    )


COMMANDS = {
    "compare": (compare, _compare_options),
    "anomalies": (anomalies, _anomalies_options),
    "reference": (reference, _reference_options),
}
