"""The step of a pipeline that computes derived columns, which a request lacks."""

from collections.abc import Sequence
from typing import Any, Self

import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

from mlops.datasets.declaration import Derived


class Derive(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """columns: name, operation and the names of the two columns of each: plain texts, which a stored model may hold."""

    def __init__(self, columns: Sequence[Sequence[Any]]) -> None:
        self.columns = columns

    @classmethod
    def of(cls, derived: Sequence[Derived]) -> Self:
        return cls([[each.name, each.operation, *each.of] for each in derived])

    def fit(self, features: pd.DataFrame, labels: object = None) -> Self:
        """Nothing is learned."""
        return self

    def transform(self, features: pd.DataFrame) -> pd.DataFrame:
        """The features with the derived columns behind them, computed anew where they are there.

        The set may have come to derive a column otherwise since the model was fitted. Raises ValueError where a column
        that one is made of is missing.
        """
        import polars as pl  # an image without it has no model that derives

        derived = [Derived(name, how, (a, b)) for name, how, a, b in self.columns]
        read = list(dict.fromkeys(name for each in derived for name in each.of))
        if missing := sorted(set(read) - set(features)):
            raise ValueError(f"columns are missing: {', '.join(missing)}")
        numbers = pl.from_pandas(features[read].astype("float64"), nan_to_null=True)
        made = numbers.select(each.expression for each in derived)
        return features.assign(**{name: made[name].to_numpy() for name in made.columns})

    def __sklearn_is_fitted__(self) -> bool:
        return True
