"""A column's distribution as counts: small however many rows there are, and enough to compare two by.

Of a number the rows below and at some thousand of its own values are counted. Where the distributions of two columns
are read at these values alone, their largest difference is found too small by at most the largest share of the one's
rows that lies between two neighbouring values (`Numbers.resolution`): both distributions only rise, so between two
values the difference exceeds that at one of the ends by no more than either rises there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from mlops.drift.columns import Scale
from mlops.result import JSON

Floats = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.int64]]

EDGES = 2048  # of a number; each is two cuts, so that what equals an edge is told from what lies beside it
LISTED = 1000  # of a category; what else there is, is counted together


@dataclass(frozen=True)
class Numbers:
    """edges: ascending, each another one; below, at: the rows below each edge and equal to it; rows: all of them."""

    edges: Floats
    below: Integers
    at: Integers
    rows: int
    missing: int

    @classmethod
    def of(cls, values: pl.Series, edges: Floats) -> Self:
        """values: Float64, null where missing. To sort them and look for the edges is less than a search for each."""
        known = values.drop_nulls().to_numpy(writable=True)
        known.sort()
        below, upto = (np.searchsorted(known, edges, side) for side in ("left", "right"))
        return cls(edges, below, upto - below, len(values), len(values) - len(known))

    def __add__(self, other: Numbers) -> Numbers:
        """The counts of both, which have the same edges."""
        return Numbers(
            self.edges,
            self.below + other.below,
            self.at + other.at,
            self.rows + other.rows,
            self.missing + other.missing,
        )

    @property
    def cuts(self) -> Integers:
        """The rows below minus infinity (none), below and up to each edge, and below infinity."""
        between = np.column_stack([self.below, self.below + self.at]).ravel()
        return np.concatenate([[0], between, [self.rows - self.missing]])

    @property
    def resolution(self) -> float:
        """The largest share of the rows between two neighbouring edges: the bound of the error of a KS distance."""
        return float(np.diff(self.cuts)[::2].max()) / max(1, self.rows)


@dataclass(frozen=True)
class Categories:
    """counts: the rows of each listed value, the commonest first; rows: all of them, with those of no listed value."""

    counts: Mapping[str, int]
    rows: int
    missing: int

    @classmethod
    def of(cls, values: pl.Series, listed: Sequence[str]) -> Self:
        """values: String, null where missing."""
        found = values.alias("value").value_counts(name="rows")
        found = found.filter(pl.col("value").is_in(pl.Series(listed, dtype=pl.String).implode()))
        counts = dict.fromkeys(listed, 0) | dict(found.iter_rows())
        return cls(counts, len(values), values.null_count())

    def __add__(self, other: Categories) -> Categories:
        """The counts of both, which list the same values."""
        counts = {value: rows + other.counts[value] for value, rows in self.counts.items()}
        return Categories(counts, self.rows + other.rows, self.missing + other.missing)


Sketch = Numbers | Categories
Marks = Floats | list[str]  # where a sketch counts: at the edges of a number, the listed values of a category


def marks(sample: pl.DataFrame, scales: Mapping[str, Scale]) -> dict[str, Marks]:
    """Edges with as many rows of the sample between each two of them, and the commonest values."""
    return {
        name: _edges(sample[name]) if scale == "number" else _listed(sample[name]) for name, scale in scales.items()
    }


def marks_of(sketches: Mapping[str, Sketch]) -> dict[str, Marks]:
    """Where these counted: what is compared with them counts there too."""
    return {name: one.edges if isinstance(one, Numbers) else list(one.counts) for name, one in sketches.items()}


def sketch(slices: Iterable[pl.DataFrame], marks: Mapping[str, Marks]) -> dict[str, Sketch]:
    """The sketches of the columns that `marks` names, in one pass over the slices of a table, one at least."""
    total: dict[str, Sketch] = {}
    for rows in slices:
        for name, where in marks.items():
            one = Categories.of(rows[name], where) if isinstance(where, list) else Numbers.of(rows[name], where)
            total[name] = total[name] + one if name in total else one  # type: ignore[operator]  # both are of one kind
    return total


def as_table(sketches: Mapping[str, Sketch]) -> tuple[pl.DataFrame, dict[str, JSON]]:
    """One row for each edge and listed value, and what is known of each column as a whole."""
    parts = [
        pl.DataFrame({"column": name, "edge": one.edges, "value": None, "below": one.below, "rows": one.at}, _SCHEMA)
        if isinstance(one, Numbers)
        else pl.DataFrame(
            {"column": name, "edge": None, "value": list(one.counts), "below": None, "rows": list(one.counts.values())},
            _SCHEMA,
        )
        for name, one in sketches.items()
    ]
    columns: dict[str, JSON] = {
        name: {
            "scale": "number" if isinstance(one, Numbers) else "category",
            "rows": one.rows,
            "missing": one.missing,
        }
        for name, one in sketches.items()
    }
    return pl.concat(parts), columns


def from_table(table: pl.DataFrame, columns: Mapping[str, Mapping[str, Any]]) -> dict[str, Sketch]:
    """What `as_table` was given."""
    found: dict[str, Sketch] = {}
    for name, whole in columns.items():
        cells, size = table.filter(pl.col("column") == name), (whole["rows"], whole["missing"])
        if whole["scale"] == "number":
            edges, below, at = (cells[part].to_numpy() for part in ("edge", "below", "rows"))
            found[name] = Numbers(edges, below, at, *size)
        else:
            found[name] = Categories(dict(cells.select("value", "rows").iter_rows()), *size)
    return found


_SCHEMA = {"column": pl.String, "edge": pl.Float64, "value": pl.String, "below": pl.Int64, "rows": pl.Int64}


def _edges(values: pl.Series) -> Floats:
    known = np.unique(values.drop_nulls().to_numpy())
    if len(known) <= EDGES:
        return known
    ordered = np.sort(values.drop_nulls().to_numpy())
    return np.unique(ordered[np.linspace(0, len(ordered) - 1, EDGES).round().astype(np.int64)])


def _listed(values: pl.Series) -> list[str]:
    counts = values.alias("value").drop_nulls().value_counts(name="rows")
    return counts.sort(["rows", "value"], descending=[True, False])["value"].head(LISTED).to_list()
