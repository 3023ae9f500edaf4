"""From labelled rows to the features that a model would have been served for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mlops.datasets.declaration import EVENT_TIME, LABEL
from mlops.features.repository import FeatureServiceSpec
from mlops.result import Failure
from mlops.stores.feature_store import EVENT_TIMESTAMP

if TYPE_CHECKING:
    from feast import FeatureStore


def spine(table: pd.DataFrame, service: FeatureServiceSpec) -> pd.DataFrame:
    """What Feast is asked for: each row's keys, and the moment as of which its features are served."""
    keys = list(dict.fromkeys(view.key.column for view in service.views))
    return table[keys].assign(**{EVENT_TIMESTAMP: service.as_of(table[EVENT_TIME])})


def retrieve(store: FeatureStore, service: FeatureServiceSpec, table: pd.DataFrame) -> pd.DataFrame:
    """The service's features in declared order (numbers float64, all else text or None), `event_time` and `label`.

    table: clean rows with the service's keys, `event_time` and `label`; all of them come back, in their order.
    Raises Failure where no row has any value of a view: its features were not computed, or for another time.
    """
    asked = spine(table, service)
    known = store.get_historical_features(asked, store.get_feature_service(service.name)).to_df()
    absent = [view.name for view in service.views if known[list(view.features)].isna().all(axis=None)]
    if absent:
        raise Failure(
            f"no row of dataset {service.dataset} has a value of {', '.join(absent)}, asked from "
            f"{asked[EVENT_TIMESTAMP].min()} to {asked[EVENT_TIMESTAMP].max()}: run 'python -m mlops features build "
            f"--dataset {service.dataset}'"
        )
    columns = {name: _typed(known[name], dtype) for name, dtype in service.features.items()}
    rows = {EVENT_TIME: table[EVENT_TIME].reset_index(drop=True), LABEL: table[LABEL].reset_index(drop=True)}
    return pd.DataFrame({**columns, **rows})


def _typed(values: pd.Series, dtype: str) -> pd.Series:
    if dtype != "String":
        return values.astype("float64")
    return values.astype(object).mask(values.isna(), other=None)
