"""What the model server answers: predictions, and, for who asks, the probability of each class beside them.

MLflow's scoring server loads its model through this module, which it finds named in the file `MLmodel` of the copy that
it serves; what is stored is a plain model of MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mlops.training.families import Family

PROBABILITIES = "probabilities"  # the parameter of a request, and the field of the answer


class Configuration(TypedDict):
    """family: of the model; columns: all that it reads."""

    family: str
    columns: list[str]


class ServedModel:
    """A model as MLflow's scoring server asks it."""

    def __init__(self, family: Family, model: Any, columns: list[str]) -> None:
        self._family, self._model, self._columns = family, model, columns

    def predict(self, data: pd.DataFrame, params: Mapping[str, Any] | None = None) -> np.ndarray | pd.DataFrame:
        """(n,) predictions; with the parameter a table of `prediction` and `probabilities`, by the names of classes.

        data: columns that may be missing as a whole are, where nobody sent them. A model of numbers has no
        probabilities: it answers with its predictions.
        """
        import pandas as pd

        found = self._family.predict(self._model, data.reindex(columns=self._columns))
        if not (params or {}).get(PROBABILITIES) or found.classes is None or found.probabilities is None:
            return found.values
        names = [str(name) for name in found.classes]
        probabilities = [dict(zip(names, row, strict=True)) for row in found.probabilities.tolist()]
        return pd.DataFrame({"prediction": found.values, PROBABILITIES: probabilities})


def _load_pyfunc(path: str, model_config: Configuration) -> ServedModel:
    """By this name MLflow calls a loader. path: of a model that was verified."""
    from mlops.training import families

    family = families.get(model_config["family"])
    return ServedModel(family, family.load(Path(path)), model_config["columns"])
