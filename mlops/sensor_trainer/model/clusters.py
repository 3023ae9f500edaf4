"""Clusters of readings, which of them fail, and how far a reading lies from the healthy ones.

A reading is scaled by each sensor's median and deviation, its extremes are compressed, and k-means tells its cluster.
Its anomaly score is the distance to the nearest healthy cluster. Labels, where there are any, say which clusters fail;
where there are none, the small clusters are taken for unhealthy, and distance alone decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.metrics import davies_bouldin_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, RobustScaler
from threadpoolctl import threadpool_limits

from mlops.result import Refused
from mlops.sensor_trainer.model.scoring import BEYOND, ClusterModel, Counts, Flags, Numbers

FEWEST_ROWS = 50  # fewer say nothing of a quartile of distances, let alone of clusters

_MOST_CLUSTERS = 12
_STARTS = 5  # of k-means, which keeps the best
_FIT_ROWS = 200_000  # more rows move no centre any more; those left out are drawn at random
_LARGE_SHARE = 0.9
_FENCE = 3.0
_TO_DEVIATION = 1.4826
_CONFIDENCE = 0.95
_FAILING_SHARE = 0.5
_SMALLEST = 1e-9  # of a scale and of the threshold, which divide


@dataclass(frozen=True, eq=False)
class Fitted:
    """pipeline: scaling and k-means as scikit-learn has them; criterion: the Davies-Bouldin index of each k tried."""

    pipeline: Pipeline
    model: ClusterModel
    criterion: dict[int, float] = field(default_factory=dict)


def fit(values: pd.DataFrame, failure: Numbers, seed: int) -> Fitted:
    """The clusters of (n, d) readings, told what their labels (1, 0 or NaN, (n,)) say; the same input gives the same.

    k has the lowest Davies-Bouldin index of 2 to 12: clusters that are narrow beside their distances to each other
    (D. L. Davies and D. W. Bouldin, IEEE Transactions on Pattern Analysis and Machine Intelligence 1, 1979, 224-227).
    It takes all rows, where the silhouette would need a sample. Raises Refused for fewer than FEWEST_ROWS readings.
    """
    if len(values) < FEWEST_ROWS:
        raise Refused(
            f"{len(values)} readings to cluster, at least {FEWEST_ROWS} are needed: send more, or train on more days"
        )
    bounded = values.clip(-BEYOND, BEYOND)
    sample = bounded.sample(_FIT_ROWS, random_state=seed) if len(bounded) > _FIT_ROWS else bounded
    with threadpool_limits(1):  # OpenMP's threads wait for each other longer than one alone works
        scaling = _scaling(sample)
        clustering, criterion = _cluster(scaling.transform(sample), seed)
    scaler: RobustScaler = scaling["scale"]
    k = len(clustering.cluster_centers_)
    model = ClusterModel(
        columns=tuple(map(str, values.columns)),
        middle=scaler.center_,
        scale=scaler.scale_,
        centres=clustering.cluster_centers_,
        healthy=np.ones(k, dtype=bool),
        failure_prone=np.zeros(k, dtype=bool),
        threshold=1.0,
    )
    pipeline = Pipeline([*scaling.steps, ("cluster", clustering)])
    return Fitted(pipeline, judge(model, bounded.to_numpy(dtype=float), failure), criterion)


def judge(model: ClusterModel, values: Numbers, failure: Numbers) -> ClusterModel:
    """The model with its clusters called healthy or failure-prone, and the threshold, by (n, d) readings and labels.

    The threshold is the outer fence of the distances of those readings in healthy clusters that are not labelled as
    failures. It needs no share of failures to be known beforehand.
    """
    distances = model.distances(values)
    cluster = distances.argmin(axis=1)
    healthy, failure_prone = _verdicts(cluster, len(model.centres), failure)
    near = healthy[cluster] & (failure != 1)
    chosen = distances[near if near.any() else healthy[cluster]][:, healthy].min(axis=1)
    threshold = max(fence(chosen), _SMALLEST)
    return replace(model, healthy=healthy, failure_prone=failure_prone, threshold=threshold)


def fence(scores: Numbers) -> float:
    """The outer fence of (n,) scores: the third quartile, and three times the distance between the quartiles above it.

    J. W. Tukey, Exploratory Data Analysis (1977), p. 44: what lies beyond is "far out".
    """
    lower, upper = np.percentile(scores, [25, 75])
    return float(upper + _FENCE * (upper - lower))


def large(sizes: Counts) -> Flags:
    """The largest clusters that together hold nine tenths of the rows; the others may be groups of failures.

    Z. He, X. Xu and S. Deng, "Discovering cluster-based local outliers", Pattern Recognition Letters 24 (2003),
    1641-1650, with their alpha.
    """
    order = np.argsort(-sizes, kind="stable")
    count = int(np.searchsorted(np.cumsum(sizes[order]), _LARGE_SHARE * sizes.sum())) + 1
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[order[:count]] = True
    return chosen


def wilson(successes: Counts, rows: Counts) -> tuple[Numbers, Numbers]:
    """The lower and the upper end of the 95 % interval of each share (E. B. Wilson, JASA 22, 1927, 209-212).

    0 and 1 without rows. It takes the rows as independent; readings that follow each other closely are less than that.
    """
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    n = np.maximum(rows, 1)
    share = np.where(rows > 0, successes / n, 0.5)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.where(rows > 0, middle - half, 0.0), np.where(rows > 0, middle + half, 1.0)


def _verdicts(cluster: Counts, k: int, failure: Numbers) -> tuple[Flags, Flags]:
    """(healthy, failure-prone) of each cluster.

    A cluster is failure-prone where the share of failures among its labelled rows is, with confidence, above that of
    all labelled rows and above one half: to flag a group in which failures are rarer costs more false alarms than it
    finds (Z. Lipton, C. Elkan and B. Naryanaswamy, ECML PKDD 2014: the best cut for F1 never lies above one half).
    Of the others the large ones are healthy, and the small ones whose labels say with confidence that they fail less
    often than all rows. Labels of one class only compare nothing, and count as none.
    """
    healthy, failure_prone = large(np.bincount(cluster, minlength=k)), np.zeros(k, dtype=bool)
    labelled = np.isfinite(failure)
    base = float(failure[labelled].mean()) if labelled.any() else 0.0
    if not 0 < base < 1:
        return healthy, failure_prone
    rows = np.bincount(cluster[labelled], minlength=k)
    failures = np.bincount(cluster[labelled & (failure == 1)], minlength=k)
    lower, upper = wilson(failures, rows)
    failure_prone = lower > max(base, _FAILING_SHARE)
    healthy = (healthy | (upper < base)) & ~failure_prone
    # Never none: the labelled clusters cannot all fail more often than their rows together.
    return (healthy if healthy.any() else ~failure_prone), failure_prone


def _scaling(values: pd.DataFrame) -> Pipeline:
    """Each column less its median, by the median of its deviations that are not zero, compressed by arcsinh.

    A sensor that rests more often than not has an interquartile range and a median absolute deviation of zero, so
    neither could scale it. 1.4826 makes a standard deviation of a normal column's median deviation. arcsinh is a line
    near the middle and a logarithm far out: one wild value does not become a cluster, and farther out still is farther.
    """
    scaler = RobustScaler().fit(values)
    deviations = np.abs(values.to_numpy(dtype=float) - scaler.center_)
    typical = [float(np.median(moved)) if len(moved := column[column > 0]) else 1.0 for column in deviations.T]
    scaler.scale_ = np.maximum(_TO_DEVIATION * np.asarray(typical), _SMALLEST)
    return Pipeline([("scale", scaler), ("compress", FunctionTransformer(np.arcsinh))])


def _cluster(scaled: Numbers, seed: int) -> tuple[KMeans, dict[int, float]]:
    """k-means of the best k, and the index of each k; one cluster where all rows are alike."""
    distinct = len(np.unique(scaled, axis=0))
    found: dict[int, tuple[float, KMeans]] = {}
    for k in range(2, min(_MOST_CLUSTERS, distinct) + 1):
        clustering = KMeans(k, n_init=_STARTS, random_state=seed).fit(scaled)
        found[k] = (float(davies_bouldin_score(scaled, clustering.labels_)), clustering)
    if not found:
        return KMeans(1, n_init=1, random_state=seed).fit(scaled), {}
    best = min(found, key=lambda k: found[k][0])
    return found[best][1], {k: index for k, (index, _) in found.items()}
