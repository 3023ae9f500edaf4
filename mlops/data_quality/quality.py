"""Whether the values of a table are good: none missing, none repeated, all in range, the newest not too old.

Great Expectations judges; what is expected follows from the dataset's declaration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.expectations.expectation import Expectation

from mlops.data_quality.expectations import judge, of_rows, of_values
from mlops.data_quality.findings import ALL_COLUMNS, Alert
from mlops.datasets.declaration import EVENT_TIME, Dataset

_AGE = "hours since the event"
_FUTURE = 1.0  # hours that a sender's clock may be ahead


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
        if self.name == "freshness":
            text = f"the newest event is {self.value:,.1f} h old, {self.threshold:g} h are allowed"
            if self.value < 0:
                text = f"the newest event lies {-self.value:,.1f} h in the future: a sender's clock is wrong"
        else:
            where = "" if self.column == ALL_COLUMNS else f"column {self.column!r}: "
            text = f"{where}{self.name}, {self.value:.2%} of the rows, {self.threshold:.2%} allowed"
        return Alert("quality", self.column, self.value, self.threshold, text)


def check(table: pd.DataFrame, dataset: Dataset, *, max_age: float, now: datetime) -> list[Check]:
    """All checks of the table, which has the declared columns. max_age: hours; 0 leaves freshness unchecked."""
    checked = _conform(table, dataset)
    if max_age and EVENT_TIME in checked:
        checked[_AGE] = (now - checked[EVENT_TIME]).dt.total_seconds() / 3600
    expectations: list[Expectation] = [
        *(expectation for column in dataset.columns for expectation in of_values(column)),
        *of_rows(dataset),
    ]
    if _AGE in checked:
        expectations.append(gxe.ExpectColumnMinToBeBetween(column=_AGE, min_value=-_FUTURE, max_value=max_age))
    return [_read(entry, dataset) for entry in judge(checked, dataset, expectations)]


def missing_shares(table: pd.DataFrame, dataset: Dataset) -> dict[str, float]:
    """The share of missing values of each declared column, also where they are allowed."""
    return {column.name: float(table[column.name].isna().mean()) for column in dataset.columns}


def _conform(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """One text in a file of numbers makes its column text; the schema's check names it, here the others count."""
    numbers = {c.name: pd.to_numeric(table[c.name], errors="coerce") for c in dataset.columns if c.numeric}
    return table.assign(**numbers)


def _read(entry: Mapping[str, Any], dataset: Dataset) -> Check:
    config, result = entry["expectation_config"], entry["result"]
    kwargs, passed = config["kwargs"], bool(entry["success"])
    if "exception_info" in entry and not result:
        raise RuntimeError(f"{config['type']} could not be checked: {entry['exception_info']}")
    share = float(result.get("unexpected_percent") or 0.0) / 100
    match config["type"]:
        case "expect_column_values_to_not_be_null":
            return Check("missing values", kwargs["column"], share, 0.0, passed)
        case "expect_column_values_to_be_between":
            low, high = (_bound(kwargs.get(bound)) for bound in ("min_value", "max_value"))
            return Check(f"values outside of [{low}, {high}]", kwargs["column"], share, 0.0, passed)
        case "expect_column_values_to_be_in_set":
            return Check("values that are not declared", kwargs["column"], share, 0.0, passed)
        case "expect_compound_columns_to_be_unique":
            return Check("repeated rows", ALL_COLUMNS, share, dataset.duplicates or 0.0, passed)
        case "expect_column_min_to_be_between":
            return Check("freshness", EVENT_TIME, float(result["observed_value"]), kwargs["max_value"], passed)
    raise AssertionError(f"no words for {config['type']}")


def _bound(value: float | None) -> str:
    return "..." if value is None else f"{value:,.10g}"
