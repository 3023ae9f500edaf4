"""The columns that a model sees, derived ones among them. What has to be learned from rows is learned in the model's
pipeline, from the training set alone (mlops/training/families); here each row stands for itself."""

import polars as pl

from mlops.datasets.declaration import GROUP, LABEL, Dataset


def engineer(table: pl.LazyFrame, dataset: Dataset) -> pl.LazyFrame:
    """The feature columns in declared order, the derived ones, `split_group` where rows belong together, `label`.

    All rows of `table`, and each value as it came: what `fill` says is part of the model.
    """
    group = [GROUP] if dataset.groups else []
    features = (column.name for column in dataset.features)
    return table.select(*features, *(each.expression for each in dataset.derived), *group, LABEL)
