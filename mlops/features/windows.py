"""Features computed from events: what was known of an entity at each of its moments, that moment's events included.

Each function takes the rows of a raw table and gives one row for each entity and moment, in order of time. Rows without
an entity or a time are left out; what lies later than a row never changes it.
"""

from collections.abc import Sequence

import polars as pl

from mlops.datasets.declaration import EVENT_TIME

_CLICK = "__click"


def sensor_windows(rows: pl.LazyFrame, key: str, sensors: Sequence[str], minutes: Sequence[int]) -> pl.LazyFrame:
    """Each sensor's last reading and its mean, standard deviation (of the population), min and max.

    A window of m minutes at the moment t holds the readings in (t - m minutes, t]; missing ones do not count, and a
    window without readings has missing statistics. Columns: key, `event_time`, and for each sensor `<sensor>` and
    `<sensor>_<statistic>_<m>m`, Float64.
    """
    readings = [pl.col(sensor).cast(pl.Float64).fill_nan(None) for sensor in sensors]
    events = _ordered(rows.select(key, EVENT_TIME, *readings), key)
    statistics = [
        column.over(key).alias(f"{sensor}_{name}_{window}m")
        for sensor in sensors
        for window in minutes
        for name, column in _statistics(pl.col(sensor), f"{window}m").items()
    ]
    return _moments(events.with_columns(statistics), key)


def activity(rows: pl.LazyFrame, key: str, prefix: str, clicks: pl.Expr, recent_days: int) -> pl.LazyFrame:
    """How often an entity had an event, and which share of these was a click, over all and of late.

    clicks: 1, 0, or missing where an event's outcome is not known; such an event does not count. The recent events at
    t are those in (t - recent_days, t]. Columns: key, `event_time`, `<prefix>_events` (Int64), `<prefix>_click_rate`
    (Float64), both also with `_<recent_days>d`, and `<prefix>_seconds_since_last` (Int64): from the moment before,
    missing at an entity's first.
    """
    known = rows.select(key, EVENT_TIME, clicks.cast(pl.Int64).alias(_CLICK)).drop_nulls(_CLICK)
    clicked, recent = pl.col(_CLICK), f"{24 * recent_days}h"
    counts = {
        "": (clicked.cum_count(), clicked.cum_sum()),
        f"_{recent_days}d": (
            (clicked * 0 + 1).rolling_sum_by(EVENT_TIME, recent, closed="right"),
            clicked.rolling_sum_by(EVENT_TIME, recent, closed="right"),
        ),
    }
    columns = []
    for suffix, (events, of_clicks) in counts.items():
        count = events.over(key).cast(pl.Int64)
        columns += [
            count.alias(f"{prefix}_events{suffix}"),
            (of_clicks.over(key) / count).alias(f"{prefix}_click_rate{suffix}"),
        ]
    found = _moments(_ordered(known, key).with_columns(columns), key).drop(_CLICK)
    gap = pl.col(EVENT_TIME).diff().over(key).dt.total_seconds()
    return found.with_columns(gap.alias(f"{prefix}_seconds_since_last"))


def profile(rows: pl.LazyFrame, key: str, columns: Sequence[str]) -> pl.LazyFrame:
    """What an entity had said of itself by then: each column as the last event that had a value of it.

    Before its first event nothing is known of it, and what it says later is not carried back. Columns: key,
    `event_time`, and `columns`.
    """
    events = _ordered(rows.select(key, EVENT_TIME, *columns), key)
    return _moments(events.with_columns(pl.col(columns).forward_fill().over(key)), key)


def _statistics(reading: pl.Expr, window: str) -> dict[str, pl.Expr]:
    return {
        "mean": reading.rolling_mean_by(EVENT_TIME, window, closed="right"),
        "std": reading.rolling_std_by(EVENT_TIME, window, closed="right", ddof=0),
        "min": reading.rolling_min_by(EVENT_TIME, window, closed="right"),
        "max": reading.rolling_max_by(EVENT_TIME, window, closed="right"),
    }


def _ordered(rows: pl.LazyFrame, key: str) -> pl.LazyFrame:
    """The rows that have an entity and a time, one entity after the other, each in order of time."""
    return rows.drop_nulls([key, EVENT_TIME]).sort(key, EVENT_TIME, maintain_order=True)


def _moments(rows: pl.LazyFrame, key: str) -> pl.LazyFrame:
    """The last row of each entity and moment, in order of time; rows: as `_ordered` has them."""
    same = pl.all_horizontal(pl.col(name) == pl.col(name).shift(-1) for name in (key, EVENT_TIME))
    return rows.filter(~same.fill_null(False)).sort(EVENT_TIME, key)
