"""Which rows are judged: the newest window, what it spans, and what names it (polars)."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import polars as pl

from mlops.datasets.declaration import EVENT_TIME, FUTURE, Dataset
from mlops.result import JSON, Refused

_LONGEST = 87_600.0  # hours, ten years: beyond it a window is no part of a set
_FIRST_LOOK, _FARTHER = 2, 8  # windows that are looked back for the newest event, and the factor from look to look


class Window(NamedTuple):
    """rows: what is judged; future: rows whose event is still to come, which are left out.

    about: the set's number of rows; of `future`, how many there are and the latest time; when the window ends, or None
    where no row has a time.
    """

    rows: pl.LazyFrame
    future: pl.LazyFrame
    about: dict[str, JSON]


def check_size(hours: float, fraction: float) -> None:
    """Raises Refused for a window that no rows can lie in, or that is no window."""
    if not (math.isfinite(hours) and 0 < hours <= _LONGEST):
        raise Refused(
            f"a window of {hours:,.10g} hours cannot be judged: it must be longer than 0 and at most {_LONGEST:,.0f} "
            "hours (ten years): give --window-hours, window_hours in the trigger form, in that range"
        )
    if not 0 < fraction <= 1:
        raise Refused(f"the newest {fraction:g} of the rows cannot be judged: --latest-fraction is above 0, at most 1")


def latest(rows: pl.LazyFrame, dataset: Dataset, *, hours: float, fraction: float, now: datetime) -> Window:
    """The rows of the last `hours` before the newest event, or the last `fraction` where no row has a time.

    rows: a scan, of which no more is read than the row groups that may lie in the window, where the file says what lies
        in which.
    An event of the future is not the newest. A row whose time cannot be read belongs to no window, so it stays in this
    one for the checks to find. Raises Refused where all events are of the future.
    """
    total = int(rows.select(pl.len()).collect(engine="streaming").item())
    if EVENT_TIME not in rows.collect_schema():
        return Window(_last(rows, total, fraction), rows.clear(), {"of": total, "future": 0, "end": None})
    limit, length = now + FUTURE, timedelta(hours=hours)
    future = _after(rows, limit)
    late = future.select(pl.len(), pl.col(EVENT_TIME).max()).collect(engine="streaming").row(0)
    about: dict[str, JSON] = {"of": total, "future": late[0], "latest": late[1] and late[1].isoformat()}
    newest = _newest(rows, limit, length)
    if newest is not None:
        inside = _after(rows, newest - length, until=limit, timeless=True)
        return Window(inside, future, {**about, "end": newest.isoformat()})
    if late[0]:
        raise Refused(
            f"dataset {dataset.name}: all of its {late[0]:,} event times lie in the future, up to {about['latest']}: "
            f"correct them, or the unit or zone that the declaration of dataset {dataset.name} gives them"
        )
    return Window(_last(rows, total, fraction), future, {**about, "end": None})


def span(rows: pl.LazyFrame) -> dict[str, int | str | None]:
    """How many rows there are, and the times of the first and the last event; None where no row has a time."""
    time = pl.col(EVENT_TIME) if EVENT_TIME in rows.collect_schema() else pl.lit(None, pl.Datetime("us", "UTC"))
    found = rows.select(pl.len().alias("rows"), time.min().alias("start"), time.max().alias("end"))
    count, start, end = found.collect(engine="streaming").row(0)
    return {"rows": count, "start": start and start.isoformat(), "end": end and end.isoformat()}


def window_name(judged: dict[str, int | str | None], data_version: str, shift_seconds: int) -> str:
    """Names a window by its `span`, with the times of the files, so that shifting the same rows makes no new window.

    The data's version is a part of it: rows that were corrected or that came late are judged anew.
    """
    version = data_version[:12]
    times = [datetime.fromisoformat(str(judged[side])) for side in ("start", "end") if judged[side] is not None]
    if not times:
        return f"{judged['rows']}-rows-{version}"
    shift = timedelta(seconds=shift_seconds)
    start, end = (f"{(time - shift).astimezone(UTC):%Y%m%dT%H%M%SZ}" for time in times)
    return f"{start}-{end}-{version}"


def _after(
    rows: pl.LazyFrame, moment: datetime, *, until: datetime | None = None, timeless: bool = False
) -> pl.LazyFrame:
    """Rows later than the moment and at the latest `until`; and those without a time, if they are asked for."""
    time = pl.col(EVENT_TIME)
    wanted = time > moment
    if until is not None:
        wanted &= time <= until
    return rows.filter(wanted | time.is_null() if timeless else wanted)


def _newest(rows: pl.LazyFrame, limit: datetime, length: timedelta) -> datetime | None:
    """The time of the newest event that is not after `limit`; None where there is none.

    The search goes back from `limit` by steps: what has just happened is found at the first, without a look at what was
    before.
    """
    back = _FIRST_LOOK * length
    while back < limit - datetime(1970, 1, 1, tzinfo=UTC):
        if (found := _greatest(_after(rows, limit - back, until=limit))) is not None:
            return found
        back *= _FARTHER
    return _greatest(rows.filter(pl.col(EVENT_TIME) <= limit))


def _greatest(rows: pl.LazyFrame) -> datetime | None:
    found: datetime | None = rows.select(pl.col(EVENT_TIME).max()).collect(engine="streaming").item()
    return found


def _last(rows: pl.LazyFrame, total: int, fraction: float) -> pl.LazyFrame:
    return rows.tail(max(1, round(total * fraction)))
