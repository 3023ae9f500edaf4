"""Checks a whole table against its dataset's declaration, and says in words what failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mlops.data_quality.expectations import judge
from mlops.data_quality.suite import conform, suite
from mlops.datasets.declaration import LABEL, Dataset

_SHOWN = 3  # examples of unexpected values in a message
# The first of these that a column fails explains its other failures.
_FIRST_CAUSES = ("expect_column_to_exist", "expect_column_values_to_be_in_type_list")


@dataclass(frozen=True)
class ValidationResult:
    """failures: one readable line each; expectations: how many were checked."""

    expectations: int
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures


def check(table: pd.DataFrame, dataset: Dataset, report: Path) -> ValidationResult:
    """Checks the table against the declaration and writes Data Docs, a site with `index.html`, into `report`."""
    results = judge(conform(table, dataset), dataset, suite(dataset), report)
    return ValidationResult(len(results), tuple(summary(results, dataset, len(table))))


def summary(results: Sequence[Mapping[str, Any]], dataset: Dataset, rows: int) -> list[str]:
    """One line for each failure that is a cause: an empty table, or a missing column, explains what follows from it."""
    failed = [(entry["expectation_config"], entry["result"]) for entry in results if not entry["success"]]
    if rows == 0:
        return [f"the table is empty: 0 rows, at least {dataset.rows[0]:,} expected"]
    explained = {
        config["kwargs"].get("column"): kind
        for kind in reversed(_FIRST_CAUSES)
        for config, _ in failed
        if config["type"] == kind
    }
    lines = []
    for config, result in failed:
        kind, columns = config["type"], _columns(config, dataset)
        if all(explained.get(column, kind) == kind for column in columns):
            lines.append(_line(kind, config["kwargs"], result, dataset, rows))
    return lines


def _columns(config: Mapping[str, Any], dataset: Dataset) -> list[str]:
    """The raw columns that an expectation is about."""
    column = config["kwargs"].get("column")
    if column == LABEL:
        return [dataset.label.column]
    return [column] if column else list(config["kwargs"].get("column_list", ()))


def _line(kind: str, kwargs: Mapping[str, Any], result: Mapping[str, Any], dataset: Dataset, rows: int) -> str:
    column, count = kwargs.get("column"), result.get("unexpected_count", 0)
    seen = ", ".join(
        repr(value) for value in list(dict.fromkeys(map(str, result.get("partial_unexpected_list") or ())))[:_SHOWN]
    )
    found = f"{count:,} of {rows:,} values"
    match kind:
        case "expect_column_to_exist":
            return f"column {column!r} is missing"
        case "expect_column_values_to_be_in_type_list":
            declared = dataset[str(column)].kind
            article = "an" if declared[0] in "ai" else "a"
            return f"column {column!r} is declared {article} {declared}: {found} are not, such as {seen}"
        case "expect_column_values_to_not_be_null":
            return f"column {column!r} must not be empty: {found} are missing"
        case "expect_column_values_to_be_between":
            low, high = (kwargs.get(bound) for bound in ("min_value", "max_value"))
            return f"column {column!r} must lie in [{_bound(low)}, {_bound(high)}]: {found} do not, such as {seen}"
        case "expect_column_values_to_be_in_set":
            known = len(kwargs["value_set"])
            return f"column {column!r} must be one of {known} known values: {found} are not, such as {seen}"
        case "expect_compound_columns_to_be_unique":
            allowed = f"{dataset.duplicates or 0:.1%}"
            return (
                f"rows repeat: {count:,} of {rows:,} share {_listed(kwargs['column_list'])} with another, {allowed} may"
            )
        case "expect_column_distinct_values_to_contain_set":
            return f"the label has one class only: both of {dataset.label.rule} and its opposite must occur"
        case "expect_table_row_count_to_be_between":
            return f"the table has {rows:,} rows: {dataset.rows[0]:,} to {dataset.rows[1]:,} expected"
    raise AssertionError(f"no words for {kind}")


def _bound(value: float | None) -> str:
    return "..." if value is None else f"{value:,.10g}"


def _listed(columns: Sequence[str]) -> str:
    return " and ".join(columns) if len(columns) <= _SHOWN else f"all of their {len(columns)} columns"
