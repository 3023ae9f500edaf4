"""Event times, in UTC, out of the columns that hold them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl

from mlops.datasets.declaration import (
    EVENT_TIME,
    Clock,
    EpochMilliseconds,
    EpochSeconds,
    EventTime,
    Source,
    Timestamp,
)
from mlops.datasets.parsing.columns import number
from mlops.result import Refused

TYPE = pl.Datetime("us", "UTC")
_LAST = 253_402_300_799  # the last second of the year 9999
# Milliseconds of after April 1970 that are read as seconds are times after the year 2286, and seconds of before 2286
# that are read as milliseconds are times of before May 1970.
_TOO_LATE, _TOO_EARLY = (datetime.fromtimestamp(seconds, UTC) for seconds in (10_000_000_000, 10_000_000))
_ZONED = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
_UNZONED = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")


def with_event_time(
    rows: pl.LazyFrame, times: pl.Expr, dtype: pl.DataType, declared: EventTime, source: Source
) -> pl.LazyFrame:
    """Rows with `event_time`, a Datetime("us", "UTC"); null where the value is missing or no such time.

    times: the raw column that holds them, of type `dtype`. Raises Refused where none of them is a time as it is
    declared, with what it is instead.
    """
    match declared:
        case EpochSeconds() | EpochMilliseconds():
            made = _since_1970(times, dtype, declared, source)
        case Timestamp(zone=zone, format=form):
            made = timestamps(times, zone, form)
        case Clock():
            raise TypeError("a clock has no column")
    rows = rows.with_columns(made.alias(EVENT_TIME))
    _check(rows, times, declared)
    return rows


def with_clock(rows: pl.LazyFrame, clock: Clock) -> pl.LazyFrame:
    """Rows as they lie, the first at the clock's start, each next one as much later."""
    step = clock.every // timedelta(microseconds=1)
    start = pl.lit(clock.start).cast(TYPE)
    times = start + (pl.col("row").cast(pl.Int64) * step).cast(pl.Duration("us"))
    return rows.with_row_index("row").with_columns(times.alias(EVENT_TIME)).drop("row")


def _since_1970(
    times: pl.Expr, dtype: pl.DataType, declared: EpochSeconds | EpochMilliseconds, source: Source
) -> pl.Expr:
    numbers = number(times, source.decimal, source.thousands) if dtype == pl.String else times.cast(pl.Float64)
    seconds = numbers / 1_000 if isinstance(declared, EpochMilliseconds) else numbers
    inside = seconds.is_between(-_LAST, _LAST)
    return pl.when(inside).then((seconds * 1_000_000).round().cast(pl.Int64, strict=False)).cast(TYPE)


def timestamps(times: pl.Expr, zone: str | None, form: str | None) -> pl.Expr:
    """Texts as UTC times, null for what is none: by ISO 8601 or `form`, and in `zone` where they name none."""
    text = times.cast(pl.String).str.strip_chars()
    if form is not None:
        zoned = "%z" in form or "%:z" in form or "%#z" in form
        read = text.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC" if zoned else None)
        return read if zoned else _in_zone(read, zone)
    text = text.str.replace(r"^(\d{4}-\d{2}-\d{2}) ", "${1}T")
    zoned_times = [text.str.to_datetime(one, strict=False, time_unit="us", time_zone="UTC") for one in _ZONED]
    plain_times = [text.str.to_datetime(one, strict=False, time_unit="us") for one in _UNZONED]
    return pl.coalesce(*zoned_times, _in_zone(pl.coalesce(plain_times), zone))


def _in_zone(times: pl.Expr, zone: str | None) -> pl.Expr:
    if zone is None:
        return pl.lit(None, dtype=TYPE)
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise Refused(f"is declared with zone={zone!r}, which nobody knows: declare one such as 'UTC'") from error
    return (
        times.dt.replace_time_zone(zone, ambiguous="null", non_existent="null").dt.convert_time_zone("UTC").cast(TYPE)
    )


def _check(rows: pl.LazyFrame, times: pl.Expr, declared: EventTime) -> None:
    """Raises Refused where most values are none of the declared times: a few wrong ones are for validation to see."""
    known, read, late, early, example = (
        rows.select(
            times.count().alias("known"),
            pl.col(EVENT_TIME).count().alias("read"),
            (pl.col(EVENT_TIME) > _TOO_LATE).sum().alias("late"),
            (pl.col(EVENT_TIME) < _TOO_EARLY).sum().alias("early"),
            times.drop_nulls().first().cast(pl.String).alias("example"),
        )
        .collect(engine="streaming")
        .row(0)
    )
    what = f"has event times in column {getattr(declared, 'column', '')!r} such as {example!r}"
    wrong = known - read
    match declared:
        case EpochSeconds() if 2 * (wrong + late) > known:
            raise Refused(f"{what}, which are no seconds since 1970: declare event_time={_fitting(example)}")
        case EpochMilliseconds() if 2 * (wrong + early) > known:
            raise Refused(f"{what}, which are no milliseconds since 1970: declare event_time={_fitting(example)}")
        case Timestamp(zone=None, format=form) if 2 * wrong > known and _is_time(example, form):
            raise Refused(f"{what}, which name no zone: declare zone='UTC', or the one in which they were written")
        case Timestamp() if 2 * wrong > known:
            raise Refused(f"{what}, which are no times as declared: declare event_time={_fitting(example)}")


def _is_time(text: str, form: str | None) -> bool:
    return pl.select(timestamps(pl.lit(text), "UTC", form)).item() is not None


def _fitting(example: str) -> str:
    """The event time to declare for values such as this one."""
    if _is_time(example, None):
        return "Timestamp(...)"
    try:
        return "EpochMilliseconds(...)" if float(example) > _TOO_LATE.timestamp() else "EpochSeconds(...)"
    except ValueError:
        return "Timestamp(...) with the format of these, such as format='%d.%m.%Y %H:%M' and zone='UTC'"
