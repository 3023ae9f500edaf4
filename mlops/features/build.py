"""From the rows of a raw set to those of its feature views, as the offline store keeps them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import polars as pl

from mlops.datasets.declaration import EVENT_TIME, Dataset
from mlops.features import windows
from mlops.features.repository import RECENT_DAYS, SENSORS, WINDOWS, FeatureViewSpec
from mlops.stores.feature_store import CREATED, EVENT_TIMESTAMP

_TYPES: dict[str, type[pl.DataType]] = {"Float64": pl.Float64, "Int64": pl.Int64, "String": pl.String}
_TIME = pl.Datetime("us", "UTC")


def inputs(view: FeatureViewSpec, dataset: Dataset) -> list[str]:
    """The columns of the raw set that the view is computed from, its key and `event_time` among them."""
    return [view.key.column, EVENT_TIME, *_OF[view.name].columns(view, dataset)]


def build(view: FeatureViewSpec, rows: pl.LazyFrame, dataset: Dataset, created: datetime) -> pl.LazyFrame:
    """The view's rows, in order of time: its key, `event_timestamp`, `created`, and its features in declared order."""
    events = rows.select(inputs(view, dataset)).with_columns(
        pl.col(view.key.column).cast(pl.String), pl.col(EVENT_TIME).cast(_TIME)
    )
    return (
        _OF[view.name]
        .rows(view, events, dataset)
        .select(
            view.key.column,
            pl.col(EVENT_TIME).alias(EVENT_TIMESTAMP),
            pl.lit(created, _TIME).alias(CREATED),
            *(pl.col(name).cast(_TYPES[dtype]) for name, dtype in view.features.items()),
        )
    )


class _Computation(NamedTuple):
    """columns: of the raw set, beside key and time; rows: from these to key, `event_time` and features."""

    columns: Callable[[FeatureViewSpec, Dataset], Sequence[str]]
    rows: Callable[[FeatureViewSpec, pl.LazyFrame, Dataset], pl.LazyFrame]


def _sensor_windows(view: FeatureViewSpec, rows: pl.LazyFrame, dataset: Dataset) -> pl.LazyFrame:
    return windows.sensor_windows(rows, view.key.column, SENSORS, WINDOWS)


def _activity(view: FeatureViewSpec, rows: pl.LazyFrame, dataset: Dataset) -> pl.LazyFrame:
    return windows.activity(rows, view.key.column, view.key.name, dataset.label.expression == 1, RECENT_DAYS)


def _profile(view: FeatureViewSpec, rows: pl.LazyFrame, dataset: Dataset) -> pl.LazyFrame:
    return windows.profile(rows, view.key.column, list(view.features))


_ACTIVITY = _Computation(lambda view, dataset: [dataset.label.column], _activity)
_OF = {
    "sensor_windows": _Computation(lambda view, dataset: SENSORS, _sensor_windows),
    "user_activity": _ACTIVITY,
    "item_activity": _ACTIVITY,
    "user_profile": _Computation(lambda view, dataset: list(view.features), _profile),
}
