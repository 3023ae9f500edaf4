"""Gradient-boosted trees over numbers, categories and identifiers, as one scikit-learn pipeline in a file of skops."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder, TargetEncoder

from mlops.datasets.declaration import Column, Dataset
from mlops.result import Failure
from mlops.stores.tracking import Saved
from mlops.training.columns import columns_of
from mlops.training.hyperparameters import Hyperparameters
from mlops.training.threads import threads_for

PACKAGES = ("scikit-learn", "skops", "pandas", "numpy")
SEED = 7
# All that a stored model may hold beside what skops trusts by itself. A model is read from the artifact store, which
# more people can write to than can change this code; skops builds these types and no other, where (cloud)pickle runs
# whatever the file says. A name that is taken away makes the models unreadable that were logged with it.
TRUSTED_TYPES = frozenset(
    {
        "functools.partial",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.model_selection._split.StratifiedKFold",
        "sklearn.utils.validation.check_array",
    }
)


def fit(features: pd.DataFrame, labels: pd.Series, dataset: Dataset, hyperparameters: Hyperparameters) -> Pipeline:
    """The fitted pipeline."""
    with threads_for(len(features)):
        return build(columns_of(features, dataset), hyperparameters).fit(features, labels)


def build(columns: Sequence[Column], hyperparameters: Hyperparameters) -> Pipeline:
    """The unfitted pipeline. Missing numbers and unknown categories are handled by the trees.

    A category's values are declared, so the trees split on them directly. An identifier has too many, so it is
    replaced by the mean label of its rows, cross-fitted and shrunk to the overall mean (Micci-Barreca, 2001): learned
    from the training set, and for an identifier never seen the overall mean.
    """
    categories = [column for column in columns if column.kind == "category"]
    identifiers = [column.name for column in columns if column.kind == "identifier"]
    numbers = [column.name for column in columns if column.numeric]
    encode_categories = OrdinalEncoder(
        categories=[list(column.levels) for column in categories] or "auto",
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,
        encoded_missing_value=np.nan,
    )
    encode_identifiers = TargetEncoder(
        target_type="binary", cv=StratifiedKFold(n_splits=5, shuffle=True, random_state=SEED)
    )
    encode = ColumnTransformer(
        [
            ("categories", encode_categories, [column.name for column in categories]),
            ("identifiers", encode_identifiers, identifiers),
            ("numbers", "passthrough", numbers),
        ],
        verbose_feature_names_out=False,
    )
    classify = HistGradientBoostingClassifier(
        learning_rate=hyperparameters.learning_rate,
        max_iter=hyperparameters.max_iter,
        categorical_features=list(range(len(categories))),
        random_state=SEED,
    )
    return Pipeline([("encode", encode), ("classify", classify)])


def predict(model: Pipeline, features: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """((n,) of 0 and 1, (n,) probabilities of 1)."""
    with threads_for(len(features)):
        return model.predict(features), model.predict_proba(features)[:, 1]


def save(model: Pipeline) -> Saved:
    """Raises Failure where the model holds a type that is not in TRUSTED_TYPES."""
    untrusted = set(skops.io.get_untrusted_types(data=skops.io.dumps(model))) - TRUSTED_TYPES
    if untrusted:
        raise Failure(
            f"the model holds {', '.join(sorted(untrusted))}: leave it out, or read its source and add it to "
            "TRUSTED_TYPES in mlops/training/families/sklearn.py"
        )
    arguments = {"sk_model": model, "serialization_format": "skops", "skops_trusted_types": sorted(TRUSTED_TYPES)}
    return Saved("mlflow.sklearn", arguments)


def verify(flavors: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the model can build nothing but TRUSTED_TYPES.

    The file `MLmodel` beside a model names the code that loads it, so it is looked at as well as the types.
    """
    sklearn, pyfunc = flavors.get("sklearn", {}), flavors.get("python_function", {})
    return (
        sklearn.get("serialization_format") == "skops"
        and set(sklearn.get("skops_trusted_types") or ()) <= TRUSTED_TYPES
        and pyfunc.get("loader_module") == "mlflow.sklearn"
        and not sklearn.get("code")
        and not pyfunc.get("code")
        and "data" not in pyfunc  # a folder whose own MLmodel would be followed
    )


def load(folder: Path) -> Pipeline:
    """The pipeline of a folder that was verified."""
    (file,) = folder.glob("*.skops")
    pipeline: Pipeline = skops.io.load(file, trusted=sorted(TRUSTED_TYPES))
    return pipeline


def describe(hyperparameters: Hyperparameters) -> str:
    """For the card."""
    return (
        f"Gradient-boosted trees (learning_rate {hyperparameters.learning_rate:g}, max_iter {hyperparameters.max_iter})"
    )
