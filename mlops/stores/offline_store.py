"""Feast's file-based offline store with a point-in-time join that is linear and exact.

The stock join (feast/infra/offline_stores/dask.py, 0.67) pairs each asked row with all rows of its entity before it
chooses one: 49,097 readings of one machine make 2.4 thousand million pairs. It also keeps one row for each entity and
moment, so that it loses rows that differ in a second entity, drops rows whose entity has later values only, and sorts
ties unstably. Here polars' join_asof walks both sides once, over files of which only the needed columns are read, and
every asked row comes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pandas as pd
import polars as pl
import pyarrow
from feast import FeatureView
from feast.infra.offline_stores.dask import DaskOfflineStore, DaskOfflineStoreConfig, DaskRetrievalJob
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as ASKED
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig

from mlops.stores.object_store import bucket

_KNOWN = "__event_timestamp"  # when a value became known, beside ASKED, the moment it is wanted for
_ROW = "__row"
_TIME = pl.Datetime("us", "UTC")
# A missing whole number stays missing instead of making fractions of the others.
_NULLABLE = {pyarrow.int32(): pd.Int32Dtype(), pyarrow.int64(): pd.Int64Dtype(), pyarrow.bool_(): pd.BooleanDtype()}


class AsOfOfflineStoreConfig(DaskOfflineStoreConfig):
    type: Literal["mlops.stores.offline_store.AsOfOfflineStore"] = "mlops.stores.offline_store.AsOfOfflineStore"  # type: ignore[assignment]


class AsOfRetrievalJob(DaskRetrievalJob):
    """The stock job, around a function that gives an Arrow table."""

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        table: pd.DataFrame = self.evaluation_function().to_pandas(types_mapper=_NULLABLE.get)
        return table

    def _to_arrow_internal(self, timeout: int | None = None) -> pyarrow.Table:
        table: pyarrow.Table = self.evaluation_function()
        return table


class AsOfOfflineStore(DaskOfflineStore):
    """The stock store for all but the point-in-time join."""

    supports_filter_by_created_timestamp = False

    @staticmethod
    def get_historical_features(  # type: ignore[override]  # of a Dask table there is no use here
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """Each row of `entity_df`, in its order, with the newest values known at its `event_timestamp`.

        Of several values of one moment the one created last counts. Without a value the features are missing.
        """
        if not isinstance(entity_df, pd.DataFrame) or ASKED not in entity_df or entity_df[ASKED].isna().any():
            raise ValueError(f"entity_df must be a pandas table with the column {ASKED!r}, which has no missing value")
        asked = entity_df

        def evaluate() -> pyarrow.Table:
            spine = asked.assign(**{ASKED: pd.to_datetime(asked[ASKED], utc=True)})
            table = pl.from_pandas(spine).lazy().with_columns(pl.col(ASKED).cast(_TIME))
            for view in feature_views:
                name = view.projection.name_to_use()  # type: ignore[no-untyped-call]
                wanted = [ref.partition(":")[2] for ref in feature_refs if ref.partition(":")[0] == name]
                columns = {feature: f"{name}__{feature}" if full_feature_names else feature for feature in wanted}
                keys = [_asked_key(view, column.name) for column in view.entity_columns]
                known = read_source(view, wanted, config).rename(columns)
                table = as_of(table, known, keys, view.ttl or None)
            return table.collect().to_arrow()

        return AsOfRetrievalJob(
            evaluation_function=evaluate,
            full_feature_names=full_feature_names,
            repo_path=str(config.repo_path),
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[column for column in asked.columns if column != ASKED],
                min_event_timestamp=_datetime(asked[ASKED].min()),
                max_event_timestamp=_datetime(asked[ASKED].max()),
            ),
        )


def as_of(asked: pl.LazyFrame, known: pl.LazyFrame, keys: list[str], ttl: timedelta | None) -> pl.LazyFrame:
    """The rows of `asked`, in their order, with the columns of the row of `known` that was the newest at the time.

    asked: has `event_timestamp` and the keys; known: sorted by `__event_timestamp`, of equal ones the valid one last.
    """
    types = asked.collect_schema()
    ordered = asked.with_row_index(_ROW).sort(ASKED, maintain_order=True)
    joined = ordered.join_asof(
        known.with_columns(pl.col(key).cast(types[key]) for key in keys).set_sorted(_KNOWN),
        left_on=ASKED,
        right_on=_KNOWN,
        by=keys or None,
        tolerance=ttl,
        strategy="backward",
        coalesce=True,
        check_sortedness=False,  # of groups it could not be looked at
    )
    return joined.sort(_ROW).drop(_ROW, _KNOWN, strict=False)


def read_source(view: FeatureView, features: Iterable[str], config: RepoConfig) -> pl.LazyFrame:
    """A view's keys, features and `__event_timestamp` from Parquet, in order of time and then of creation."""
    source = view.batch_source
    if not isinstance(source, FileSource):
        raise TypeError(f"feature view {view.name} has no files to read: its source is {source}")
    keys = [column.name for column in view.entity_columns]
    columns = list(dict.fromkeys([*keys, *features]))
    times = [name for name in (source.timestamp_field, source.created_timestamp_column) if name]
    rows = _scan(source, config).rename(dict(source.field_mapping), strict=False)
    known = rows.with_columns(pl.col(source.timestamp_field).cast(_TIME).alias(_KNOWN)).drop_nulls(_KNOWN)
    ordered = known.sort([_KNOWN, *times[1:]], maintain_order=True).select(*columns, _KNOWN)
    return ordered.rename({key: _asked_key(view, key) for key in keys})


def _scan(source: FileSource, config: RepoConfig) -> pl.LazyFrame:
    """Every Parquet file of the source's folder."""
    address = urlsplit(source.path)
    if address.scheme == "s3":
        return bucket(address.netloc).scan_parts(f"{address.path.strip('/')}/")
    folder = Path(FileSource.get_uri_for_file_path(config.repo_path, source.path).removeprefix("file://"))
    return pl.scan_parquet(sorted(folder.rglob("*.parquet")), hive_partitioning=False)


def _asked_key(view: FeatureView, key: str) -> str:
    """What a join key is called by who asks: a view may be used under other names for its keys."""
    return str(view.projection.join_key_map.get(key, key))


def _datetime(moment: Any) -> datetime | None:
    return None if pd.isna(moment) else pd.Timestamp(moment).to_pydatetime()
