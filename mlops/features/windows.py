"""Features computed from events: what was known of an entity at each of its moments, that moment's events included.

Each function takes a raw table and gives one row for each entity and moment, in order of time. Rows without an entity
or a time are left out; what lies later than a row never changes it.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops.datasets.declaration import EVENT_TIME

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_VALUES_AT_ONCE = 1_000_000  # readings of one sensor that are spread out in memory at a time
_DAY = 24 * 60 * 60


def sensor_windows(table: pd.DataFrame, key: str, sensors: Sequence[str], minutes: Sequence[int]) -> pd.DataFrame:
    """Each sensor's last reading and its mean, standard deviation (of the population), min and max.

    A window of m minutes at the moment t holds the readings in (t - m minutes, t]; missing ones do not count, and a
    window without readings has missing statistics. Columns: key, `event_time`, and for each sensor `<sensor>` and
    `<sensor>_<statistic>_<m>m`, float64.
    """
    events = _ordered(table, key)
    entities, moments = _codes(events[key]), _microseconds(events[EVENT_TIME])
    last = _last_of_moment(entities, moments)
    ends = np.flatnonzero(last) + 1
    columns: dict[str, Floats] = {}
    starts = {m: _window_starts(entities, moments, m * 60 * 1_000_000)[last] for m in minutes}
    for sensor in sensors:
        readings = events[sensor].to_numpy(dtype=np.float64)
        columns[sensor] = readings[last]
        for window, begins in starts.items():
            for statistic, values in _statistics(readings, begins, ends).items():
                columns[f"{sensor}_{statistic}_{window}m"] = values
    return _by_time(events.loc[last, [key, EVENT_TIME]].assign(**columns))


def activity(table: pd.DataFrame, key: str, prefix: str, clicks: pd.Series, recent_days: int) -> pd.DataFrame:
    """How often an entity had an event, and which share of these was a click, over all and of late.

    clicks: 1, 0, or missing where an event's outcome is not known; such an event does not count. The recent events at
    t are those in (t - recent_days, t]. Columns: key, `event_time`, `<prefix>_events` (int64), `<prefix>_click_rate`
    (float64), both also with `_<recent_days>d`, and `<prefix>_seconds_since_last` (Int64): from the moment before,
    missing at an entity's first.
    """
    known = clicks.notna()
    events = _ordered(table.loc[known, [key, EVENT_TIME]].assign(click=clicks[known].astype("int64")), key)
    entities, moments = _codes(events[key]), _microseconds(events[EVENT_TIME])
    last = _last_of_moment(entities, moments)
    rows = np.flatnonzero(last)
    clicked = np.concatenate([[0], np.cumsum(events["click"].to_numpy())])
    since = {
        "": np.searchsorted(entities, entities, side="left")[last],
        f"_{recent_days}d": _window_starts(entities, moments, recent_days * _DAY * 1_000_000)[last],
    }
    columns: dict[str, Integers | Floats] = {}
    for suffix, begins in since.items():
        count = rows + 1 - begins
        columns[f"{prefix}_events{suffix}"] = count
        columns[f"{prefix}_click_rate{suffix}"] = (clicked[rows + 1] - clicked[begins]) / count
    found = events.loc[last, [key, EVENT_TIME]].assign(**columns)
    gap = found.groupby(key, sort=False)[EVENT_TIME].diff().dt.total_seconds()
    return _by_time(found.assign(**{f"{prefix}_seconds_since_last": np.floor(gap).astype("Int64")}))


def profile(table: pd.DataFrame, key: str, columns: Sequence[str]) -> pd.DataFrame:
    """What is known of an entity whatever it does: the columns as its last event has them.

    It was known before the entity's first event, which is why there is a row a second before that; and it still holds
    at the last event, so that there is one then, which a materialization of the last days finds.
    """
    events = _ordered(table, key)
    entities = events.groupby(key, sort=False)
    latest = events[[key, *columns]].groupby(key, sort=False).last()
    first = latest.assign(**{EVENT_TIME: entities[EVENT_TIME].first() - pd.Timedelta(seconds=1)})
    last = latest.assign(**{EVENT_TIME: entities[EVENT_TIME].last()})
    return _by_time(pd.concat([first, last]).reset_index()[[key, EVENT_TIME, *columns]])


def _ordered(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """The rows that have an entity and a time, one entity after the other, each in order of time."""
    known = table.dropna(subset=[key, EVENT_TIME])
    return known.sort_values([key, EVENT_TIME], kind="stable").reset_index(drop=True)


def _by_time(rows: pd.DataFrame) -> pd.DataFrame:
    key = next(iter(rows.columns))
    return rows.sort_values([EVENT_TIME, key], kind="stable").reset_index(drop=True)


def _codes(keys: pd.Series) -> Integers:
    """0, 1, 2 ... for ordered keys."""
    return np.cumsum(keys.ne(keys.shift()).to_numpy()).astype(np.int64) - 1


def _microseconds(times: pd.Series) -> Integers:
    return times.to_numpy(dtype="datetime64[us]").astype(np.int64)


def _last_of_moment(entities: Integers, moments: Integers) -> npt.NDArray[np.bool_]:
    """True for the last row of each entity and moment."""
    last = np.ones(len(entities), dtype=bool)
    last[:-1] = (np.diff(entities) != 0) | (np.diff(moments) != 0)
    return last


def _window_starts(entities: Integers, moments: Integers, length: int) -> Integers:
    """For each row the first row of its entity that is less than `length` older."""
    if len(moments) == 0:
        return np.zeros(0, dtype=np.int64)
    origin = moments.min()
    stride = moments.max() - origin + length + 1  # no window reaches into the entity before
    position = entities * stride + (moments - origin)
    starts: Integers = np.searchsorted(position, position - length, side="right").astype(np.int64)
    return starts


def _statistics(readings: Floats, begins: Integers, ends: Integers) -> dict[str, Floats]:
    """Mean, standard deviation, min and max of readings[begin:end], of each pair; none is empty.

    Each window is summed by itself and its spread taken from its own mean: running sums would carry the rounding of
    one large reading through all windows after it.
    """
    parts = [_block(readings, begins[rows], ends[rows]) for rows in _blocks(ends - begins)]
    names = ("mean", "std", "min", "max")
    return {name: np.concatenate([part[i] for part in parts] or [np.zeros(0)]) for i, name in enumerate(names)}


def _block(readings: Floats, begins: Integers, ends: Integers) -> tuple[Floats, Floats, Floats, Floats]:
    lengths = ends - begins
    offsets = np.cumsum(lengths) - lengths
    values = readings[np.arange(lengths.sum()) + np.repeat(begins - offsets, lengths)]
    missing = np.isnan(values)
    count = np.add.reduceat((~missing).astype(np.float64), offsets)
    count[count == 0] = np.nan
    mean = np.add.reduceat(np.where(missing, 0.0, values), offsets) / count
    deviation = np.where(missing, 0.0, values - np.repeat(mean, lengths))
    spread = np.sqrt(np.add.reduceat(deviation**2, offsets) / count)
    low, high = np.fmin.reduceat(values, offsets), np.fmax.reduceat(values, offsets)
    return mean, spread, low, high


def _blocks(lengths: Integers) -> Iterator[slice]:
    """Runs of windows that hold about _VALUES_AT_ONCE values together."""
    block = np.cumsum(lengths) // _VALUES_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1), len(lengths)]
    for begin, end in pairwise(edges):
        if end > begin:
            yield slice(int(begin), int(end))
