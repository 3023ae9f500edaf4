"""From a validated table to a clean one. Each row is handled by the declaration alone, whatever the other rows hold."""

import polars as pl

from mlops.datasets.declaration import EVENT_TIME, LABEL, Column, Dataset

_ROW, _HASH = "row", "hash"  # columns that are added and taken away again


def preprocess(rows: pl.LazyFrame, dataset: Dataset) -> pl.LazyFrame:
    """Rows in order of time, of repeated ones the latest, with declared types; what is missing stays missing.

    Adds the column `label` (0 or 1, a class, or a number) and drops the rows that have none. Columns: the declared
    ones, `event_time` where the dataset has one, `label`. Rows that lie in order of time and do not repeat are not held
    at once.
    """
    ordered = _in_order(rows)
    if dataset.duplicates is not None:
        ordered = _latest(ordered, dataset.row_key)
    times = [pl.col(EVENT_TIME)] if EVENT_TIME in rows.collect_schema() else []
    typed = [_typed(column) for column in dataset.columns]
    return ordered.select(*typed, *times, dataset.label.expression).drop_nulls(LABEL)


def _in_order(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Rows in order of time, and as they lie where they have none or the same; those without a time come last."""
    if EVENT_TIME not in rows.collect_schema():
        return rows
    times = pl.col(EVENT_TIME).to_physical().fill_null(pl.lit(2**63 - 1))
    if rows.select((times.diff() >= 0).all()).collect().item():
        return rows
    return rows.sort(EVENT_TIME, maintain_order=True, nulls_last=True)


def _latest(rows: pl.LazyFrame, key: list[str]) -> pl.LazyFrame:
    """Of the rows that share all of the key's values the last one. Of each row a number is held, and not the row."""
    hashed = pl.struct(key).hash()
    hashes = rows.select(hashed.alias(_HASH)).collect(engine="streaming")[_HASH].sort()
    repeated = hashes.filter(hashes == hashes.shift(1)).unique()
    if repeated.is_empty():
        return rows
    numbered = rows.with_row_index(_ROW)
    alike = numbered.filter(hashed.is_in(repeated.implode())).select(_ROW, *key).collect(engine="streaming")
    earlier = alike.filter(pl.col(_ROW) != pl.col(_ROW).max().over(key))[_ROW]
    return numbered.filter(~pl.col(_ROW).is_in(earlier.implode())).drop(_ROW)


def _typed(column: Column) -> pl.Expr:
    """Numbers as Float64, everything else as String, with null for what is missing."""
    return pl.col(column.name).cast(pl.Float64 if column.numeric else pl.String)
