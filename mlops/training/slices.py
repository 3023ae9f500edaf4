"""How a model does on parts of the rows: for each value of a category, and for low, middle and high numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlops.result import Refused
from mlops.training.columns import columns_of
from mlops.training.score import score

if TYPE_CHECKING:
    import pandas as pd

    from mlops.datasets.declaration import Dataset
    from mlops.training.measures import Answers, Rows

PARTS = 3  # of a number, with about equally many rows each


def slices(
    names: Sequence[str], features: pd.DataFrame, dataset: Dataset, rows: Rows, answers: Answers
) -> dict[str, dict[str, float]]:
    """Number of rows and metrics by part; a metric that is undefined there, as AUC of one class, is left out.

    names: columns of the (n, number of features) table. Raises Refused for one that it lacks, and for an identifier.
    """
    columns = {column.name: column for column in columns_of(features, dataset)}
    unknown = [name for name in names if name not in columns or columns[name].kind == "identifier"]
    if unknown:
        raise Refused(
            f"slices by {', '.join(unknown)}: the test set has no such category or number: change `slices` in the "
            "declaration of the model"
        )
    return {
        part: {"rows": int(mask.sum()), **_metrics(rows.where(mask), answers.where(mask), dataset)}
        for name in names
        for part, mask in (_of_number if columns[name].numeric else _of_category)(name, features[name])
    }


def _metrics(rows: Rows, answers: Answers, dataset: Dataset) -> dict[str, float]:
    found = score(rows, answers, dataset.label.kind).model
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _of_category(name: str, values: pd.Series) -> Iterator[tuple[str, np.ndarray]]:
    for value in sorted(values.dropna().unique()):
        yield f"{name} {value}", (values == value).to_numpy()
    yield from _missing(name, values)


def _of_number(name: str, values: pd.Series) -> Iterator[tuple[str, np.ndarray]]:
    """Equal values lie in one part, so there may be fewer than PARTS."""
    cuts = np.unique(values.dropna().quantile(np.arange(1, PARTS) / PARTS, interpolation="lower"))
    places = np.searchsorted(cuts, values.to_numpy(), side="left")
    for place in range(len(cuts) + 1):
        mask = (places == place) & values.notna().to_numpy()
        if mask.any():
            low, high = values[mask].min(), values[mask].max()
            yield f"{name} {low:g}" + (f" to {high:g}" if high > low else ""), mask
    yield from _missing(name, values)


def _missing(name: str, values: pd.Series) -> Iterator[tuple[str, np.ndarray]]:
    missing = values.isna().to_numpy()
    if missing.any():
        yield f"{name} missing", missing
