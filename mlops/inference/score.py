"""Rows through a model, some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops.inference.batch import ROW

if TYPE_CHECKING:
    from mlops.stores.tracking import Input
    from mlops.training.families import Family

SLICE = 1 << 17  # rows that are held at a time; a row group of the object store's tables
PREDICTION, PROBABILITY = "prediction", "probability"


def slices(rows: pl.LazyFrame, start: int, count: int) -> Iterator[pl.DataFrame]:
    """`count` rows of a scan from `start` on, in their order."""
    for begin in range(start, start + count, SLICE):
        yield rows.slice(begin, min(SLICE, start + count - begin)).collect()


def scored(
    parts: Iterable[pl.DataFrame], family: Family, model: Any, inputs: Sequence[Input], kept: Sequence[str]
) -> Iterator[pl.DataFrame]:
    """Of each part the columns `kept` and what the model says: PREDICTION, and of classes their probabilities.

    Of the classes 0 and 1 that is PROBABILITY, of 1; of others a column `probability_<class>` each. parts: with all
    `inputs`, numbers as Float64.
    """
    for part in parts:
        found = family.predict(model, part.select(column.name for column in inputs).to_pandas())
        answers = {PREDICTION: pl.Series(found.values)}
        if found.classes is not None and found.probabilities is not None:
            shares = dict(zip(map(str, found.classes), found.probabilities.T, strict=True))
            answers |= _probabilities(shares, len(part))
        yield part.select(ROW, *kept).with_columns(**answers)


def _probabilities(shares: dict[str, Any], rows: int) -> dict[str, pl.Series]:
    if shares.keys() <= {"0", "1"}:  # a model that met one class alone knows no other
        return {PROBABILITY: pl.Series(shares["1"]) if "1" in shares else pl.zeros(rows, pl.Float64, eager=True)}
    return {f"{PROBABILITY}_{name}": pl.Series(share) for name, share in shares.items()}
