"""The columns that a model sees. What has to be learned from rows is learned in the model's pipeline, from the
training set alone (mlops/training/families); here each row stands for itself."""

import pandas as pd

from mlops.datasets.declaration import LABEL, Dataset


def engineer(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The feature columns in declared order (numbers float64, all else text), then `label`; all rows of `table`."""
    return table[[column.name for column in dataset.features] + [LABEL]]
