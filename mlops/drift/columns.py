"""The columns whose distribution is watched, and how they are read for that."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from mlops.datasets.declaration import Dataset

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
    return watched | {dataset.label.column: "category"}


def comparable(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The columns of `scales`: numbers as float64, categories as they are, the label as its rule or not."""
    columns = {}
    for name, scale in scales(dataset).items():
        if name == dataset.label.column:
            rule = dataset.label.rule
            columns[name] = dataset.label.of(table).map({1: rule, 0: f"not {rule}"}).astype(object)
        elif scale == "number":
            columns[name] = pd.to_numeric(table[name], errors="coerce").astype("float64")
        else:
            columns[name] = table[name].astype(object)
    return pd.DataFrame(columns, index=table.index)
