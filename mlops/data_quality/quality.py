"""Whether the values of a table are good: none missing, none repeated, all in range, the newest not too old.

What is expected follows from the dataset's declaration.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from mlops.data_quality.checks import Judgement, judge
from mlops.data_quality.expectations import of_rows, of_values
from mlops.data_quality.findings import ALL_COLUMNS, Alert
from mlops.data_quality.validate import interval
from mlops.data_quality.values import Values
from mlops.datasets.declaration import EVENT_TIME, Dataset

_CADENCES = 2  # of the newest event: new rows may be late by as long as they take
_FRESHNESS = "freshness"


@dataclass(frozen=True)
class Check:
    """One expectation: `value` is a share of the rows, but for freshness the age of the newest event in hours."""

    name: str
    column: str
    value: float
    threshold: float
    passed: bool

    @property
    def alert(self) -> Alert:
        if self.name == _FRESHNESS:
            text = f"the newest event is {self.value:,.1f} h old, {self.threshold:g} h are allowed"
        else:
            where = "" if self.column == ALL_COLUMNS else f"column {self.column!r}: "
            text = f"{where}{self.name}, {self.value:.2%} of the rows, {self.threshold:.2%} allowed"
        return Alert("quality", self.column, self.value, self.threshold, text)


def check(rows: pl.LazyFrame, dataset: Dataset) -> list[Check]:
    """All checks of the values of a table that has the declared columns."""
    expectations = [
        *(expectation for column in dataset.columns for expectation in of_values(column)),
        *of_rows(dataset),
    ]
    return [_read(judgement, dataset) for judgement in judge(rows, dataset, expectations)]


def freshness(dataset: Dataset, newest: datetime | None, max_age: float | None, now: datetime) -> Check | str:
    """Whether the newest event is recent enough, or why that is not checked.

    max_age: hours; 0 for any age; None for that of the declaration, twice its cadence.
    """
    if dataset.event_time is None:
        return "Freshness is not checked: the set has no event times."
    if max_age is None:
        if dataset.cadence is None:
            return "Freshness is not checked: by its declaration (cadence=None) nothing is added to the set."
        max_age = _CADENCES * dataset.cadence / timedelta(hours=1)
    if not max_age:
        return "Freshness is not checked: the greatest age is given as 0."
    if newest is None:
        return "Freshness is not checked: no row of the window has a time."
    age = (now - newest) / timedelta(hours=1)
    return Check(_FRESHNESS, EVENT_TIME, age, max_age, age <= max_age)


def missing_shares(rows: pl.LazyFrame, dataset: Dataset) -> dict[str, float]:
    """The share of missing values of each declared column, also where they are allowed."""
    schema = rows.collect_schema()
    clean = [Values(column, schema[column.name]).clean for column in dataset.columns]
    found = rows.select(clean).select(pl.all().null_count() / pl.len()).collect(engine="streaming")
    return {name: share or 0.0 for name, share in found.row(0, named=True).items()}


def _read(judgement: Judgement, dataset: Dataset) -> Check:
    expectation, result = judgement.expectation, judgement.result
    column, share = expectation.kwargs.get("column"), (result["unexpected_percent"] or 0.0) / 100
    match expectation.type:
        case "expect_column_values_to_not_be_null":
            return Check("missing values", str(column), share, 0.0, judgement.success)
        case "expect_column_values_to_be_between":
            between = interval(expectation.kwargs["min_value"], expectation.kwargs["max_value"])
            name = f"values outside of {between}" if between else "infinite values"
            return Check(name, str(column), share, 0.0, judgement.success)
        case "expect_column_values_to_be_in_set":
            return Check("values that are not declared", str(column), share, 0.0, judgement.success)
        case "expect_column_values_to_be_unique" | "expect_compound_columns_to_be_unique":
            return Check("repeated rows", ALL_COLUMNS, share, dataset.duplicates or 0.0, judgement.success)
    raise AssertionError(f"no words for {expectation.type}")
