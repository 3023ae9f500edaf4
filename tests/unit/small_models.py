"""Models of the first family, small enough to be fitted often."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from sklearn.pipeline import Pipeline

from mlops import datasets
from mlops.stores.tracking import Tracking
from mlops.training.families import sklearn
from mlops.training.hyperparameters import Hyperparameters


def fitted(features: pd.DataFrame, labels: pd.Series, dataset: str = "shuttle", max_iter: int = 2) -> Pipeline:
    return sklearn.fit(features, labels, datasets.get(dataset), Hyperparameters(max_iter=max_iter))


def log(
    tracking: Tracking,
    model: Pipeline,
    example: pd.DataFrame,
    tags: Mapping[str, str] | None = None,
    packages: Sequence[str] = ("scikit-learn",),
) -> str:
    """The run that the model is logged to."""
    with tracking.new_run("shuttle", "test", dict(tags or {})) as run_id:
        tracking.log(run_id, params={"dataset": "shuttle"})
        tracking.log_model(sklearn.save(model), example, model.predict(example), packages)
    return run_id


def loaded(tracking: Tracking, uri: str) -> Any:
    with TemporaryDirectory() as folder:
        return sklearn.load(tracking.download_model(uri, Path(folder), sklearn.verify))
