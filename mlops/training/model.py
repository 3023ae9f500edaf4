"""The model: gradient-boosted trees over numbers, categories and identifiers, as one scikit-learn pipeline."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder, TargetEncoder

from mlops.datasets.declaration import Column, Dataset
from mlops.training.columns import columns_of
from mlops.training.hyperparameters import Hyperparameters
from mlops.training.threads import threads_for

SEED = 7


def train_model(
    features: pd.DataFrame, labels: pd.Series, dataset: Dataset, hyperparameters: Hyperparameters
) -> Pipeline:
    """The fitted pipeline; the same input gives the same model.

    features: (n, number of features), as columns.features_of gives them; labels: (n,) of 0 and 1.
    """
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
