"""The files of a feature view by time, and which of them an event changes."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta

import polars as pl
from polars.selectors import numeric

from mlops.datasets.declaration import EVENT_TIME
from mlops.features.repository import Partition

_START = "__start"


def contents(rows: pl.LazyFrame, every: Partition) -> dict[date, str]:
    """By the first day of each partition that has an event: what names the rows of it, in whichever order they lie.

    The names hold within one version of the code: polars promises no more of its hashes. Rows without a time are in no
    partition.
    """
    # A whole number is the same one where the column became fractions, by a row beside it that has some.
    values = pl.struct(numeric().cast(pl.Float64), ~numeric())
    hashed = rows.drop_nulls(EVENT_TIME).select(
        pl.col(EVENT_TIME).dt.truncate(every).dt.date().alias(_START),
        values.hash(seed=1).alias("first"),
        values.hash(seed=2).alias("second"),
    )
    # The sum of hashes wraps around, and that of rows that are there twice is another one than of those that are not.
    found = hashed.group_by(_START).agg(pl.len().alias("rows"), pl.col("first").sum(), pl.col("second").sum())
    table = found.sort(_START).collect(engine="streaming")
    return {start: f"{rows}-{first:016x}{second:016x}" for start, rows, first, second in table.iter_rows()}


def touched(
    before: Mapping[date, str], now: Mapping[date, str], every: Partition, reach: timedelta | None
) -> Sequence[date]:
    """The partitions of `now` whose features differ from those that were computed from `before`, in order of time.

    These are the partitions of events that came, changed or went, and those that such an event reaches.
    """
    changed = sorted(start for start in {*before, *now} if before.get(start) != now.get(start))
    if not changed:
        return []
    if reach is None:
        return [start for start in sorted(now) if start >= changed[0]]
    ends = [(start, begin(end_of(start, every)) + reach) for start in changed]
    return [start for start in sorted(now) if any(first <= start and begin(start) < end for first, end in ends)]


def end_of(start: date, every: Partition) -> date:
    """The first day after a partition."""
    if every == "1d":
        return start + timedelta(days=1)
    return (start.replace(day=1) + timedelta(days=31)).replace(day=1)


def begin(day: date) -> datetime:
    """The moment at which a day begins, UTC."""
    return datetime.combine(day, time(), UTC)
