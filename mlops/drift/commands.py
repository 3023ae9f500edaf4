"""Compare the newest rows of a dataset with its reference: drift, column by column, and anomalies."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mlops import datasets, measure
from mlops.data_quality.batch import Batch, batch_options
from mlops.data_quality.findings import ALL_COLUMNS, Alert
from mlops.datasets.declaration import EVENT_TIME, Label
from mlops.result import Result
from mlops.stores.dataset_files import DatasetFiles
from mlops.stores.object_store import data_bucket

if TYPE_CHECKING:
    import polars as pl

    from mlops.drift.reference import Reference

_EXAMPLES = 5  # strange rows that the report shows
_FRACTION = 0.6  # of the rows, the earliest, are the reference until a model is put into production
_LEAST_ROWS = 30  # of a batch; the share of strange rows among fewer says little


def compare(*, dataset: str, data: str, level: float, effect_threshold: float) -> Result:
    """Compares the newest rows with the reference, column by column; what drifted is told of and fails nothing."""
    from mlops.drift import comparison
    from mlops.drift.columns import comparable
    from mlops.drift.reference import slices
    from mlops.drift.sketch import marks_of, sketch

    batch = Batch.read(dataset, data)
    reference = _reference(batch)
    counted = sketch(slices(batch.table.select(comparable(batch.declared))), marks_of(reference.sketches))
    compared = comparison.compare(reference.sketches, counted, level=level, effect_threshold=effect_threshold)
    alerts = [Alert("drift", one.column, one.effect, effect_threshold, one.text) for one in compared if one.drifted]
    details = {
        "level": level,
        "effect_threshold": effect_threshold,
        "reference": _about(reference),
        "columns": [one.as_json() for one in compared],
    }
    for one in compared:
        measure.gauge("maestro_drift_effect", one.effect, dataset=dataset, column=one.column)
    result = batch.leave("drift", alerts, details)
    drifted = [alert.column for alert in alerts]
    return {**result, "drifted": drifted, "tested": len(compared), "reference": reference.name}


def anomalies(*, dataset: str, data: str, level: float, excess_threshold: float) -> Result:
    """Scores the newest rows with an Isolation Forest of the reference; too many strange ones are told of."""
    import polars as pl

    from mlops.drift import reference as references
    from mlops.drift.anomalies import detect
    from mlops.drift.columns import comparable

    batch = Batch.read(dataset, data)
    declared, reference, rows = batch.declared, _reference(batch), batch.table
    if EVENT_TIME in rows.collect_schema():
        rows = rows.sort(EVENT_TIME, maintain_order=True)
    watched = rows.select(comparable(declared))
    sample = references.sample(data_bucket(), declared)
    found = detect(sample, references.slices(watched), reference.sketches, declared.label)
    excess, count = found.excess, len(found.scores)
    strangest = pl.Series(found.scores).arg_sort().head(_EXAMPLES)
    details = {
        "rate": excess.rate,
        "expected": excess.expected,
        "p": excess.p,
        "level": level,
        "threshold": excess_threshold,
        "design_effect": excess.design_effect,
        "contamination": found.contamination,
        "label_share": _positive_share(watched, declared.label),
        "reference": _about(reference),
        "edges": found.edges,
        "reference_scores": found.reference,
        "batch_scores": found.batch,
        "examples": _examples(rows.select(pl.all().gather(strangest)).collect()),
    }
    alerts = []
    if excess.share >= excess_threshold and excess.p <= level and count >= _LEAST_ROWS:
        text = f"{excess.rate:.2%} of {count:,} rows are anomalous, {excess.expected:.2%} of the reference are"
        alerts.append(Alert("anomalies", ALL_COLUMNS, excess.share, excess_threshold, text))
    measure.gauge("maestro_anomaly_rate", excess.rate, dataset=dataset)
    measure.gauge("maestro_anomaly_rate_expected", excess.expected, dataset=dataset)
    result = batch.leave("anomalies", alerts, details)
    rates = {"rate": round(excess.rate, 6), "expected": round(excess.expected, 6), "p": round(excess.p, 6)}
    return {**result, **rates, "reference": reference.name}


def reference(*, dataset: str, fraction: float) -> Result:
    """Stores the earliest part of a dataset as the reference, until another model of it is put into production."""
    from mlops.drift import reference as references

    declared, store = datasets.get(dataset), data_bucket()
    raw = DatasetFiles(store).read(declared)
    made = references.store_earliest(store, declared, raw, fraction)
    return {"reference": made.name, **_about(made)}


def _reference(batch: Batch) -> Reference:
    from mlops.drift import reference as references

    store = data_bucket()
    return references.current(store, batch.declared, DatasetFiles(store).read, _FRACTION)


def _about(reference: Reference) -> dict[str, Any]:
    resolution = max((getattr(one, "resolution", 0.0) for one in reference.sketches.values()), default=0.0)
    return {**reference.about, "name": reference.name, "resolution": resolution, "made_now": reference.made_now}


def _positive_share(watched: pl.LazyFrame, label: Label) -> float | None:
    """Of the rows that have a label, those of which its rule holds; None where there are none, or no rule."""
    import polars as pl

    if label.kind != "binary":
        return None
    share: float | None = watched.select((pl.col(label.column) == label.rule).mean()).collect().item()
    return share


def _examples(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON. Whatever a value is, it is shown as text."""
    named = [*([EVENT_TIME] if EVENT_TIME in rows.columns else []), *(n for n in rows.columns if n != EVENT_TIME)]
    return [{name: str(value) for name, value in row.items()} for row in rows.select(named).iter_rows(named=True)]


def _compare_options(parser: argparse.ArgumentParser) -> None:
    batch_options(parser)
    _level_option(parser, "in any column")
    parser.add_argument(
        "--effect-threshold", type=float, required=True, help="the least share of rows that lie elsewhere to tell of"
    )


def _anomalies_options(parser: argparse.ArgumentParser) -> None:
    batch_options(parser)
    _level_option(parser, "where the rate is the reference's")
    parser.add_argument(
        "--excess-threshold", type=float, required=True, help="the least share of rows above the reference's to tell of"
    )


def _level_option(parser: argparse.ArgumentParser, where: str) -> None:
    parser.add_argument("--level", type=float, default=0.01, help=f"of a false alarm {where} (%(default)s)")


def _reference_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--fraction", type=float, default=_FRACTION, help="of the rows, the earliest (%(default)s)")


COMMANDS = {
    "compare": (compare, _compare_options),
    "anomalies": (anomalies, _anomalies_options),
    "reference": (reference, _reference_options),
}
