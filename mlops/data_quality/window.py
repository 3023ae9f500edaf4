"""Which rows are judged: the newest window, what it spans, and what names it."""

from __future__ import annotations

import pandas as pd

from mlops.datasets.declaration import EVENT_TIME


def latest(table: pd.DataFrame, hours: float, fraction: float) -> pd.DataFrame:
    """The rows of the last `hours` before the newest event, or the last `fraction` where no row has a time.

    A row whose time cannot be read belongs to no window, so it stays in this one for the checks to find.
    """
    times = table.get(EVENT_TIME)
    if times is None or times.isna().all():
        return table.tail(max(1, round(len(table) * fraction)))
    inside: pd.Series = times.isna() | (times > times.max() - pd.Timedelta(hours=hours))
    return table.loc[inside]


def earliest(table: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """The first `fraction` of the rows by event time, or as they lie where no row has a time."""
    if EVENT_TIME in table:
        table = table.sort_values(EVENT_TIME, kind="stable")
    return table.head(max(1, round(len(table) * fraction)))


def span(table: pd.DataFrame) -> dict[str, int | str | None]:
    """How many rows there are, and the times of the first and the last event; None where no row has a time."""
    times = table[EVENT_TIME].dropna() if EVENT_TIME in table else pd.Series(dtype="datetime64[ns, UTC]")
    start, end = (None, None) if times.empty else (times.min().isoformat(), times.max().isoformat())
    return {"rows": len(table), "start": start, "end": end}


def window_name(table: pd.DataFrame, data_version: str, shift_seconds: int) -> str:
    """Names the window by the times of the files, so that shifting the same rows once more makes no new window.

    The data's version is a part of it: rows that were corrected or that came late are judged anew.
    """
    times = table[EVENT_TIME].dropna() if EVENT_TIME in table else pd.Series(dtype="datetime64[ns, UTC]")
    version = data_version[:12]
    if times.empty:
        return f"{len(table)}-rows-{version}"
    shift = pd.Timedelta(seconds=shift_seconds)
    start, end = (f"{time - shift:%Y%m%dT%H%M%SZ}" for time in (times.min(), times.max()))
    return f"{start}-{end}-{version}"
