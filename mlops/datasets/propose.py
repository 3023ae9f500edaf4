"""A first declaration of a dataset, out of its file: to be looked through, since a file does not say what it means."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import polars as pl

from mlops.datasets.declaration import (
    EVENT_TIME,
    GROUP,
    LABEL,
    MOST_LEVELS,
    Column,
    Dataset,
    EpochMilliseconds,
    EpochSeconds,
    EventTime,
    Label,
    Source,
    SplitByKey,
    SplitByTime,
    Timestamp,
)
from mlops.datasets.parsing.columns import EXACT, NULLS, canonical, number, without_missing
from mlops.datasets.parsing.plain import head, unpack
from mlops.datasets.parsing.text import SEPARATORS, read_header, texts
from mlops.result import Refused

_LOOKED_AT = 50  # lines from which the dialect is seen
_FEW = 50  # different texts, at most, that are a category however few rows there are
_SHARE = 0.02  # of the rows: so many different texts, at most, are a category
_ENOUGH_WORDS = 0.5  # share of a column's values that may be other words for a missing one
_REPEATS_LOOKED_AT = 1_000_000  # rows
_LABELS = (
    *("label", "target", "class", "y", "outcome", "churn", "churned", "default", "is_fraud", "fraud", "anomaly"),
    "species",
)
_TIME_NAMES = re.compile(r"(^|_)(ts|time|timestamp|date|datetime|day|hour|created|at)(_|$)")
_ID_NAMES = re.compile(r"(^|_)(id|uuid|key|no|nr|number|code|zip|phone|identifier)$")
_PREDICTED = re.compile(r"(^|_)(pred|prediction|predicted|proba|probability|score)(_|$)")
_POSITIVE = {"1", "yes", "true", "y", "t", "positive"}
_SECONDS = (631_152_000, 4_102_444_800)  # 1990 to 2100
_FORMATS = ("%d.%m.%Y %H:%M", "%d.%m.%Y", "%m/%d/%Y %H:%M", "%m/%d/%Y", "%d/%m/%Y", "%Y%m%d")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass
class Proposal:
    """doubts: what is guessed and should be looked at, a line each."""

    dataset: Dataset
    doubts: list[str] = field(default_factory=list)


def propose(file: Path, name: str | None = None) -> Proposal:
    """Dialect, kinds, ranges, categories, label and event time as the file suggests them.

    Raises Refused where it is no table that could be read.
    """
    doubts: list[str] = []
    with TemporaryDirectory() as scratch:
        source, rows = _opened(file, Path(scratch), doubts)
        made = _dataset(name or _snake(file.name.split(".")[0]), source, rows, doubts)
    return Proposal(made, doubts)


def _opened(file: Path, scratch: Path, doubts: list[str]) -> tuple[Source, pl.LazyFrame]:
    """The source without what is known of columns alone, and the rows by their declared names."""
    with file.open("rb") as opened:
        is_parquet = opened.read(4) == b"PAR1"
    if is_parquet:
        rows = pl.scan_parquet(file, glob=False, hive_partitioning=False)
        schema = rows.collect_schema()
        flat = [name for name, dtype in schema.items() if not dtype.is_nested()]
        if len(flat) < len(schema):
            doubts.append(f"{', '.join(set(schema) - set(flat))}: holds several values a row, and is left out")
        source = Source(file=file.name, format="parquet", rename=_renames(flat, doubts))
        return source, rows.select(pl.col(raw).alias(source.rename.get(raw, raw)) for raw in flat)
    source = _dialect(file, scratch, doubts)
    plain = scratch / "header"
    unpack(file, source.encoding, 0, plain)
    names = [name for name in read_header(head(plain), source).names if name]
    source = replace(source, rename=_renames(names, doubts))
    wanted = [source.rename.get(name, name) for name in names]
    try:
        table = texts(file, source, wanted, scratch)
    except Refused as refused:
        footer = re.search(r"declare skip_last=(\d+)", str(refused))
        if footer is None:
            raise Refused(f"{file} {refused}") from refused
        doubts.append(
            f"skip_last={footer[1]}: the last lines have fewer values, and are taken for no part of the table"
        )
        source = replace(source, skip_last=int(footer[1]))
        table = texts(file, source, wanted, scratch)
    return source, pl.scan_parquet(table, glob=False, hive_partitioning=False)


def _dialect(file: Path, scratch: Path, doubts: list[str]) -> Source:
    """Encoding, separator and the lines above the header, by the first lines."""
    plain, encoding = scratch / "plain", "utf-8"
    for encoding in ("utf-8", "utf-16", "cp1252", "latin-1"):
        try:
            unpack(file, encoding, 0, plain)
            break
        except Refused as refused:
            if encoding == "latin-1" or ("encoding" not in str(refused) and "NUL" not in str(refused)):
                raise Refused(f"{file} {refused}") from refused
    if encoding != "utf-8":
        doubts.append(f"encoding={encoding!r} is a guess: see whether names and words are right")
    lines = head(plain).splitlines()[:_LOOKED_AT]
    separator = max(SEPARATORS, key=lambda sign: _regularity(lines, sign))
    widths = [len(row) for row in csv.reader(lines, delimiter=separator)]
    usual = max(set(widths[1:] or widths), key=(widths[1:] or widths).count)
    skipped = next((at for at, width in enumerate(widths) if width in (usual, usual - 1) and width > 1), 0)
    made = Source(
        file=file.name,
        format="tsv" if separator == "\t" else "csv",
        separator=separator if separator in ";|" else None,
        encoding=encoding,
        skip_rows=skipped,
        trailing_separator=widths[skipped] == usual - 1
        and all(line.endswith(separator) for line in lines[skipped + 1 :]),
    )
    if skipped:
        doubts.append(f"skip_rows={skipped}: the lines above {lines[skipped]!r} are taken for no part of the table")
    header = next(csv.reader([lines[skipped]], delimiter=separator))
    if any(name.strip() != name for name in header):
        made = replace(made, trim=True)
    if any(_is_number(cell) for cell in header):
        names = tuple(f"column_{place}" for place in range(1, len(header) + 1))
        doubts.append("the file has no header: give its columns names")
        made = replace(made, names=names)
    return made


def _regularity(lines: Sequence[str], separator: str) -> tuple[int, int]:
    """How many lines have as many values as most have, and how many values those are."""
    widths = [len(row) for row in csv.reader(lines, delimiter=separator)]
    usual = max(set(widths), key=lambda width: (widths.count(width) if width > 1 else 0, width)) if widths else 0
    return (widths.count(usual) if usual > 1 else 0, usual)


def _renames(names: Sequence[str], doubts: list[str]) -> dict[str, str]:
    """Raw name -> one for Python; names that are such already are left."""
    given = (LABEL, EVENT_TIME, GROUP)
    taken, renames = set(given), {}
    for raw in names:
        name = raw if _NAME.fullmatch(raw) and raw not in taken else _snake(raw)
        while name in taken:
            name += "_"
        taken.add(name)
        if name != raw:
            renames[raw] = name
    if set(given) & set(names):
        doubts.append(f"{', '.join(given)} are names that the platform gives: the file's are renamed")
    return renames


def _snake(name: str) -> str:
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name.strip())
    snake = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    return snake if snake[:1].isalpha() else f"column_{snake}".strip("_")


@dataclass
class _Seen:
    """What was seen of a column. values: its different texts, where they are few."""

    column: Column
    event_time: EventTime | None = None
    values: tuple[str, ...] = ()


def _dataset(name: str, source: Source, rows: pl.LazyFrame, doubts: list[str]) -> Dataset:
    schema = rows.collect_schema()
    count = rows.select(pl.len()).collect().item()
    if not count:
        raise Refused(f"{source.file} has no rows: take a whole file")
    plain = rows.select(canonical(pl.col(column), dtype, None).alias(column) for column, dtype in schema.items())
    source = _with_signs(source, plain, doubts)
    seen = [_look(column, plain, schema[column], source, count, doubts) for column in schema]
    label = _label(seen, plain, doubts)
    cadence = Dataset.cadence
    times = [one for one in seen if one.event_time is not None]
    event_time = times[0].event_time if times else None
    if isinstance(event_time, Timestamp) and event_time.zone:
        doubts.append(f"event_time: {event_time.column} names no zone; {event_time.zone} is a guess")
    if event_time is not None and cadence is not None:
        newest = _newest(plain, event_time, source)
        if datetime.now(UTC) - newest > 2 * cadence:
            doubts.append(
                f"cadence: the newest event is of {newest:%Y-%m-%d}; it is taken that nothing is added to the set: "
                "declare how often rows come, if they do"
            )
            cadence = None
    if any(one.column.numeric for one in seen):
        doubts.append("low and high are the least and the largest of this file: widen them to what is possible")
    if len(times) > 1:
        doubts.append(f"event_time: {', '.join(one.column.name for one in times)} are times; the first one is taken")
    predicted = [one.column.name for one in seen if _PREDICTED.search(_snake(one.column.name))]
    if predicted:
        doubts.append(f"{', '.join(predicted)}: look like what a model said, and are kept from models: feature=False")
    hidden = {label.column, *predicted}
    columns = tuple(replace(one.column, feature=False) if one.column.name in hidden else one.column for one in seen)
    sample = plain.head(_REPEATS_LOOKED_AT).collect()
    repeats = sample.height - sample.n_unique()
    if repeats:
        doubts.append(f"duplicates=None: {repeats:,} rows are the same as another one; declare 0.0 if none may be")
    return Dataset(
        name=name,
        description=f"The rows of {source.parts[0]}.",
        source=source,
        columns=columns,
        label=label,
        split=SplitByTime() if event_time else SplitByKey(),
        rows=(max(1, count // 10), max(10_000_000, 10 * count)),
        event_time=event_time,
        duplicates=None if repeats else 0.0,
        cadence=cadence,
    )


def _with_signs(source: Source, rows: pl.LazyFrame, doubts: list[str]) -> Source:
    """The decimal and thousands signs with which the most values are numbers, and the words that stand for none."""
    if source.format == "parquet":
        return source
    sample = rows.head(100_000).collect()
    texts_ = pl.concat([sample[name].alias("text") for name in sample.columns]).drop_nulls()
    notations: tuple[tuple[Literal[".", ","], str], ...] = (".", ""), (",", ""), (".", ","), (",", ".")
    counts = {
        signs: texts_.to_frame().select(number(pl.col("text"), *signs).is_not_null().sum()).item()
        for signs in notations
    }
    best = max(notations, key=lambda signs: counts[signs])
    if best != notations[0] and counts[best] > counts[notations[0]]:
        doubts.append(
            f"decimal={best[0]!r} and thousands={best[1]!r}: numbers such as 1.234 mean something else by them"
        )
        source = replace(source, decimal=best[0], thousands=best[1])
    words: list[str] = []
    for name in sample.columns:
        odd = sample.filter(without_missing(pl.col(name), source, Column(name, "number")).is_not_null())[name]
        wrong = odd.to_frame("v").filter(number(pl.col("v"), source.decimal, source.thousands).is_null())["v"]
        if 0 < len(wrong) < _ENOUGH_WORDS * max(1, len(odd)) and set(wrong.unique()) <= set(NULLS):
            words += [word for word in sorted(set(wrong)) if word not in words]
    return replace(source, missing=tuple(words)) if words else source


def _look(name: str, rows: pl.LazyFrame, dtype: pl.DataType, source: Source, count: int, doubts: list[str]) -> _Seen:
    text = without_missing(pl.col(name), source, Column(name, "identifier"))
    value = number(text, source.decimal, source.thousands)
    known, numbers, whole, low, high, distinct = (
        rows.select(
            text.count().alias("known"),
            value.count().alias("numbers"),
            (value == value.floor()).sum().alias("whole"),
            value.min().alias("low"),
            value.max().alias("high"),
            text.drop_nulls().approx_n_unique().alias("distinct"),
        )
        .collect(engine="streaming")
        .row(0)
    )
    nullable = known < count
    if not known:
        doubts.append(f"{name}: has no value at all; it is declared a number that no model sees")
        return _Seen(Column(name, "number", nullable=True, feature=False))
    if numbers == known and dtype != pl.Boolean:
        return _number(name, (low, high), whole == known, distinct, count, nullable, doubts)
    time = _time(name, rows, text)
    if time is not None:
        return _Seen(Column(name, "identifier", nullable=nullable, feature=False), time)
    if distinct <= max(_FEW, min(MOST_LEVELS, _SHARE * count)):
        values = tuple(sorted(rows.select(text.drop_nulls().unique()).collect().to_series()))
        if len(values) <= MOST_LEVELS:
            return _Seen(Column(name, "category", values=values, nullable=nullable), values=values)
    mixed = "" if not numbers else f", {numbers:,} of them numbers"
    if mixed:
        doubts.append(f"{name}: {known:,} values{mixed}: it is declared an identifier")
    return _Seen(Column(name, "identifier", nullable=nullable, feature=not _near(distinct, count)))


def _number(
    name: str,
    bounds: tuple[float, float],
    whole: bool,
    distinct: int,
    count: int,
    nullable: bool,
    doubts: list[str],
) -> _Seen:
    low, high = bounds
    if max(abs(low), abs(high)) >= EXACT and whole:
        doubts.append(f"{name}: numbers beyond 2^53 are names; it is declared an identifier")
        return _Seen(Column(name, "identifier", nullable=nullable, feature=False))
    for event_time, unit in ((EpochSeconds(name), 1), (EpochMilliseconds(name), 1_000)):
        if _SECONDS[0] * unit <= low and high <= _SECONDS[1] * unit and (_TIME_NAMES.search(_snake(name)) or unit > 1):
            doubts.append(f"{name}: is taken for {type(event_time).__name__}, from {low:.0f} to {high:.0f}")
            return _Seen(Column(name, "integer" if whole else "number", nullable=nullable, feature=False), event_time)
    if whole and (
        _ID_NAMES.search(_snake(name)) or (_near(distinct, count) and count > 100 and high - low + 1 == count)
    ):
        doubts.append(f"{name}: looks like a number of things rather than a quantity; it is declared an identifier")
        return _Seen(Column(name, "identifier", nullable=nullable, feature=not _near(distinct, count)))
    if low == high:
        doubts.append(f"{name}: has the same value in all rows")
    kind: Any = "integer" if whole else "number"
    values = ("0", "1") if whole and (low, high) == (0, 1) else ()
    return _Seen(Column(name, kind, low=_tidy(low, whole), high=_tidy(high, whole), nullable=nullable), values=values)


def _near(distinct: int, count: int) -> bool:
    """Whether all values are different, as far as an approximate count tells."""
    return distinct > 0.9 * count


def _tidy(bound: float, whole: bool) -> float:
    return int(bound) if whole else bound


def _time(name: str, rows: pl.LazyFrame, text: pl.Expr) -> EventTime | None:
    from mlops.datasets.parsing.times import timestamps

    options = [Timestamp(name), Timestamp(name, zone="UTC")]
    options += [Timestamp(name, zone="UTC", format=one) for one in _FORMATS]
    sample = rows.select(text.drop_nulls().alias("text")).head(10_000).collect()
    for option in options:
        if sample.select(timestamps(pl.col("text"), option.zone, option.format).is_not_null().all()).item():
            return option
    return None


def _newest(rows: pl.LazyFrame, event_time: EventTime, source: Source) -> datetime:
    """The time of the newest event, of rows whose column of times holds some."""
    from mlops.datasets.parsing.times import with_event_time

    column = getattr(event_time, "column", "")
    timed = with_event_time(rows, pl.col(column), rows.collect_schema()[column], event_time, source)
    newest: datetime = timed.select(pl.col(EVENT_TIME).max()).collect(engine="streaming").item()
    return newest


def _label(seen: Sequence[_Seen], rows: pl.LazyFrame, doubts: list[str]) -> Label:
    """A column of two values that is named like a label, or a category of more that is; else the last one of two.

    Of two values it is what means yes, or the rarer one. Without such columns it is a number.
    """
    possible = [one for one in seen if len(one.values) == 2 and not one.column.nullable]
    two = [one for one in possible if not _PREDICTED.search(_snake(one.column.name))] or possible
    named = [one for one in two if _is_named(one.column)]
    several = [one.column for one in seen if len(one.values) > 2 and _is_named(one.column)]
    if several and not named:
        doubts.append(f"label: {several[0].name} is taken, a class of {len(several[0].values)}")
        return Label(several[0].name, kind="multiclass")
    if not two:
        return _number_as_label(seen, doubts)
    chosen = named[0] if named else two[-1]
    name = chosen.column.name
    shares = dict(rows.group_by(pl.col(name)).len().collect().iter_rows())
    rarer = min(chosen.values, key=lambda value: sum(n for text, n in shares.items() if _same(text, value)))
    yes = next((value for value in chosen.values if value.lower() in _POSITIVE), rarer)
    doubts.append(f"label: {name} = {yes} is taken" + ("" if named else "; its name does not say so"))
    return Label(name, equals=int(yes) if chosen.column.numeric else yes)


def _number_as_label(seen: Sequence[_Seen], doubts: list[str]) -> Label:
    """The last number that is no time, that differs, and that is no prediction; one named like a label before others.

    Raises Refused where there is none.
    """
    numbers = [one.column for one in seen if one.event_time is None and one.column.numeric]
    numbers = [one for one in numbers if one.low != one.high and not _PREDICTED.search(_snake(one.name))]
    if not numbers:
        raise Refused("has no column that could be a label: declare it by hand")
    named = [one for one in numbers if _is_named(one)]
    chosen = named[0] if named else numbers[-1]
    doubts.append(
        f"label: {chosen.name}, a number, is taken, as no column has two values"
        + ("" if named else "; its name does not say so")
    )
    return Label(chosen.name, kind="regression")


def _is_named(column: Column) -> bool:
    """Whether it is named like a label."""
    return _snake(column.name).strip("_") in _LABELS


def _same(text: str | None, value: str) -> bool:
    return text is not None and (
        text == value or (_is_number(text) and _is_number(value) and float(text) == float(value))
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def as_python(proposal: Proposal) -> Iterator[str]:
    """The lines of a module of mlops/datasets."""
    from mlops.notation import classes, to_python

    used = classes(proposal.dataset)
    times = sorted(used & {"datetime", "timedelta"})
    names = ", ".join(sorted(used - {"datetime", "timedelta"}))
    yield f'"""What the rows of {proposal.dataset.name} are, and where they come from."""'
    yield ""
    if times:
        yield f"from datetime import {', '.join(times)}"
        yield ""
    line = f"from mlops.datasets.declaration import {names}"
    if len(line) <= 120:
        yield line
    else:
        yield "from mlops.datasets.declaration import ("
        yield from (f"    {one}," for one in names.split(", "))
        yield ")"
    yield ""
    yield f"DATASET = {to_python(proposal.dataset, 'DATASET = ')}"
