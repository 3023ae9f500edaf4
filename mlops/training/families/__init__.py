"""The families of models: each module of this package is one, and answers what `Family` asks."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from mlops.result import Failure

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mlops.datasets.declaration import Dataset, LabelKind
    from mlops.stores.model_files import Layout
    from mlops.stores.tracking import Saved
    from mlops.training.hyperparameters import Hyperparameters

# Of models that were logged before runs said their family.
FIRST = "sklearn"


class Prediction(NamedTuple):
    """values: (n,) of 0 and 1, of classes, or of numbers; classes: (k,) and probabilities: (n, k), None of numbers."""

    values: np.ndarray
    classes: np.ndarray | None = None
    probabilities: np.ndarray | None = None


class Family(Protocol):
    """How models of one kind are fitted, asked, stored, and told from what only looks like one."""

    PACKAGES: Sequence[str]  # what a stored model needs to run
    KINDS: Sequence[LabelKind]  # the labels that it can learn
    LAYOUT: Layout  # of the files of a stored model that runs no code when it is loaded
    FILE: str  # the one of them that holds the model

    def fit(self, features: pd.DataFrame, labels: pd.Series, dataset: Dataset, hyperparameters: Hyperparameters) -> Any:
        """The fitted model, which reads features with missing values; the same input gives the same model.

        features: (n, number of features), as columns.features_of gives them; labels: (n,) of 0 and 1, of classes, or of
        numbers, as the dataset's label says.
        """

    def predict(self, model: Any, features: pd.DataFrame) -> Prediction:
        """What the model says of (n, number of features) rows."""

    def save(self, model: Any) -> Saved:
        """What the tracking server is to log. Raises Failure for a model that could not be loaded safely."""

    def load(self, folder: Path) -> Any:
        """The model of a folder that was verified."""

    def describe(self, hyperparameters: Hyperparameters) -> str:
        """What it is, for its card."""


def of(params: Mapping[str, str]) -> Family:
    """The family of the run with these parameters."""
    return get(name_of(params))


def name_of(params: Mapping[str, str]) -> str:
    """What the family of the run with these parameters is called."""
    return params.get("family", FIRST)


def get(name: str) -> Family:
    """Raises Failure where there is no such family."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise Failure(
            f"family {name!r} is not there: use one of {', '.join(known)} or add mlops/training/families/{name}.py"
        )
    return cast(Family, import_module(f"{__name__}.{name}"))
