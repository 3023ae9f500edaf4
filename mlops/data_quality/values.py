"""How the values of a column are read as its declaration says, whatever type the table has them in (polars)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import ceil, floor
from operator import or_

import polars as pl

from mlops.datasets.declaration import Column

_TEXTS = (pl.String, pl.Categorical, pl.Enum)
_INT64 = (-(2**63), 2**63 - 1)


class Values:
    """Expressions over one declared column, which has the type `dtype` in a table that was made `clean`.

    A number that is text is read as that number, a truth value as 0 or 1. NaN is a missing number.
    """

    def __init__(self, column: Column, dtype: pl.DataType) -> None:
        self._column, self._dtype = column, dtype
        self._is_text = isinstance(dtype, _TEXTS)
        raw = pl.col(column.name)
        self.raw = raw.cast(pl.String) if self._is_text and dtype != pl.String else raw
        self._number = self._as_number() if column.numeric else None

    @property
    def clean(self) -> pl.Expr:
        """The column with null for each value that is missing."""
        numeric = self._column.numeric and self._dtype.is_float()
        return pl.col(self._column.name).fill_nan(None) if numeric else pl.col(self._column.name)

    @property
    def mistyped(self) -> pl.Expr | None:
        """Boolean or null: what is there cannot be read as the declared kind; None where the type rules that out."""
        if self._dtype == pl.Null:
            return None
        if not self._column.numeric:
            return None if self._is_text else self.raw.is_not_null()
        number = self._number
        if number is None:
            return self.raw.is_not_null()
        if self._column.kind == "integer" and not (self._dtype.is_integer() or self._dtype == pl.Boolean):
            # Of an infinite number the difference is NaN.
            return self.raw.is_not_null() & ~(number - number.floor() == 0).fill_null(value=False)
        return self.raw.is_not_null() & number.is_null() if self._is_text else None

    def outside(self, low: float | None, high: float | None) -> pl.Expr:
        """Boolean or null: what is there does not lie between the bounds, both allowed, or is no number."""
        number = self._number
        if number is None:
            return self.raw.is_not_null()
        if self._dtype.is_integer() and self._dtype not in (pl.UInt64, pl.Int128, pl.UInt128):
            return self._whole_outside(low, high)
        number = number.cast(pl.Float64)
        wrong = _any([] if low is None else [number < low], [] if high is None else [number > high])
        return self.raw.is_not_null() & wrong.fill_null(value=True) if self._is_text else wrong

    def unknown(self, known: Sequence[str]) -> pl.Expr:
        """Boolean or null: what is there is none of the known texts."""
        return ~self.raw.is_in(list(known)) if self._is_text else self.raw.is_not_null()

    @property
    def identity(self) -> list[pl.Expr]:
        """What two equal values have in common and two others do not: the number, and the text that is none."""
        if self._number is None:
            return [self.raw]
        if self._is_text:
            return [self._number, pl.when(self._number.is_null()).then(self.raw)]
        return [self._number]

    def _as_number(self) -> pl.Expr | None:
        """A number, null for a text that is none; None for a type that holds no numbers."""
        if self._dtype.is_integer() or self._dtype.is_float():
            return self.raw
        if self._dtype == pl.Boolean:
            return self.raw.cast(pl.Int64)
        if self._dtype.is_decimal() or self._dtype == pl.Null:
            return self.raw.cast(pl.Float64)
        if self._is_text:
            return self.raw.str.strip_chars().cast(pl.Float64, strict=False).fill_nan(None)
        return None

    def _whole_outside(self, low: float | None, high: float | None) -> pl.Expr:
        """Compared as whole numbers: as fractions, those beyond 2^53 would be rounded."""
        number, (least, most) = self.raw.cast(pl.Int64), _INT64
        below = [] if low is None or ceil(low) <= least else [number < min(ceil(low), most)]
        above = [] if high is None or floor(high) >= most else [number > max(floor(high), least)]
        return _any(below, above)


def _any(*alternatives: Sequence[pl.Expr]) -> pl.Expr:
    given = [expression for group in alternatives for expression in group]
    return reduce(or_, given) if given else pl.lit(value=False)
