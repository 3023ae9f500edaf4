"""The columns that a model sees. What has to be learned from rows is learned in the model's pipeline, from the
training set alone (mlops/training/families); here each row stands for itself."""

import polars as pl

from mlops.datasets.declaration import GROUP, LABEL, Dataset


def engineer(table: pl.LazyFrame, dataset: Dataset) -> pl.LazyFrame:
    """The feature columns in declared order, then `split_group` where rows belong together, then `label`.

    All rows of `table`, and each value as it came: what `fill` says is part of the model.
    """
    return table.select(*(column.name for column in dataset.features), *([GROUP] if dataset.groups else []), LABEL)
