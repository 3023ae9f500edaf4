"""The columns whose distribution is watched, and how they are read for that."""

from __future__ import annotations

from typing import Literal

import polars as pl

from mlops.datasets.declaration import Dataset, Label

Scale = Literal["number", "category"]


def scales(dataset: Dataset) -> dict[str, Scale]:
    """The columns whose distribution should stay as it was, and how each is compared: the features and the label.

    The entity is left out: that there are new users, say, is growth and no drift.
    """
    watched: dict[str, Scale] = {
        column.name: "number" if column.numeric else "category"
        for column in dataset.features
        if column.name != dataset.entity
    }
    numeric = dataset.label.kind == "regression"
    return watched | {dataset.label.column: "number" if numeric else "category"}


def comparable(dataset: Dataset) -> list[pl.Expr]:
    """The columns of `scales` out of a raw table: a number is Float64, a category String, the label its rule or not.

    What is missing, NaN, and in a column of numbers what is none, is null.
    """
    return [
        _label(dataset.label)
        if name == dataset.label.column and dataset.label.kind == "binary"
        else _number(name)
        if scale == "number"
        else _text(name)
        for name, scale in scales(dataset).items()
    ]


def _number(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Float64, strict=False).fill_nan(None)


def _text(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.String, strict=False)


def _label(label: Label) -> pl.Expr:
    holds = {1: label.rule, 0: negated(label)}
    return label.expression.replace_strict(holds, default=None, return_dtype=pl.String).alias(label.column)


def negated(label: Label) -> str:
    """What the rows are called that the label's rule does not hold for."""
    return f"not {label.rule}"
