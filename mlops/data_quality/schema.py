"""Whether a table has the declared columns, each of its declared type."""

from __future__ import annotations

import polars as pl

from mlops.data_quality.checks import judge
from mlops.data_quality.expectations import of_presence
from mlops.data_quality.findings import Alert
from mlops.data_quality.validate import sentence
from mlops.datasets.declaration import EVENT_TIME, Dataset


def violations(rows: pl.LazyFrame, dataset: Dataset) -> list[Alert]:
    """One for each column that is missing or holds values of another type; `value` is the share of wrong values."""
    found: dict[str, Alert] = {}
    expectations = [expectation for column in dataset.columns for expectation in of_presence(column)]
    for judgement in judge(rows, dataset, expectations):
        (column,) = judgement.expectation.columns
        if not judgement.success and column not in found:
            result = judgement.result
            share = result["unexpected_count"] / result["element_count"] if result else 1.0
            found[column] = Alert("schema", column, share, 0.0, sentence(judgement, dataset))
    return [*found.values(), *_timeless(rows, dataset, set(found))]


def _timeless(rows: pl.LazyFrame, dataset: Dataset, explained: set[str]) -> list[Alert]:
    """Rows without an event time, unless the column that the time is read from is already named."""
    if dataset.event_time is None or explained & {getattr(dataset.event_time, "column", "")}:
        return []
    has_time = EVENT_TIME in rows.collect_schema()
    timeless = pl.col(EVENT_TIME).is_null().sum() if has_time else pl.len()
    missing, count = rows.select(timeless.alias("missing"), pl.len()).collect(engine="streaming").row(0)
    if not missing:
        return []
    text = f"{missing:,} of {count:,} rows have no event time"
    return [Alert("schema", EVENT_TIME, missing / count, 0.0, text)]
