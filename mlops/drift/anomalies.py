"""How many rows of a batch are unlike the reference, by an Isolation Forest fitted on the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from sklearn.ensemble import IsolationForest

from mlops.datasets.declaration import Label
from mlops.drift.columns import negated
from mlops.drift.rates import Excess, excess
from mlops.drift.sketch import Categories, Floats, Numbers, Sketch

_SEED = 7
_TREES = 200
_BINS = 30
_RARE = 0.1  # of the rows: a label as common as that is no anomaly but a class
_LARGEST = 1e38  # that the forest can hold, whose numbers have 32 bits
_USUAL = 0.05  # of the rows count as anomalous where no label says how many are


@dataclass(frozen=True)
class Detection:
    """excess: the batch's rate of anomalies beside that of reference rows which the forest was not fitted on.

    contamination: the share of the rows which it was fitted on that score below the bound of an anomaly.
    scores: one a row of the batch, lower is stranger, below 0 is an anomaly. edges, reference, batch: bins of the
    scores, and the share of the rows in each.
    """

    excess: Excess
    contamination: float
    scores: Floats
    edges: Sequence[float]
    reference: Sequence[float]
    batch: Sequence[float]


def detect(
    sample: pl.DataFrame, slices: Iterable[pl.DataFrame], sketches: Mapping[str, Sketch], label: Label
) -> Detection:
    """Fits on every second row of the sample, and scores the others and the batch.

    sample, slices: rows of the reference and of the batch in their order of time, with the columns of `sketches`, which
    are of the whole reference. A forest finds in the rows that it was fitted on just the share that it is told of; how
    many it finds in others of the same population, only others can say.
    """
    features = {name: one for name, one in sketches.items() if name != label.column}
    share = contamination(sketches[label.column], label)
    rows = _encode(sample, features)
    fitted, others = (rows[::2], rows[1::2]) if len(rows) > 1 else (rows, rows)
    forest = IsolationForest(n_estimators=_TREES, contamination=share, random_state=_SEED).fit(fitted)
    known = forest.decision_function(others)
    scores = np.concatenate([forest.decision_function(_encode(part, features)) for part in slices])
    edges = np.histogram_bin_edges(np.concatenate([known, scores]), bins=_BINS)
    return Detection(
        excess=excess(known < 0, scores < 0),
        contamination=share,
        scores=scores,
        edges=edges.tolist(),
        reference=(np.histogram(known, edges)[0] / len(known)).tolist(),
        batch=(np.histogram(scores, edges)[0] / len(scores)).tolist(),
    )


def contamination(labels: Sketch, label: Label) -> float:
    """The share of the reference that counts as anomalous: that of its positive labels where it is small."""
    counts = labels.counts if isinstance(labels, Categories) else {}
    positive, negative = counts.get(label.rule, 0), counts.get(negated(label), 0)
    share = positive / max(1, positive + negative)
    return share if 0 < share < _RARE else _USUAL


def _encode(table: pl.DataFrame, features: Mapping[str, Sketch]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers as they are, with the reference's median for a missing one; a category as its share in the reference.

    So a rare value lies at the edge, and one that the reference lacks beyond it, which is where a forest isolates.
    """
    columns = [
        pl.col(name).fill_null(_median(one)).clip(-_LARGEST, _LARGEST)
        if isinstance(one, Numbers)
        else pl.col(name).replace_strict(
            [*one.counts, None],
            [rows / max(1, one.rows) for rows in (*one.counts.values(), one.missing)],
            default=0.0,
            return_dtype=pl.Float64,
        )
        for name, one in features.items()
    ]
    return table.select(columns).to_numpy()


def _median(known: Numbers) -> float:
    """Of the values that are there, as far as the edges tell it; 0 where there is none."""
    if not len(known.edges):
        return 0.0
    middle = np.searchsorted(known.below + known.at, known.cuts[-1] / 2)
    return float(known.edges[min(int(middle), len(known.edges) - 1)])
