"""A Parquet file as shuffled batches, of which few rows are in memory at a time, however many it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
import pyarrow
from pyarrow import parquet

from mlops.datasets.declaration import LABEL

if TYPE_CHECKING:
    from mlops.training.network.encoding import Encoding

_READ_ROWS = 1 << 14  # decoded at a time


class Batch(NamedTuple):
    """places, numbers: see Encoded; labels: (n,) of float32, 0 or 1."""

    places: np.ndarray
    numbers: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def shuffled(path: Path, encoding: Encoding, rows: int, held: int, seed: Sequence[int]) -> Iterator[Batch]:
    """Each row of the file once, in batches of `rows`, of which the last may have fewer.

    Row groups come in a random order, and `held` rows are shuffled at a time: all of them, where the file has fewer.
    The same seed gives the same batches; `(seed, epoch)` another order in each epoch.
    """
    random = np.random.default_rng(seed)
    left: Batch | None = None
    for block in _blocks(path, encoding, held, random):
        whole = block if left is None else _joined([left, block])
        whole = _taken(whole, random.permutation(len(whole)))
        last = len(whole) - len(whole) % rows
        yield from _cut(_taken(whole, slice(0, last)), rows)
        left = _taken(whole, slice(last, None))
    if left is not None and len(left):
        yield left


def concatenate(paths: Sequence[Path], target: Path) -> None:
    """The rows of all Parquet files in one, with the columns of the first. The same files give the same row groups."""
    schema = parquet.read_schema(paths[0])
    with parquet.ParquetWriter(target, schema) as writer:
        for path in paths:
            with parquet.ParquetFile(path) as file:
                for part in file.iter_batches(_READ_ROWS, columns=schema.names):
                    writer.write_table(pyarrow.Table.from_batches([part]).cast(schema))


def in_order(path: Path, encoding: Encoding, rows: int) -> Iterator[Batch]:
    """Each row of the file once, in its order."""
    with parquet.ParquetFile(path) as file:
        for part in file.iter_batches(rows, columns=[*encoding.columns, LABEL]):
            yield _encoded(part, encoding)


def _blocks(path: Path, encoding: Encoding, held: int, random: np.random.Generator) -> Iterator[Batch]:
    """Encoded rows, at least `held` at a time but for the last ones."""
    waiting: list[Batch] = []
    with parquet.ParquetFile(path) as file:
        for group in random.permutation(file.num_row_groups):
            columns = [*encoding.columns, LABEL]
            for part in file.iter_batches(_READ_ROWS, row_groups=[int(group)], columns=columns):
                waiting.append(_encoded(part, encoding))
                if sum(map(len, waiting)) >= held:
                    yield _joined(waiting)
                    waiting = []
    if waiting:
        yield _joined(waiting)


def _encoded(part: object, encoding: Encoding) -> Batch:
    table = pl.DataFrame(pl.from_arrow(part))  # type: ignore[arg-type]  # pyarrow says no types
    return Batch(*encoding.encode(table), table[LABEL].cast(pl.Float32).to_numpy())


def _joined(batches: Sequence[Batch]) -> Batch:
    return Batch(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))


def _taken(batch: Batch, which: np.ndarray | slice) -> Batch:
    return Batch(*(array[which] for array in batch))


def _cut(batch: Batch, rows: int) -> Iterator[Batch]:
    for start in range(0, len(batch), rows):
        yield _taken(batch, slice(start, start + rows))
