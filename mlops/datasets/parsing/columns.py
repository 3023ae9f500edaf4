"""Columns of the types that a declaration says, out of texts or of what Parquet holds."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import polars as pl

from mlops.datasets.declaration import Column, Source
from mlops.result import Refused

MISSING = ("", "nan", "NaN", "NULL")
EXACT = 1 << 53  # whole numbers up to here are told apart as float64, which is what models see
_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
_NESTED = (pl.List, pl.Array, pl.Struct, pl.Object)
_NOTICED = 0.01  # share of a column's values that are no numbers for one and the same reason
_LOOKED_AT = 10_000  # different values that are no numbers
_INFINITE = ("inf", "-inf", "Inf", "-Inf", "INF", "-INF", "infinity", "-infinity", "Infinity", "-Infinity")
NULLS = (
    *_INFINITE,
    "NA",
    "N/A",
    "<NA>",
    "#N/A",
    "n/a",
    "na",
    "null",
    "None",
    "none",
    "Null",
    "NAN",
    "Nan",
    "?",
    "-",
    "--",
    ".",
    "missing",
)
_WHOLE = r"^[+-]?\d+(?:\.0*)?$"


def canonical(values: pl.Expr, dtype: pl.DataType, column: Column | None) -> pl.Expr:
    """Values of any type of Parquet's as Int64 or Float64 where the column is numeric, and as String where it is not.

    A numeric column of another type is String. column: None for one that is only joined by. Raises Refused where a
    value is not one but several.
    """
    if isinstance(dtype, _NESTED):
        raise Refused(f"holds a {dtype} in each row: write it flat, one value a column, or do not declare the column")
    if column is not None and column.numeric:
        if dtype in _INTEGERS or dtype == pl.Boolean:
            return values.cast(pl.Int64)
        if dtype.is_float():
            return values.cast(pl.Float64)
    return _as_text(values, dtype, column.values if column else ())


def _as_text(values: pl.Expr, dtype: pl.DataType, known: Sequence[str]) -> pl.Expr:
    if dtype == pl.Boolean:
        yes, no = ("True", "False") if {"True", "False"} & set(known) else ("true", "false")
        return pl.when(values.is_null()).then(None).when(values).then(pl.lit(yes)).otherwise(pl.lit(no))
    if dtype.is_float():
        number = values.cast(pl.Float64)
        text = number.cast(pl.String)
        if not any(value.endswith(".0") for value in known):
            # pandas writes whole numbers with a missing one among them as floats.
            whole = (number == number.floor()) & (number.abs() <= EXACT)
            text = pl.when(whole).then(number.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(text)
        return pl.when(number.is_nan()).then(None).otherwise(text)
    if dtype.is_temporal() and dtype != pl.Time:
        return values.dt.to_string("iso")
    if dtype == pl.Null:
        return pl.lit(None, dtype=pl.String)
    return values.cast(pl.String)


def without_missing(values: pl.Expr, source: Source, column: Column) -> pl.Expr:
    """Texts with null for the words that stand for a missing value, and without blanks around them where declared."""
    words = [word for word in (*MISSING, *source.missing) if word not in column.values]
    text = values.str.strip_chars() if source.trim else values
    return pl.when(text.is_in(words)).then(None).otherwise(text)


def number(text: pl.Expr, decimal: str = ".", thousands: str = "") -> pl.Expr:
    """Texts as Float64 by the signs of a source; null for what is no finite number. `1.5` is none where decimal=","."""
    plain = text.str.strip_chars()
    if thousands:
        grouped = rf"^[+-]?\d{{1,3}}(?:\{thousands}\d{{3}})+(?:\{decimal}\d*)?$"
        ungrouped = plain.str.replace_all(thousands, "", literal=True)
        plain = pl.when(plain.str.contains(grouped)).then(ungrouped).otherwise(plain)
    if decimal != ".":
        pointed = plain.str.replace(decimal, ".", literal=True)
        plain = pl.when(plain.str.contains(".", literal=True)).then(None).otherwise(pointed)
    value = plain.cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def whole_number(text: pl.Expr, source: Source) -> pl.Expr:
    """Texts as Int64, exact; null for what is none. `3.0` and `3e2` are whole numbers."""
    exact = text.str.strip_chars().cast(pl.Int64, strict=False)
    return exact.fill_null(_whole(number(text, source.decimal, source.thousands)))


def _whole(value: pl.Expr) -> pl.Expr:
    fits = (value == value.floor()) & (value.abs() <= EXACT)
    return pl.when(fits).then(value.cast(pl.Int64, strict=False))


class _Typed(NamedTuple):
    """A numeric column before it is decided whether it is one: its values, where null has two causes."""

    column: Column
    raw: pl.Expr
    value: pl.Expr
    large: pl.Expr  # where a whole number is larger than EXACT


def typed(rows: pl.LazyFrame, columns: Iterable[Column], source: Source) -> pl.LazyFrame:
    """Rows with numeric columns as Int64 and Float64; one with a value that is no such number as the texts it has.

    rows: as `canonical` gives them. Raises Refused where a column's values are of its type by another declaration, and
    where whole numbers are too large to be told apart.
    """
    schema = rows.collect_schema()
    numeric = [_numeric(column, schema[column.name], source) for column in columns if column.numeric]
    rows = rows.with_columns(without_missing(pl.col(c.name), source, c).alias(c.name) for c in columns if not c.numeric)
    if not numeric:
        return rows
    counts = (
        rows.select(
            expression.alias(f"{place} {name}")
            for place, one in enumerate(numeric)
            for name, expression in {
                "known": one.raw.count(),
                "wrong": (one.raw.is_not_null() & one.value.is_null()).sum(),
                "large": one.large.sum(),
            }.items()
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )
    made = []
    for place, one in enumerate(numeric):
        if counts[f"{place} large"]:
            raise Refused(_too_large(rows, one))
        wrong, known = counts[f"{place} wrong"], counts[f"{place} known"]
        if wrong:
            _refuse_another_notation(rows, one, source, wrong, known)
        text = one.raw if schema[one.column.name] == pl.String else _as_text(one.raw, schema[one.column.name], ())
        made.append((text if wrong else one.value).alias(one.column.name))
    return rows.with_columns(made)


def _numeric(column: Column, dtype: pl.DataType, source: Source) -> _Typed:
    raw, integer = pl.col(column.name), column.kind == "integer"
    if dtype == pl.String:
        raw = without_missing(raw, source, column)
        exact = raw.str.strip_chars().cast(pl.Int64, strict=False)
        digits = (raw.str.len_bytes() > 15) & raw.str.strip_chars().str.contains(_WHOLE)
        large = digits & ~exact.is_between(-EXACT, EXACT).fill_null(number(raw).abs() < EXACT)
        value = whole_number(raw, source) if integer else number(raw, source.decimal, source.thousands)
        return _Typed(column, raw, value, large)
    if stand_for_none := _numbers(source.missing, whole=dtype == pl.Int64):
        raw = pl.when(~raw.is_in(stand_for_none)).then(raw)
    if dtype == pl.Int64:
        # The least of all has no absolute value.
        large = ~raw.is_between(-EXACT, EXACT)
        return _Typed(column, raw, raw if integer else raw.cast(pl.Float64), large)
    raw = raw.fill_nan(None)
    value = pl.when(raw.is_finite()).then(raw)
    large = pl.lit(False) if not integer else (raw.abs() > EXACT) & raw.is_finite()
    return _Typed(column, raw, _whole(value) if integer else value, large)


def _numbers(words: Iterable[str], *, whole: bool) -> list[float] | list[int]:
    """Those of the words that are numbers: what stands for a missing value where a column holds no texts."""
    found = []
    for word in words:
        with suppress(ValueError):
            found.append(float(word))
    return [int(value) for value in found if value.is_integer()] if whole else found


def _too_large(rows: pl.LazyFrame, one: _Typed) -> str:
    name = one.column.name
    example = rows.filter(one.large).select(one.raw.cast(pl.String)).head(1).collect().item()
    return (
        f"has {example} in column {name!r}: whole numbers beyond 2^53 cannot be told apart by a model, and are names "
        f'rather than numbers; declare Column({name!r}, "identifier")'
    )


def _refuse_another_notation(rows: pl.LazyFrame, one: _Typed, source: Source, wrong: int, known: int) -> None:
    """Raises Refused where all values that are no numbers are such by one other declaration."""
    if wrong < known * _NOTICED:
        return
    odd = rows.filter(one.raw.is_not_null() & one.value.is_null()).select(one.raw.cast(pl.String).alias("odd"))
    values = odd.unique(maintain_order=True).head(_LOOKED_AT).collect()["odd"]
    remedy = notation(values, one.column, source)
    if remedy:
        raise Refused(
            f"has values in column {one.column.name!r} that are no numbers as declared, such as {values[0]!r} "
            f"({wrong:,} of {known:,}): {remedy}"
        )


def notation(values: pl.Series, column: Column, source: Source) -> str | None:
    """What is to be declared so that all of these texts are read; None where nothing would."""

    def numbers(decimal: str, thousands: str) -> Callable[[], bool]:
        return lambda: bool(
            values.to_frame("v").select(number(pl.col("v"), decimal, thousands).is_not_null().all()).item()
        )

    words = sorted(set(values.str.strip_chars().to_list()))
    truths = {"true", "false", "yes", "no", "t", "f", "y", "n"}
    remedies: list[tuple[Callable[[], bool], str]] = [
        (lambda: set(words) <= {*NULLS, *MISSING}, f"declare missing={tuple(words)!r} in its source"),
        (
            lambda: {word.lower() for word in words} <= truths,
            f'declare Column({column.name!r}, "category", values={tuple(words)!r}, ...)',
        ),
        *(
            (numbers(decimal, thousands), f"declare {signs} in its source")
            for decimal, thousands, signs in (
                (",", "", 'decimal=","'),
                (".", ",", 'thousands=","'),
                (",", ".", 'decimal="," and thousands="."'),
                (".", " ", 'thousands=" "'),
                (".", "'", 'thousands="\'"'),
            )
            if (decimal, thousands) != (source.decimal, source.thousands)
        ),
    ]
    return next((remedy for fits, remedy in remedies if fits()), None)
