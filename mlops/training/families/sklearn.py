"""Gradient-boosted trees over numbers, categories and identifiers, as one scikit-learn pipeline in a file of skops."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder, TargetEncoder

from mlops.datasets.declaration import Column, Dataset, Derived, LabelKind
from mlops.result import Failure
from mlops.stores.model_files import Layout, Optional, text
from mlops.stores.tracking import Saved
from mlops.training.columns import columns_of
from mlops.training.derive import Derive
from mlops.training.families import Prediction
from mlops.training.hyperparameters import Hyperparameters
from mlops.training.threads import threads_for

PACKAGES = ("scikit-learn", "skops", "pandas", "numpy")
KINDS: Sequence[LabelKind] = ("binary", "multiclass", "regression")
SEED = 7
_STRATIFIABLE = 2  # rows of a class; of fewer none can be set apart to stop early by, as is done with many rows
# All that a stored model may hold beside what skops trusts by itself. A model is read from the artifact store, which
# more people can write to than can change this code; skops builds these types and no other, where (cloud)pickle runs
# whatever the file says. A name that is taken away makes the models unreadable that were logged with it.
TRUSTED_TYPES = frozenset(
    {
        "functools.partial",
        "mlops.training.derive.Derive",
        "numpy.dtype",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.model_selection._split.KFold",
        "sklearn.model_selection._split.StratifiedKFold",
        "sklearn.utils.validation.check_array",
    }
)
FILE = "model.skops"


def _trusted(types: object) -> bool:
    return isinstance(types, list) and all(isinstance(name, str) for name in types) and set(types) <= TRUSTED_TYPES


# What mlflow.sklearn and mlflow.pyfunc write of such a model: all that their loaders read.
LAYOUT = Layout(
    flavors={
        "python_function": {
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "loader_module": "mlflow.sklearn",
            "model_path": FILE,
            "predict_fn": "predict",
            "python_version": text,
        },
        "sklearn": {
            "code": Optional(lambda code: False),
            "pickled_model": FILE,
            "serialization_format": "skops",
            "sklearn_version": text,
            "skops_trusted_types": _trusted,
        },
    },
    files=frozenset({FILE, "conda.yaml", "python_env.yaml"}),
)


def fit(features: pd.DataFrame, labels: pd.Series, dataset: Dataset, hyperparameters: Hyperparameters) -> Pipeline:
    """The fitted pipeline."""
    with threads_for(len(features)):
        columns = columns_of(features, dataset)
        derived = [each for each in dataset.derived if each.name in features]
        model = build(columns, dataset.label.kind, hyperparameters, derived)
        if dataset.label.kind != "regression" and labels.value_counts().min() < _STRATIFIABLE:
            model.set_params(predict__early_stopping=False)
        return model.fit(features, labels)


def build(
    columns: Sequence[Column], kind: LabelKind, hyperparameters: Hyperparameters, derived: Sequence[Derived] = ()
) -> Pipeline:
    """The unfitted pipeline: what is derived, what `fill` says, an encoding, trees.

    The trees handle what is still missing or unknown. columns: those that it sees, the derived ones among them.

    A category's values are declared, so the trees split on them directly. An identifier has too many, so it is
    replaced by the mean label of its rows, cross-fitted and shrunk to the overall mean (Micci-Barreca, 2001): learned
    from the training set, and for an identifier never seen the overall mean. Of several classes it is one mean each.
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
    folds, target = (KFold, "continuous") if kind == "regression" else (StratifiedKFold, kind)
    encode_identifiers = TargetEncoder(target_type=target, cv=folds(n_splits=5, shuffle=True, random_state=SEED))
    encode = ColumnTransformer(
        [
            ("categories", encode_categories, [column.name for column in categories]),
            ("identifiers", encode_identifiers, identifiers),
            ("numbers", "passthrough", numbers),
        ],
        verbose_feature_names_out=False,
    )
    trees = HistGradientBoostingRegressor if kind == "regression" else HistGradientBoostingClassifier
    predict_label = trees(
        learning_rate=hyperparameters.learning_rate,
        max_iter=hyperparameters.max_iter,
        categorical_features=list(range(len(categories))),
        random_state=SEED,
    )
    fills = [column for column in columns if column.fill is not None or column.kind == "identifier"]
    fill = [("fill", _fill(fills))] if fills else []
    derive = [("derive", Derive.of(derived))] if derived else []
    return Pipeline([*derive, *fill, ("encode", encode), ("predict", predict_label)])


def _fill(columns: Sequence[Column]) -> ColumnTransformer:
    each = [(column.name, _fill_number(column) if column.numeric else _fill_text(column)) for column in columns]
    return ColumnTransformer(
        [(name, fill, [name]) for name, fill in each], remainder="passthrough", verbose_feature_names_out=False
    ).set_output(transform="pandas")


def _fill_number(column: Column) -> SimpleImputer:
    return SimpleImputer(strategy="constant", fill_value=float(column.fill or 0), keep_empty_features=True)


def _fill_text(column: Column) -> Pipeline:
    """A missing text is None here and in JSON, and NaN in a table of pandas; an imputer knows one of them.

    Without a `fill` it becomes the empty text, which no identifier is, and thereby an identifier like any other.
    """
    either = ((name, missing) for name, missing in (("nan", np.nan), ("none", None)))
    return Pipeline(
        [
            (
                name,
                SimpleImputer(
                    missing_values=missing,
                    strategy="constant",
                    fill_value="" if column.fill is None else str(column.fill),
                    keep_empty_features=True,
                ),
            )
            for name, missing in either
        ]
    )


def predict(model: Pipeline, features: pd.DataFrame) -> Prediction:
    """What the pipeline says of the rows, whose missing values stand for themselves."""
    with threads_for(len(features)):
        if not hasattr(model, "predict_proba"):
            return Prediction(model.predict(features))
        probabilities = model.predict_proba(features)[:, : len(model.classes_)]  # two also of a single class
    return Prediction(model.classes_[probabilities.argmax(axis=1)], model.classes_, probabilities)


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


def load(folder: Path) -> Pipeline:
    """The pipeline of a folder that was verified."""
    pipeline: Pipeline = skops.io.load(folder / FILE, trusted=sorted(TRUSTED_TYPES))
    return pipeline


def describe(hyperparameters: Hyperparameters) -> str:
    """For the card."""
    return (
        f"Gradient-boosted trees (learning_rate {hyperparameters.learning_rate:g}, max_iter {hyperparameters.max_iter})"
    )
