"""Feature views as local files, and Feast over them without a server."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import polars as pl
from feast import FeatureStore

from mlops import datasets
from mlops.features import repository
from mlops.features.build import build
from mlops.features.repository import FeatureViewSpec
from mlops.stores.feature_store import FeatureStoreConfig, open_configured

BUILT = datetime(2026, 11, 1, tzinfo=UTC)


def local_store(folder: Path) -> tuple[FeatureStore, FeatureStoreConfig]:
    """A feature store over the files of a folder, with the definitions applied."""
    config = FeatureStoreConfig(f"sqlite:///{folder}/registry.db", "127.0.0.1:9", str(folder / "offline"), None)
    store = open_configured(config)
    store.apply(repository.objects(config))
    return store, config


def rows_of(view: FeatureViewSpec, raw: pd.DataFrame | pl.DataFrame) -> pl.DataFrame:
    """The view's rows of a raw table."""
    table = pl.from_pandas(raw) if isinstance(raw, pd.DataFrame) else raw
    return build(view, table.lazy(), datasets.get(view.dataset), BUILT).collect()


def write_views(folder: Path, dataset: str, raw: pd.DataFrame) -> None:
    """The views of a set where `local_store` of the folder reads them."""
    for view in repository.views_of(dataset):
        file = folder / "offline" / view.file(BUILT.date())
        file.parent.mkdir(parents=True, exist_ok=True)
        rows_of(view, raw).write_parquet(file)
