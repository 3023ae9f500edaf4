"""A declared data set as the sensor readings it was made of, hour by hour."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from mlops.datasets.declaration import EVENT_TIME, Dataset
from mlops.result import Refused

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

_EXAMPLES = 5  # failures in the result


class Hour(NamedTuple):
    """readings: as the trainer's API takes them, in order of time."""

    start: datetime
    readings: list[dict[str, Any]]


def newest(table: pl.LazyFrame, dataset: Dataset, hours: float, now: datetime) -> pd.DataFrame:
    """The rows of the newest hours up to now in order of time, without those that lack a value.

    Raises Refused for a set whose rows have no time or no sensor.
    """
    if dataset.event_time is None or dataset.entity is None:
        raise Refused(
            f"dataset {dataset.name} has no event times or no entity: choose one whose rows are readings of a sensor"
        )
    import polars as pl

    past = table.filter(pl.col(EVENT_TIME) <= now)
    last = past.select(pl.col(EVENT_TIME).max()).collect().item()
    if last is None:
        return past.collect().to_pandas()
    rows = past.filter(pl.col(EVENT_TIME) > last - timedelta(hours=hours)).collect().to_pandas()
    needed = [dataset.entity, *(column.name for column in dataset.features)]
    whole: pd.DataFrame = rows.dropna(subset=needed)
    return whole.sort_values(EVENT_TIME, kind="stable")


def by_hour(rows: pd.DataFrame, dataset: Dataset) -> Iterator[Hour]:
    """The rows' readings, an hour of the clock at a time; an hour without one is left out."""
    for start, part in rows.groupby(rows[EVENT_TIME].dt.floor("h")):
        yield Hour(start.to_pydatetime(), readings(part, dataset))


def readings(rows: pd.DataFrame, dataset: Dataset) -> list[dict[str, Any]]:
    """A reading is one by its sensor and time: sent again, under the same key, it is a duplicate."""
    sensors, times = rows[str(dataset.entity)].astype(str), rows[EVENT_TIME]
    values = rows[[column.name for column in dataset.features]].astype("float64").to_dict("records")
    binary = dataset.label.kind == "binary"  # of another label none of a reading's answers can be told
    known = dataset.label.of(rows).to_numpy(dtype="float64", na_value=math.nan) if binary else [math.nan] * len(rows)
    return [
        {
            "key": f"{sensor}/{time.isoformat()}",
            "sensor": sensor,
            "time": time.isoformat(),
            "values": row,
            "failure": None if math.isnan(label) else bool(label),
        }
        for sensor, time, row, label in zip(sensors, times, values, known, strict=True)
    ]


def examples(rows: pd.DataFrame, dataset: Dataset) -> dict[str, Any]:
    """The newest failures, and the newest reading that is none, as /predict takes them."""
    failed = dataset.label.of(rows)
    chosen = {"failures": rows[failed == 1].tail(_EXAMPLES), "healthy": rows[failed == 0].tail(1)}
    return {
        name: [{"sensor": one["sensor"], "values": one["values"]} for one in readings(part, dataset)]
        for name, part in chosen.items()
    }
