"""Models of the first family, small enough to be fitted often."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import pandas as pd
from sklearn.pipeline import Pipeline

from mlops import datasets
from mlops.datasets.declaration import Dataset
from mlops.registry.record import FILL, IN_THE_MODEL, SPLIT
from mlops.stores.tracking import Tracking
from mlops.training.columns import signature_of
from mlops.training.families import sklearn
from mlops.training.hyperparameters import Hyperparameters
from mlops.training.measures import Answers, Rows
from mlops.training.score import Scores, score


def fitted(features: pd.DataFrame, labels: pd.Series, dataset: str = "shuttle", max_iter: int = 2) -> Pipeline:
    return sklearn.fit(features, labels, datasets.get(dataset), Hyperparameters(max_iter=max_iter))


def scores_of(model: Any, features: pd.DataFrame, labels: pd.Series, dataset: Dataset) -> Scores:
    rows = Rows.of(labels, dataset)
    return score(rows, Answers.of(sklearn.predict(model, features), rows), dataset.label.kind)


def log(
    tracking: Tracking,
    model: Pipeline,
    example: pd.DataFrame,
    tags: Mapping[str, str] | None = None,
    packages: Sequence[str] = ("scikit-learn",),
    dataset: str = "shuttle",
    params: Mapping[str, str] | None = None,
) -> str:
    """The run that the model is logged to, as `training fit` would. params: of the run, instead of a new one's."""
    declared = datasets.get(dataset)
    said = {SPLIT: declared.split_rule, FILL: IN_THE_MODEL} if params is None else params
    with tracking.new_run(dataset, "test", dict(tags or {})) as run_id:
        tracking.log(run_id, params={"dataset": dataset, **said})
        tracking.log_model(sklearn.save(model), example, signature_of(example, declared), packages)
    return run_id


def loaded(tracking: Tracking, uri: str) -> Any:
    with TemporaryDirectory() as folder:
        return sklearn.load(tracking.download_model(uri, Path(folder), sklearn.LAYOUT))


def version_of(name: str, run_id: str) -> str:
    """A version of the registered model of this name, made of a run that need not have logged a model."""
    client = mlflow.MlflowClient()
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return str(client.create_model_version(name, client.get_run(run_id).info.artifact_uri, run_id=run_id).version)
