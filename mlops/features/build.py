"""From a raw set to the tables of its feature views, as the offline store keeps them."""

from collections.abc import Callable
from datetime import datetime

import pandas as pd

from mlops.datasets.declaration import EVENT_TIME, Dataset
from mlops.features import windows
from mlops.features.repository import RECENT_DAYS, SENSORS, WINDOWS, FeatureViewSpec
from mlops.stores.feature_store import CREATED, EVENT_TIMESTAMP

_TYPES = {"Float64": "float64", "Int64": "Int64", "String": "object"}


def build(view: FeatureViewSpec, table: pd.DataFrame, dataset: Dataset, created: datetime) -> pd.DataFrame:
    """The view's rows, in order of time: its key, `event_timestamp`, `created`, and its features in declared order."""
    rows = _COMPUTE[view.name](view, table, dataset).rename(columns={EVENT_TIME: EVENT_TIMESTAMP})
    types = {view.key.column: "object", **{name: _TYPES[dtype] for name, dtype in view.features.items()}}
    rows = rows.assign(**{CREATED: pd.Timestamp(created)})
    rows[EVENT_TIMESTAMP] = rows[EVENT_TIMESTAMP].astype("datetime64[us, UTC]")
    rows[CREATED] = rows[CREATED].astype("datetime64[us, UTC]")
    return rows[[view.key.column, EVENT_TIMESTAMP, CREATED, *view.features]].astype(types)


def _sensor_windows(view: FeatureViewSpec, table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    return windows.sensor_windows(table, view.key.column, SENSORS, WINDOWS)


def _activity(view: FeatureViewSpec, table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    return windows.activity(table, view.key.column, view.key.name, dataset.label.of(table), RECENT_DAYS)


def _profile(view: FeatureViewSpec, table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    return windows.profile(table, view.key.column, list(view.features))


_COMPUTE: dict[str, Callable[[FeatureViewSpec, pd.DataFrame, Dataset], pd.DataFrame]] = {
    "sensor_windows": _sensor_windows,
    "user_activity": _activity,
    "item_activity": _activity,
    "user_profile": _profile,
}
