"""Checks a whole table against its dataset's declaration, and says in words what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from mlops.data_quality.checks import Judgement, judge
from mlops.data_quality.expectations import LARGEST, of_table
from mlops.datasets.declaration import EVENT_TIME, LABEL, Dataset

_SHOWN = 3  # examples of unexpected values in a message
# The first of these that a column fails explains its other failures.
_FIRST_CAUSES = ("expect_column_to_exist", "expect_column_values_to_be_in_type_list")
_NOT_EMPTY = "expect_column_values_to_not_be_null"


@dataclass(frozen=True)
class Validation:
    """judgements: one for each expectation; failures: one readable line for each cause."""

    judgements: Sequence[Judgement]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures


def check(rows: pl.LazyFrame, dataset: Dataset) -> Validation:
    """Checks a table against the declaration, in one pass over it."""
    judgements = judge(rows, dataset, of_table(dataset))
    return Validation(judgements, tuple(summary(judgements, dataset)))


def summary(judgements: Sequence[Judgement], dataset: Dataset) -> list[str]:
    """One line for each failure that is a cause: an empty table, or a missing column, explains what follows from it."""
    failed = [judgement for judgement in judgements if not judgement.success]
    if any(one.result.get("observed_value") == 0 and _is_row_count(one) for one in failed):
        return [f"the table is empty: 0 rows, at least {dataset.rows[0]:,} expected"]
    explained = {
        column: kind
        for kind in reversed(_FIRST_CAUSES)
        for one in failed
        if one.expectation.type == kind
        for column in one.expectation.columns
    }
    return [
        sentence(one, dataset)
        for one in failed
        if all(explained.get(name, one.expectation.type) == one.expectation.type for name in _raw_columns(one, dataset))
        and not is_of_known_times(one, failed, dataset)
    ]


def is_of_known_times(judgement: Judgement, failed: Sequence[Judgement], dataset: Dataset) -> bool:
    """Whether it tells of rows without an event time and what failed names the column that the time is read from."""
    column = getattr(dataset.event_time, "column", "")
    return judgement.expectation.columns == [EVENT_TIME] and any(
        one.expectation.columns == [column] and one.expectation.type in (*_FIRST_CAUSES, _NOT_EMPTY) for one in failed
    )


def sentence(judgement: Judgement, dataset: Dataset) -> str:
    """What a judgement that is not met says, to people."""
    expectation, result = judgement.expectation, judgement.result
    match expectation.type:
        case "expect_table_row_count_to_be_between":
            least, most = dataset.rows
            return f"the table has {result['observed_value']:,} rows: {least:,} to {most:,} expected"
        case "expect_column_to_exist":
            return f"column {expectation.columns[0]!r} is missing"
        case "expect_column_proportion_of_non_null_values_to_be_between":
            return f"column {expectation.columns[0]!r} holds no value: deliver it, or take it out of the declaration"
        case "expect_column_distinct_values_to_contain_set":
            if dataset.label.kind == "binary":
                return f"the label has one class only: both of {dataset.label.rule} and its opposite must occur"
            lacking = ", ".join(map(repr, result["partial_missing_list"]))
            return f"the label has no row of {lacking}: deliver some, or declare values that occur"
        case "expect_column_values_to_be_unique" | "expect_compound_columns_to_be_unique":
            key, allowed = _listed(expectation.columns), f"{dataset.duplicates or 0:.1%}"
            count, rows = result["unexpected_count"], result["element_count"]
            return f"rows repeat: {count:,} of {rows:,} share {key} with another, {allowed} may"
    if expectation.columns == [EVENT_TIME]:
        if not result:
            return "the table has no event times"
        return f"{result['unexpected_count']:,} of {result['element_count']:,} rows have no event time"
    return _of_values(judgement, dataset)


def _of_values(judgement: Judgement, dataset: Dataset) -> str:
    column, kwargs, result = judgement.expectation.columns[0], judgement.expectation.kwargs, judgement.result
    examples = list(dict.fromkeys(map(str, result["partial_unexpected_list"])))[:_SHOWN]
    seen = ", ".join(map(repr, examples))
    found = f"{result['unexpected_count']:,} of {result['element_count']:,} values"
    match judgement.expectation.type:
        case "expect_column_values_to_be_in_type_list":
            declared = dataset[column].kind
            article = "an" if declared[0] in "ai" else "a"
            return f"column {column!r} is declared {article} {declared}: {found} are not, such as {seen}"
        case "expect_column_values_to_not_be_null":
            return f"column {column!r} must not be empty: {found} are missing"
        case "expect_column_values_to_be_between":
            between = interval(kwargs["min_value"], kwargs["max_value"])
            if between is None:
                return f"column {column!r} must be finite: {found} are not, such as {seen}"
            return f"column {column!r} must lie in {between}: {found} do not, such as {seen}"
        case "expect_column_values_to_be_in_set":
            known = len(kwargs["value_set"])
            return f"column {column!r} must be one of {known} known values: {found} are not, such as {seen}"
    raise AssertionError(f"no words for {judgement.expectation.type}")


def interval(low: float | None, high: float | None) -> str | None:
    """The bounds of values, in words; None for those that any finite number lies between."""
    if (low, high) == (-LARGEST, LARGEST):
        return None
    bounds = ["..." if bound is None or abs(bound) == LARGEST else f"{bound:,.10g}" for bound in (low, high)]
    return f"[{bounds[0]}, {bounds[1]}]"


def _is_row_count(judgement: Judgement) -> bool:
    return judgement.expectation.type == "expect_table_row_count_to_be_between"


def _raw_columns(judgement: Judgement, dataset: Dataset) -> list[str]:
    """The columns of the table that a judgement is about."""
    return [dataset.label.column if name == LABEL else name for name in judgement.expectation.columns]


def _listed(columns: Sequence[str]) -> str:
    return " and ".join(columns) if len(columns) <= _SHOWN else f"all of their {len(columns)} columns"
