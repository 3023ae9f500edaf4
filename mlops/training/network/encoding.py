"""From the columns of a table to what a network reads: a place in a vocabulary for each text, and scaled numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import polars as pl
from pyarrow import parquet

from mlops.result import Refused

if TYPE_CHECKING:
    from mlops.datasets.declaration import Column

_READ_ROWS = 1 << 14  # decoded at a time
UNKNOWN = 0  # the place of what is missing, was never seen, or was seen too rarely


class Encoded(NamedTuple):
    """places: (n, texts) of int64; numbers: (n, 2 * numbers) of float32, values and then whether each is missing."""

    places: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class Encoding:
    """What the training set taught about its columns.

    texts: the values of each text in order of their places, which begin at 1. numbers: mean and standard deviation of
    each number after `_squeezed`.
    """

    texts: Mapping[str, Sequence[str]]
    numbers: Mapping[str, tuple[float, float]]

    @classmethod
    def learned(cls, path: Path, columns: Sequence[Column], least_count: int) -> Self:
        """Reads a Parquet file as a stream. least_count: rows in which a value must occur to have its own place."""
        rows = pl.scan_parquet(path)
        texts = {column.name: _known(rows, column.name, least_count) for column in columns if not column.numeric}
        return cls(texts, _scales(path, [column.name for column in columns if column.numeric]))

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        numbers = {name: (float(mean), float(std)) for name, mean, std in said["numbers"]}
        return cls({name: tuple(map(str, values)) for name, values in said["texts"]}, numbers)

    def as_json(self) -> dict[str, Any]:
        """Lists, since the weights hang on the order of columns, and an object of JSON has none."""
        return {
            "texts": [[name, list(values)] for name, values in self.texts.items()],
            "numbers": [[name, mean, std] for name, (mean, std) in self.numbers.items()],
        }

    @property
    def columns(self) -> list[str]:
        return [*self.texts, *self.numbers]

    @property
    def sizes(self) -> list[int]:
        """How many places each text has, that of the unknown among them."""
        return [len(values) + 1 for values in self.texts.values()]

    @cached_property
    def _places(self) -> dict[str, pl.Enum]:
        return {name: pl.Enum(list(values)) for name, values in self.texts.items()}

    def encode(self, table: pl.DataFrame) -> Encoded:
        """Raises Refused where the table lacks a column."""
        if missing := [name for name in self.columns if name not in table.columns]:
            raise Refused(f"the table lacks {', '.join(missing)}, which the model reads: give the one made for it")
        places = np.empty((len(table), len(self.texts)), dtype=np.int64)
        for index, (name, values) in enumerate(self._places.items()):
            found = table[name].cast(pl.String).cast(values, strict=False).to_physical().cast(pl.Int64)
            places[:, index] = (found + 1).fill_null(UNKNOWN).to_numpy()
        return Encoded(places, self._scaled(table))

    def _scaled(self, table: pl.DataFrame) -> np.ndarray:
        count = len(self.numbers)
        scaled = np.zeros((len(table), 2 * count), dtype=np.float32)
        for index, (name, (mean, std)) in enumerate(self.numbers.items()):
            value = table.select(_squeezed(pl.col(name))).to_series().fill_null(np.nan).to_numpy()
            missing = np.isnan(value)
            scaled[:, index] = np.where(missing, 0.0, (value - mean) / std)
            scaled[:, count + index] = missing
        return scaled


def _known(rows: pl.LazyFrame, name: str, least_count: int) -> tuple[str, ...]:
    counts = rows.select(pl.col(name).cast(pl.String)).drop_nulls().group_by(name).len()
    found = counts.filter(pl.col("len") >= least_count).select(pl.col(name).sort()).collect(engine="streaming")
    return tuple(found.to_series().to_list())


def _scales(path: Path, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each number. Added up in the order of rows, since sums depend on their order."""
    counts, sums, squares = (np.zeros(len(names)) for _ in range(3))
    with parquet.ParquetFile(path) as file:
        for part in file.iter_batches(_READ_ROWS, columns=list(names)) if names else ():
            table = pl.DataFrame(pl.from_arrow(part))  # type: ignore[arg-type]  # pyarrow says no types
            for index, name in enumerate(names):
                values = table.select(_squeezed(pl.col(name)).drop_nulls()).to_series().to_numpy()
                counts[index] += len(values)
                sums[index] += values.sum()
                squares[index] += (values**2).sum()
    means = sums / np.maximum(counts, 1)
    deviations = np.sqrt(np.maximum(squares / np.maximum(counts, 1) - means**2, 0))
    return {
        name: (float(mean), float(deviation) or 1.0)
        for name, mean, deviation in zip(names, means, deviations, strict=True)
    }


def _squeezed(column: pl.Expr) -> pl.Expr:
    """sign(x) log(1 + |x|), which brings counts and seconds, that spread over powers of ten, near to each other."""
    value = column.cast(pl.Float64).fill_nan(None)
    return value.sign() * value.abs().log1p()
