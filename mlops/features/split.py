"""Training and test set: no row in both, none in neither."""

import numpy as np
import pandas as pd

from mlops.datasets.declaration import EVENT_TIME, LABEL, Dataset, SplitByTime, SplitStratified
from mlops.result import Failure


def split(table: pd.DataFrame, dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(training set, test set) as the dataset declares it. Raises Failure where one of them lacks rows or a class."""
    match dataset.split:
        case SplitByTime(fraction):
            in_test = latest(table[EVENT_TIME], fraction)
        case SplitStratified(fraction, seed):
            in_test = stratified(table[LABEL], fraction, seed)
    train, test = table[~in_test].reset_index(drop=True), table[in_test].reset_index(drop=True)
    for name, part in (("training", train), ("test", test)):
        if part[LABEL].nunique() < 2:
            raise Failure(
                f"dataset {dataset.name}: the {name} set has {len(part):,} rows and {part[LABEL].nunique()} of the two "
                f"classes: correct the split in mlops/datasets/{dataset.name}.py"
            )
    return train, test


def latest(times: pd.Series, fraction: float) -> pd.Series:
    """True for the latest `fraction` of the rows, and for rows of the same moment as the first of them."""
    cutoff = times.sort_values().iloc[int(len(times) * (1 - fraction))]
    in_test: pd.Series = times >= cutoff
    return in_test


def stratified(labels: pd.Series, fraction: float, seed: int) -> pd.Series:
    """True for `fraction` of the rows of each class, drawn with the seed."""
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in sorted(labels.unique()):
        positions = np.flatnonzero(labels == label)
        chosen[generator.permutation(positions)[: round(len(positions) * fraction)]] = True
    return pd.Series(chosen, index=labels.index)
