"""What a dataset's declaration expects of its rows, in the names that Great Expectations has for it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlops.datasets.declaration import EVENT_TIME, LABEL, Column, Dataset

LARGEST = sys.float_info.max  # a number without a bound is still finite
_TYPES = {
    "integer": ["int64", "int"],
    "number": ["float64", "int64", "float", "int"],
    "category": ["str"],
    "identifier": ["str"],
}


@dataclass(frozen=True)
class Expectation:
    """type, kwargs: as Great Expectations' configuration of it has them."""

    type: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The columns that it is about; none of an expectation of the table as such."""
        column = self.kwargs.get("column")
        return list(self.kwargs.get("column_list", ())) if column is None else [column]


def of_table(dataset: Dataset) -> list[Expectation]:
    """All of a whole table: number of rows, each column, event times, the label's classes, and repeated rows."""
    least, most = dataset.rows
    return [
        Expectation("expect_table_row_count_to_be_between", {"min_value": least, "max_value": most}),
        *(
            expectation
            for column in dataset.columns
            for expectation in (*of_presence(column), *of_values(column), *_of_any_value(column))
        ),
        *of_times(dataset),
        *_of_classes(dataset),
        *of_rows(dataset),
    ]


def of_presence(column: Column) -> list[Expectation]:
    """The column is there, and each of its values can be read as its kind."""
    return [
        Expectation("expect_column_to_exist", {"column": column.name}),
        Expectation(
            "expect_column_values_to_be_in_type_list", {"column": column.name, "type_list": _TYPES[column.kind]}
        ),
    ]


def of_values(column: Column) -> list[Expectation]:
    """Values are there, lie in the declared range, are finite, and are among the declared ones."""
    expectations = []
    if not column.nullable:
        expectations.append(Expectation("expect_column_values_to_not_be_null", {"column": column.name}))
    low, high = column.low, column.high
    if column.kind == "number":
        low, high = (-LARGEST if low is None else low), (LARGEST if high is None else high)
    if low is not None or high is not None:
        bounds = {"min_value": low, "max_value": high}
        expectations.append(Expectation("expect_column_values_to_be_between", {"column": column.name, **bounds}))
    if column.values:
        known = {"column": column.name, "value_set": list(column.values)}
        expectations.append(Expectation("expect_column_values_to_be_in_set", known))
    return expectations


def of_times(dataset: Dataset) -> list[Expectation]:
    """Each row has an event time: what its column holds can be read as one."""
    if dataset.event_time is None:
        return []
    return [Expectation("expect_column_values_to_not_be_null", {"column": EVENT_TIME})]


def of_rows(dataset: Dataset) -> list[Expectation]:
    """No more rows share their key than may."""
    if dataset.duplicates is None:
        return []
    mostly, key = 1 - dataset.duplicates, dataset.row_key
    if len(key) == 1:
        return [Expectation("expect_column_values_to_be_unique", {"column": key[0], "mostly": mostly})]
    return [Expectation("expect_compound_columns_to_be_unique", {"column_list": key, "mostly": mostly})]


def _of_classes(dataset: Dataset) -> list[Expectation]:
    """Each class occurs: none is learned of which there is no row."""
    label = dataset.label
    if label.kind == "regression":
        return []
    classes = [0, 1] if label.kind == "binary" else list(dataset[label.column].values)
    return [Expectation("expect_column_distinct_values_to_contain_set", {"column": LABEL, "value_set": classes})]


def _of_any_value(column: Column) -> list[Expectation]:
    """A column whose values may be missing has one at least: of none nothing is learned."""
    if not column.nullable:
        return []
    kwargs = {"column": column.name, "min_value": 0, "strict_min": True}
    return [Expectation("expect_column_proportion_of_non_null_values_to_be_between", kwargs)]
