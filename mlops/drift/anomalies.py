"""How many rows of a batch are unlike the reference, by an Isolation Forest fitted on the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest

from mlops.datasets.declaration import Dataset
from mlops.drift.columns import Scale, scales

_SEED = 7
_TREES = 200
_BINS = 30


@dataclass(frozen=True)
class Detection:
    """rate: the share of the batch's rows that score below what all but `contamination` of the reference score.

    scores: one a row, lower is stranger, below 0 is an anomaly. edges, reference, batch: bins of the scores, and the
    share of the rows in each.
    """

    rate: float
    contamination: float
    scores: pd.Series
    edges: Sequence[float]
    reference: Sequence[float]
    batch: Sequence[float]


def detect(reference: pd.DataFrame, batch: pd.DataFrame, dataset: Dataset, contamination: float) -> Detection:
    """Fits on the reference and scores the batch; both hold the columns that `comparable` gives.

    The bound comes from the reference: a forest told of a contamination and asked about the rows it was fitted on
    finds exactly that share, whatever the rows.
    """
    features = {name: scale for name, scale in scales(dataset).items() if name != dataset.label.column}
    known, new = (_encode(reference, table, features) for table in (reference, batch))
    forest = IsolationForest(n_estimators=_TREES, contamination=contamination, random_state=_SEED).fit(known)
    known_scores, scores = forest.decision_function(known), forest.decision_function(new)
    edges = np.histogram_bin_edges(np.concatenate([known_scores, scores]), bins=_BINS)
    return Detection(
        rate=float(np.mean(scores < 0)),
        contamination=contamination,
        scores=pd.Series(scores, index=batch.index),
        edges=edges.tolist(),
        reference=(np.histogram(known_scores, edges)[0] / len(known_scores)).tolist(),
        batch=(np.histogram(scores, edges)[0] / len(scores)).tolist(),
    )


def contamination(labels: pd.Series, rate_threshold: float) -> float:
    """The share of the reference that counts as anomalous: its positive labels (1, 0 or missing).

    Where positives are as common as an alarm they are no anomalies but a class; then it is half the alarm's rate.
    """
    share = float(labels.astype("Float64").mean()) if labels.notna().any() else 0.0
    return share if 0 < share < rate_threshold else rate_threshold / 2


def _encode(
    reference: pd.DataFrame, table: pd.DataFrame, features: dict[str, Scale]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers as they are, with the reference's median for a missing one; a category as its share in the reference.

    So a rare value lies at the edge, and one that the reference lacks beyond it, which is where a forest isolates.
    """
    columns = []
    for name, scale in features.items():
        known, values = reference[name], table[name]
        if scale == "number":
            columns.append(values.fillna(known.median()).fillna(0.0))
        else:
            columns.append(values.map(known.value_counts(normalize=True)).fillna(0.0))
    return np.column_stack([column.to_numpy(dtype=float) for column in columns])
