"""What the model server answers: predictions, and, for who asks, the probability of each class beside them.

MLflow's scoring server loads its model through this module, which it finds named in the file `MLmodel` of the copy that
it serves; what is stored is a plain model of MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mlops.training.families import Family, Prediction

PROBABILITIES = "probabilities"  # the parameter of a request, and the field of the answer


class Configuration(TypedDict):
    """family: of the model; columns: all that it reads; model, version: as the registry calls it; feature_service: the
    one that it was trained on, or nothing.
    """

    family: str
    columns: list[str]
    model: NotRequired[str]
    version: NotRequired[str]
    feature_service: NotRequired[str | None]


Observer = Callable[["pd.DataFrame", "Prediction"], None]


class ServedModel:
    """A model as MLflow's scoring server asks it.

    told: of what is predicted by that server, where somebody wants to know.
    """

    def __init__(self, family: Family, model: Any, configuration: Configuration) -> None:
        self._family, self._model, self._columns = family, model, configuration["columns"]
        self.name, self.version = configuration.get("model", ""), configuration.get("version", "")
        self.feature_service = configuration.get("feature_service")
        self.told: Observer | None = None

    def answer(self, data: pd.DataFrame) -> Prediction:
        """What the family says of the rows, of which columns may be missing as a whole."""
        return self._family.predict(self._model, data.reindex(columns=self._columns))

    def predict(self, data: pd.DataFrame, params: Mapping[str, Any] | None = None) -> np.ndarray | pd.DataFrame:
        """(n,) predictions; with the parameter a table of `prediction` and `probabilities`, by the names of classes.

        data: columns that may be missing as a whole are, where nobody sent them. A model of numbers has no
        probabilities: it answers with its predictions.
        """
        import pandas as pd

        found = self.answer(data)
        if self.told is not None:
            self.told(data, found)
        if not (params or {}).get(PROBABILITIES) or found.classes is None or found.probabilities is None:
            return found.values
        names = [str(name) for name in found.classes]
        probabilities = [dict(zip(names, row, strict=True)) for row in found.probabilities.tolist()]
        return pd.DataFrame({"prediction": found.values, PROBABILITIES: probabilities})


_LOADED: list[ServedModel] = []


def loaded() -> ServedModel:
    """The model that MLflow's scoring server of this process serves."""
    return _LOADED[-1]


def _load_pyfunc(path: str, model_config: Configuration) -> ServedModel:
    """By this name MLflow calls a loader. path: of a model that was verified."""
    from mlops.training import families

    family = families.get(model_config["family"])
    model = ServedModel(family, family.load(Path(path)), model_config)
    _LOADED[:] = [model]
    return model
