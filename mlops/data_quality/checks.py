"""Expectations judged in one pass over a table: its columns are read once, a batch of rows at a time (polars).

What is counted is what Great Expectations counts, and is told in the same words: how many of which values are
unexpected, and the first of these. Nothing of it grows with the rows but the 8 bytes a key of `uniqueness`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from mlops.data_quality.expectations import Expectation
from mlops.data_quality.uniqueness import KeyHashes, hash_of, repeated
from mlops.data_quality.values import Values
from mlops.datasets.declaration import EVENT_TIME, LABEL, Column, Dataset, Label

_SHOWN = 20  # unexpected values that a result holds: as many as Great Expectations shows
_BATCH = 1 << 17  # rows
_SIMPLE = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Judgement:
    """Whether a table is as expected; result: what Great Expectations says of it in its format SUMMARY."""

    expectation: Expectation
    success: bool
    result: Mapping[str, Any]


def judge(rows: pl.LazyFrame, dataset: Dataset, expectations: Sequence[Expectation]) -> list[Judgement]:
    """A judgement for each expectation. One of a column that the table lacks is not met."""
    schema = rows.collect_schema()
    timed = any(EVENT_TIME in expectation.columns for expectation in expectations)
    columns = [*dataset.columns, *([Column(EVENT_TIME, "identifier")] if timed else [])]
    values = {column.name: Values(column, schema[column.name]) for column in columns if column.name in schema}
    checks = [_compiled(expectation, values, dataset) for expectation in expectations]
    read = [pl.col(name) for name in values] or [pl.nth(0)]  # of some column, for the number of rows
    seen = _look(rows.select(read), [column.clean for column in values.values()], checks)
    return [Judgement(check.expectation, *check.conclude(seen)) for check in checks]


@dataclass(frozen=True)
class _Seen:
    """Of all rows: how many there are, how many of them each count found, and the examples of each check."""

    rows: int
    counts: Mapping[str, int]
    examples: Mapping[str, Sequence[Any]]


_Conclusion = tuple[bool, dict[str, Any]]


@dataclass(frozen=True)
class _Check:
    """An expectation, compiled.

    counts: Boolean or null expressions by their names; the rows that are true are counted.
    shown: what is shown of the rows that a count found.
    key: what rows share of which one repeats another, among those that `counts` leaves out. `shown` then is of these.
    """

    expectation: Expectation
    conclude: Callable[[_Seen], _Conclusion]
    counts: Mapping[str, pl.Expr] = field(default_factory=dict)
    shown: Mapping[str, pl.Expr] = field(default_factory=dict)
    key: Sequence[pl.Expr] = ()


def _compiled(expectation: Expectation, values: Mapping[str, Values], dataset: Dataset) -> _Check:
    columns = [dataset.label.column if name == LABEL else name for name in expectation.columns]
    if not all(name in values for name in columns):
        return _Check(expectation, lambda seen: (False, {}))
    match expectation.type:
        case "expect_table_row_count_to_be_between":
            return _of_row_count(expectation)
        case "expect_column_to_exist":
            return _Check(expectation, lambda seen: (True, {}))
        case "expect_column_distinct_values_to_contain_set":
            return _of_classes(expectation, dataset.label)
        case "expect_column_values_to_be_unique" | "expect_compound_columns_to_be_unique":
            return _of_keys(expectation, columns, values)
    return _of_column(expectation, columns[0], values[columns[0]])


def _of_column(expectation: Expectation, column: str, values: Values) -> _Check:
    kwargs = expectation.kwargs
    match expectation.type:
        case "expect_column_values_to_not_be_null":
            return _of_missing(expectation, column)
        case "expect_column_proportion_of_non_null_values_to_be_between":
            return _of_any_value(expectation, column)
        case "expect_column_values_to_be_in_type_list":
            return _of_values(expectation, column, values.mistyped)
        case "expect_column_values_to_be_between":
            return _of_values(expectation, column, values.outside(kwargs["min_value"], kwargs["max_value"]))
        case "expect_column_values_to_be_in_set":
            return _of_values(expectation, column, values.unknown(kwargs["value_set"]))
    raise AssertionError(f"no check for {expectation.type}")


def _of_row_count(expectation: Expectation) -> _Check:
    least, most = expectation.kwargs["min_value"], expectation.kwargs["max_value"]
    return _Check(expectation, lambda seen: (least <= seen.rows <= most, {"observed_value": seen.rows}))


def _missing(columns: Sequence[str]) -> dict[str, pl.Expr]:
    """Counts the rows in which all the columns are missing."""
    expression = pl.col(columns[0]).is_null()
    for column in columns[1:]:
        expression &= pl.col(column).is_null()
    return {f"missing {columns}": expression}


def _of_missing(expectation: Expectation, column: str) -> _Check:
    counts = _missing([column])
    (name,) = counts

    def conclude(seen: _Seen) -> _Conclusion:
        count = seen.counts[name]
        return count == 0, _unexpected(seen.rows, count, [None] * min(count, _SHOWN))

    return _Check(expectation, conclude, counts)


def _of_any_value(expectation: Expectation, column: str) -> _Check:
    counts = _missing([column])
    (name,) = counts

    def conclude(seen: _Seen) -> _Conclusion:
        share = 1 - seen.counts[name] / seen.rows if seen.rows else 0.0
        return share > 0, {"observed_value": share}

    return _Check(expectation, conclude, counts)


def _of_values(expectation: Expectation, column: str, wrong: pl.Expr | None) -> _Check:
    """wrong: of the values that are there; None where none can be."""
    counts = _missing([column])
    (missing,) = counts
    name = f"{expectation.type} {column}"
    shown = {}
    if wrong is not None:
        counts[name], shown[name] = wrong, pl.col(column)

    def conclude(seen: _Seen) -> _Conclusion:
        count = seen.counts.get(name, 0)
        result = _unexpected(seen.rows, count, seen.examples.get(name, ()), missing=seen.counts[missing])
        return count == 0, result

    return _Check(expectation, conclude, counts, shown)


def _of_classes(expectation: Expectation, label: Label) -> _Check:
    counts = {f"class {value}": label.expression == value for value in expectation.kwargs["value_set"]}

    def conclude(seen: _Seen) -> _Conclusion:
        lacking = [value for value in expectation.kwargs["value_set"] if not seen.counts[f"class {value}"]]
        return not lacking, {
            "observed_value": None,
            "missing_count": len(lacking),
            "partial_missing_list": lacking,
        }

    return _Check(expectation, conclude, counts)


def _of_keys(expectation: Expectation, columns: Sequence[str], values: Mapping[str, Values]) -> _Check:
    counts = _missing(columns)
    (missing,) = counts
    name = f"repeated {columns}"

    def conclude(seen: _Seen) -> _Conclusion:
        absent, count = seen.counts[missing], seen.counts[name]
        considered = seen.rows - absent
        success = not considered or (considered - count) / considered >= expectation.kwargs["mostly"]
        return success, _unexpected(seen.rows, count, seen.examples.get(name, ()), missing=absent)

    identity = [part for column in columns for part in values[column].identity]
    shown = pl.col(columns[0]) if len(columns) == 1 else pl.struct(columns)
    return _Check(expectation, conclude, counts, {name: shown}, identity)


def _unexpected(rows: int, count: int, examples: Sequence[Any], missing: int | None = None) -> dict[str, Any]:
    """What is said of a check that looks at each value. missing: rows that it does not judge, if it tells of them."""
    considered = rows - (missing or 0)
    share = 100 * count / considered if considered else None
    result: dict[str, Any] = {"element_count": rows, "unexpected_count": count, "unexpected_percent": share}
    result["partial_unexpected_list"] = list(examples)
    if missing is not None:
        result |= {
            "missing_count": missing,
            "missing_percent": 100 * missing / rows if rows else None,
            "unexpected_percent_total": 100 * count / rows if rows else None,
            "unexpected_percent_nonmissing": share,
        }
    told = [tuple(example.values()) if isinstance(example, dict) else example for example in examples]
    result["partial_unexpected_counts"] = [
        {"value": value, "count": times}
        for value, times in sorted(Counter(told).most_common(), key=lambda entry: (-entry[1], str(entry[0])))
    ]
    return result


def _look(rows: pl.LazyFrame, clean: Sequence[pl.Expr], checks: Sequence[_Check]) -> _Seen:
    """The pass over the columns that are read, each of which `clean` names once."""
    counts = {name: expression for check in checks for name, expression in check.counts.items()}
    shown = {name: expression for check in checks if not check.key for name, expression in check.shown.items()}
    keys = [(check, KeyHashes()) for check in checks if check.key]
    sums: Counter[str] = Counter(dict.fromkeys(counts, 0))
    examples: dict[str, list[Any]] = {name: [] for name in shown}
    total = 0
    for raw in rows.collect_batches(chunk_size=_BATCH, lazy=True, engine="streaming"):
        total += len(raw)
        batch = raw.with_columns(clean)  # a batch at a time: done by the scan, it takes twice the memory
        found = batch.select(expression.sum().alias(name) for name, expression in counts.items()).row(0, named=True)
        sums.update(found)
        for name, listed in examples.items():
            if found[name] and len(listed) < _SHOWN:
                listed += _examples(batch.lazy(), counts[name], shown[name], _SHOWN - len(listed))
        for check, hashes in keys:
            hashes.add(_keyed(batch.lazy(), check).select(hash_of(check.key)).collect().to_series().to_numpy())
    cleaned = rows.with_columns(clean)
    for check, hashes in keys:
        ((name, key),) = check.shown.items()
        again = repeated(_keyed(cleaned, check), check.key, hashes)
        sums[name] = again.rows
        if again.hashes:
            examples[name] = _examples(_keyed(cleaned, check), hash_of(check.key).is_in(again.hashes), key, _SHOWN)
    return _Seen(total, sums, examples)


def _keyed(rows: pl.LazyFrame, check: _Check) -> pl.LazyFrame:
    """The rows that have a key."""
    (missing,) = check.counts.values()
    return rows.filter(~missing)


def _examples(rows: pl.LazyFrame, wrong: pl.Expr, shown: pl.Expr, most: int) -> list[Any]:
    found = rows.filter(wrong).select(shown.alias("value")).head(most).collect(engine="streaming")["value"].to_list()
    return [value if isinstance(value, (*_SIMPLE, dict)) else str(value) for value in found]
