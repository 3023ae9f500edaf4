"""How well readings are told apart: by the clusters, by other methods, and by the champion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.cluster import DBSCAN
from sklearn.ensemble import IsolationForest
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from mlops.registry.champion import worse
from mlops.sensor_trainer.model.clusters import large
from mlops.sensor_trainer.model.scoring import ClusterModel, Flags, Numbers

FEWEST_OF_A_CLASS = 10  # an AUC of fewer failures, or fewer healthy readings, is chance
# None for what is measured exactly on the same rows: an hourly model that may be a little worse than the one before
# makes a service that becomes worse every hour.
AUC_MARGIN = 0.0
# F1 only guards against a threshold gone wrong, which AUC does not see; it need not win twice.
F1_MARGIN = 0.02

_DBSCAN_ROWS = 3_000  # its neighbourhoods take memory with the square of the rows


class Flagged(NamedTuple):
    """(n,) anomaly scores, higher is stranger, and which readings the method calls failures."""

    anomaly: Numbers
    failure: Flags


@dataclass(frozen=True)
class Evaluation:
    """auc, f1: against the labels, NaN without enough of both classes; label_free: see `told_from_shuffled`."""

    auc: float
    f1: float
    label_free: float

    def metrics(self, prefix: str) -> dict[str, float]:
        """Those that are numbers, as MLflow metrics."""
        named = {f"{prefix}auc": self.auc, f"{prefix}f1": self.f1, f"{prefix}label_free_auc": self.label_free}
        return {name: value for name, value in named.items() if math.isfinite(value)}


class Decision(NamedTuple):
    """Whether the challenger is to be served, and why, in words."""

    replaces: bool
    reason: str


def quality(model: ClusterModel, values: Numbers, failure: Numbers, seed: int) -> Evaluation:
    """The model on (n, d) readings with (n,) labels of 1, 0 or NaN."""
    scores = model.score(values)
    auc, f1 = auc_and_f1(Flagged(scores.anomaly, scores.failure), failure)
    return Evaluation(auc, f1, told_from_shuffled(model, values, seed))


def auc_and_f1(found: Flagged, failure: Numbers) -> tuple[float, float]:
    """Of the labelled readings; NaN where one class has fewer than FEWEST_OF_A_CLASS."""
    labelled = np.isfinite(failure)
    truth = failure[labelled] == 1
    if min(truth.sum(), (~truth).sum()) < FEWEST_OF_A_CLASS:
        return math.nan, math.nan
    auc = roc_auc_score(truth, found.anomaly[labelled])
    return float(auc), float(f1_score(truth, found.failure[labelled], zero_division=0.0))


def told_from_shuffled(model: ClusterModel, values: Numbers, seed: int) -> float:
    """The AUC of telling readings from ones whose sensors were shuffled among readings, each by itself.

    A model that knows how the sensors go together finds a shuffled reading strange, which needs no labels (T. Hastie,
    R. Tibshirani and J. Friedman, The Elements of Statistical Learning, 2009, 14.2.4; T. Shi and S. Horvath, Journal of
    Computational and Graphical Statistics 15, 2006, 118-138). It says that a model fits the readings, not that it
    finds failures.
    """
    shuffled = np.random.default_rng(seed).permuted(values, axis=0)
    anomaly = np.concatenate([model.score(values).anomaly, model.score(shuffled).anomaly])
    return float(roc_auc_score(np.repeat([0, 1], len(values)), anomaly))


def not_worse(challenger: Evaluation, champion: Evaluation, version: str) -> Decision:
    """Whether the challenger may replace the champion, both measured on the same held-out window."""
    if math.isnan(challenger.auc) or math.isnan(champion.auc):
        measured = (
            f"{challenger.label_free:.4f} against {champion.label_free:.4f} of version {version} without labels, of "
            f"which the held-out window has fewer than {FEWEST_OF_A_CLASS} of a class (AUC of telling readings from "
            "shuffled ones)"
        )
        found = worse({"auc": challenger.label_free}, {"auc": champion.label_free}, {"auc": AUC_MARGIN})
        return _decision(not found, measured)
    measured = (
        f"AUC {challenger.auc:.4f} against {champion.auc:.4f}, F1 {challenger.f1:.4f} against {champion.f1:.4f} of "
        f"version {version} on the held-out window"
    )
    found = worse(asdict(challenger), asdict(champion), {"auc": AUC_MARGIN, "f1": F1_MARGIN})
    return _decision(not found, measured)


def _decision(good: bool, measured: str) -> Decision:
    return Decision(good, f"{'not worse' if good else 'worse, so it is not served'}: {measured}")


def rivals(
    known: pd.DataFrame, new: pd.DataFrame, scaling: Pipeline, failing: float, seed: int
) -> Mapping[str, Flagged]:
    """What others, fitted on `known` without labels, say of `new`: tables of the same columns, readings as they came.

    Each method stands as its authors have it, and once more with what would help it most: for the forest the share
    `failing` of the readings that do fail, for DBSCAN the rule that small clusters are unhealthy. scaling: of the
    clusters, which DBSCAN needs as much; a forest splits each sensor by itself and does better without (F1 of 0.74
    against 0.56 on shuttle).
    """
    with threadpool_limits(1):  # OpenMP's threads wait for each other longer than one alone works
        return {
            **_isolation_forest(known.to_numpy(dtype=float), new.to_numpy(dtype=float), failing, seed),
            **_dbscan(scaling.transform(known), scaling.transform(new), seed),
        }


def _isolation_forest(known: Numbers, new: Numbers, failing: float, seed: int) -> dict[str, Flagged]:
    """F. T. Liu, K. M. Ting and Z.-H. Zhou (2008): flagged above a score of one half, or as many as do fail."""
    forest = IsolationForest(random_state=seed).fit(known)
    anomaly = -forest.score_samples(new)
    return {
        "isolation_forest": Flagged(anomaly, anomaly > -forest.offset_),
        "isolation_forest_told_share": Flagged(
            anomaly, anomaly > np.quantile(-forest.score_samples(known), 1 - failing)
        ),
    }


def _dbscan(known: Numbers, new: Numbers, seed: int) -> dict[str, Flagged]:
    """M. Ester, H.-P. Kriegel, J. Sander and X. Xu (1996), on a sample.

    It has no rule for new rows: one is scored by its distance to the nearest core point, and is noise beyond eps, as a
    row of the sample would be. Neighbours: twice the dimensions (Sander et al., 1998); eps: at the knee of the sorted
    distances to the last of them. The second entry measures from core points of large clusters only, as we do.
    """
    size = min(len(known), _DBSCAN_ROWS)
    sample = known[np.random.default_rng(seed).choice(len(known), size, replace=False)]
    neighbours = min(2 * known.shape[1], size)
    eps = _knee(np.sort(NearestNeighbors(n_neighbors=neighbours).fit(sample).kneighbors(sample)[0][:, -1]))
    found = DBSCAN(eps=eps, min_samples=neighbours).fit(sample)
    core = found.core_sample_indices_
    if not len(core):
        return {}
    clusters = found.labels_[core]
    in_large = large(np.bincount(found.labels_[found.labels_ >= 0]))[clusters]
    flagged = {}
    for name, points in (("dbscan", sample[core]), ("dbscan_large", sample[core][in_large])):
        anomaly = NearestNeighbors(n_neighbors=1).fit(points).kneighbors(new)[0][:, 0]
        flagged[name] = Flagged(anomaly, anomaly > eps)
    return flagged


def _knee(ascending: Numbers) -> float:
    """The value farthest below the line from the first to the last one; positive."""
    span = ascending[-1] - ascending[0]
    if not span:
        return max(float(ascending[0]), 1e-9)
    below = np.linspace(0, 1, len(ascending)) - (ascending - ascending[0]) / span
    return max(float(ascending[np.argmax(below)]), 1e-9)
