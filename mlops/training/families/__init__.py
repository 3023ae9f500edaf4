"""The families of models: each module of this package is one, and answers what `Family` asks."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from mlops.result import Failure

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mlops.datasets.declaration import Dataset
    from mlops.stores.tracking import Saved
    from mlops.training.hyperparameters import Hyperparameters

# Of models that were logged before runs said their family.
FIRST = "sklearn"


class Family(Protocol):
    """How models of one kind are fitted, asked, stored, and told from what only looks like one."""

    PACKAGES: Sequence[str]  # what a stored model needs to run

    def fit(self, features: pd.DataFrame, labels: pd.Series, dataset: Dataset, hyperparameters: Hyperparameters) -> Any:
        """The fitted model; the same input gives the same model.

        features: (n, number of features), as columns.features_of gives them; labels: (n,) of 0 and 1.
        """

    def predict(self, model: Any, features: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """((n,) of 0 and 1, (n,) probabilities of 1)."""

    def save(self, model: Any) -> Saved:
        """What the tracking server is to log. Raises Failure for a model that could not be loaded safely."""

    def verify(self, flavors: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether a stored model of these flavors is one of this family, and runs no code when it is loaded."""

    def load(self, folder: Path) -> Any:
        """The model of a folder that was verified."""

    def describe(self, hyperparameters: Hyperparameters) -> str:
        """What it is, for its card."""


def of(params: Mapping[str, str]) -> Family:
    """The family of the run with these parameters."""
    return get(params.get("family", FIRST))


def get(name: str) -> Family:
    """Raises Failure where there is no such family."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise Failure(
            f"family {name!r} is not there: use one of {', '.join(known)} or add mlops/training/families/{name}.py"
        )
    return cast(Family, import_module(f"{__name__}.{name}"))
