"""Whether delivered files hold what a model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import polars as pl

from mlops.datasets.declaration import Column, Dataset, SplitByKey
from mlops.datasets.parsing.columns import number
from mlops.features.contract import difference
from mlops.result import Refused
from mlops.stores.tracking import Input

_PARQUET, _TABBED = ".parquet", (".tsv", ".tab", ".inter")


@dataclass(frozen=True)
class Delivered(Dataset):
    """A data set whose files lie in a folder of their own."""

    folder: str = ""

    def object_key(self, file: str) -> str:
        """Where a file of the delivery lies in the data bucket."""
        return f"{self.folder}/{file}"


def delivered(dataset: Dataset, folder: str, names: Sequence[str], inputs: Sequence[Input]) -> Delivered:
    """How the files are read: as those of the data set are, but that nothing is joined to them.

    Raises Refused where some files are Parquet and others are not.
    """
    kinds = {_kind(name, dataset) for name in names}
    if len(kinds) > 1:
        raise Refused(f"{folder}/ has files of several kinds ({', '.join(sorted(kinds))}): deliver those of one kind")
    known = {column.name for column in dataset.columns}
    kind, more = kinds.pop(), [Column(i.name, i.kind, nullable=True) for i in inputs if i.name not in known]
    changed: dict[str, Any] = {
        "source": replace(dataset.source, file=tuple(names), format=kind, joins=()),
        "columns": (*dataset.columns, *more),
        # Rows are numbered and not ordered by time.
        "event_time": None,
        "split": SplitByKey(),
        "derived": (),
        "folder": folder,
    }
    return Delivered(**{each.name: getattr(dataset, each.name) for each in fields(dataset)} | changed)


def check(rows: pl.LazyFrame, dataset: Delivered, inputs: Sequence[Input], model: str) -> None:
    """Raises Refused, with the difference, where a column is missing, or where no value of it is of its type.

    A column that may be missing in each row may be missing as a whole. A value of another type is no difference: its
    row is put aside.
    """
    schema = rows.collect_schema()
    doubtful = [i.name for i in inputs if i.numeric and schema.get(i.name) == pl.String]
    wrong = _without_numbers(rows, doubtful, dataset) if doubtful else set()
    before, after = {}, {}
    for column in inputs:
        if column.name not in schema and not column.optional:
            before[column.name] = column.kind
        elif column.name in wrong:
            before[column.name], after[column.name] = column.kind, "text"
    if before:
        lines = difference(before, after)
        raise Refused(
            f"{dataset.folder}/ does not hold what {model} reads (-: the model, +: the files): {'; '.join(lines)}: "
            "deliver these columns, or rename them in the source of dataset " + repr(dataset.name)
        )


def value(column: Input, schema: Mapping[str, pl.DataType], dataset: Dataset) -> pl.Expr:
    """The column as the model reads it: Float64 or String, null where it is missing or no number."""
    if column.name not in schema:
        return pl.lit(None, pl.Float64 if column.numeric else pl.String).alias(column.name)
    raw = pl.col(column.name)
    if not column.numeric:
        return raw.cast(pl.String)
    if schema[column.name] == pl.String:
        return number(raw, dataset.source.decimal, dataset.source.thousands)
    found = raw.cast(pl.Float64)
    return pl.when(found.is_finite()).then(found).alias(column.name)


def reason(inputs: Sequence[Input], schema: Mapping[str, pl.DataType], dataset: Dataset) -> pl.Expr:
    """Why a row cannot be scored, a text; empty where it can."""
    causes = []
    for column in (each for each in inputs if each.name in schema):
        raw, found = pl.col(column.name), value(column, schema, dataset)
        if column.numeric:
            causes.append(pl.when(raw.is_not_null() & found.is_null()).then(pl.lit(f"{column.name} is no number")))
        if not column.optional:
            causes.append(pl.when(raw.is_null()).then(pl.lit(f"{column.name} is missing")))
    return pl.concat_str(causes, separator="; ", ignore_nulls=True) if causes else pl.lit("")


def _without_numbers(rows: pl.LazyFrame, names: Sequence[str], dataset: Delivered) -> set[str]:
    """Those of the columns that have values, and not one number among them."""
    source, found = dataset.source, {}
    for name in names:
        found[f"{name} numbers"] = number(pl.col(name), source.decimal, source.thousands).count()
        found[f"{name} values"] = pl.col(name).count()
    counts = rows.select(expression.alias(name) for name, expression in found.items()).collect().row(0, named=True)
    return {name for name in names if counts[f"{name} values"] and not counts[f"{name} numbers"]}


def _kind(name: str, dataset: Dataset) -> Literal["csv", "tsv", "parquet"]:
    if name.endswith(_PARQUET):
        return "parquet"
    if dataset.source.format != "parquet":
        return dataset.source.format
    return "tsv" if name.endswith(_TABBED) else "csv"
