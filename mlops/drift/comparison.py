"""Whether the columns of a batch are distributed as in the reference.

With enough rows everything is significant, and with many columns something always is. So a column has drifted only
where its test is significant after correction for the number of columns, and where the distance is large as well.
The tests take rows as independent of each other. Readings that follow each other closely are not, which makes p too
small; the distance is what keeps those from raising alarms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mlops.drift.columns import Scale

_KEPT = 20  # values of a category that are compared one by one; the rest are compared together
_REST, _NONE = "(other values)", "(missing)"
_LEAST_EXPECTED = 5.0  # rows; with fewer the chi-squared approximation is poor (Cochran, Biometrics 10, 1954)
_BINS = 20


@dataclass(frozen=True)
class Comparison:
    """One column of a batch beside the reference.

    p: of the two-sample Kolmogorov-Smirnov test, or of the chi-squared test of homogeneity; p_adjusted: after Holm's
        correction. Both are None for a column without values on one side.
    effect: the KS distance (0 to 1), or the population stability index (0 and up).
    labels, reference, batch: bins, and the share of the rows in each.
    """

    column: str
    test: str
    effect_name: str
    p: float | None
    p_adjusted: float | None
    effect: float
    drifted: bool
    labels: Sequence[str]
    reference: Sequence[float]
    batch: Sequence[float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    reference: pd.DataFrame, batch: pd.DataFrame, scales: Mapping[str, Scale], *, level: float, effect_threshold: float
) -> list[Comparison]:
    """Each column of `scales`, the farthest from the reference first.

    level: the probability that a batch of the reference's own population is said to have drifted anywhere.
    effect_threshold: the least KS distance or population stability index that is of interest. 0.2 is the usual bound
        between a small and a considerable shift of the index (Siddiqi, Credit Risk Scorecards, 2006, p. 136).
    """
    tested = {
        name: _numbers(reference[name], batch[name]) if scale == "number" else _categories(reference[name], batch[name])
        for name, scale in scales.items()
    }
    known = {name: result.p for name, result in tested.items() if result.p is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    compared = [
        Comparison(
            column=name,
            test=result.test,
            effect_name=result.effect_name,
            p=result.p,
            p_adjusted=adjusted.get(name),
            effect=result.effect,
            drifted=name in adjusted and adjusted[name] <= level and result.effect >= effect_threshold,
            labels=result.labels,
            reference=_shares(result.reference),
            batch=_shares(result.batch),
        )
        for name, result in tested.items()
    ]
    return sorted(compared, key=lambda comparison: -comparison.effect)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that rejecting those <= a errs in at most a share `a` of all families of tests.

    It asks nothing of how the columns depend on each other (Holm, Scandinavian Journal of Statistics 6, 1979).
    """
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    raised = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors))
    adjusted = np.empty(len(p_values))
    adjusted[order] = raised
    return [float(value) for value in adjusted]


def stability_index(reference: Sequence[int], batch: Sequence[int]) -> float:
    """The population stability index of two rows of counts, sum of (b - r) ln(b / r) over the shares.

    Half a row is added to each count, so that a value that one side lacks has a finite weight.
    """
    r, b = (np.asarray(counts, dtype=float) + 0.5 for counts in (reference, batch))
    r, b = r / r.sum(), b / b.sum()
    return float(np.sum((b - r) * np.log(b / r)))


@dataclass(frozen=True)
class _Tested:
    test: str
    effect_name: str
    p: float | None
    effect: float
    labels: list[str]
    reference: list[int]
    batch: list[int]


def _numbers(reference: pd.Series, batch: pd.Series) -> _Tested:
    r, b = (values.dropna().to_numpy(dtype=float) for values in (reference, batch))
    names = ("Kolmogorov-Smirnov", "KS distance")
    if not len(r) or not len(b):
        return _Tested(*names, None, 0.0, [], [], [])
    if len(r) == len(b) == 1:  # of these the approximation knows nothing, and the exact test that p is 1
        p, distance = 1.0, float(r[0] != b[0])
    else:
        result = stats.ks_2samp(r, b, method="asymp")
        p, distance = float(result.pvalue), float(result.statistic)
    edges = _edges(np.concatenate([r, b]))
    counts = [np.histogram(values, edges)[0].tolist() for values in (r, b)]
    labels = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return _Tested(*names, p, distance, labels, *counts)


def _edges(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Equal bins over all but the outermost hundredth of the values on each side, which the outer bins take in."""
    low, high = np.quantile(values, [0.01, 0.99])
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    edges[0], edges[-1] = min(edges[0], values.min()), max(edges[-1], values.max())
    return edges


def _categories(reference: pd.Series, batch: pd.Series) -> _Tested:
    names = ("chi-squared", "population stability index")
    r, b = (values.astype(object).where(values.notna(), _NONE) for values in (reference, batch))
    if not len(r) or not len(b):
        return _Tested(*names, None, 0.0, [], [], [])
    kept = list(r.value_counts().index[:_KEPT])
    counts = pd.DataFrame(
        {side: values.where(values.isin(kept), _REST).value_counts() for side, values in (("r", r), ("b", b))}
    ).reindex([*kept, _REST])
    counts = _merged(counts.fillna(0).astype(int))
    p = 1.0
    if len(counts) > 1:
        p = float(stats.chi2_contingency(counts.to_numpy().T, correction=False).pvalue)
    found = [counts[side].tolist() for side in ("r", "b")]
    return _Tested(*names, p, stability_index(*found), [str(label) for label in counts.index], *found)


def _merged(counts: pd.DataFrame) -> pd.DataFrame:
    """The counts with all values in one row that the smaller side would be expected to have too few of."""
    share = counts.sum(axis=1) / counts.to_numpy().sum()
    enough = (share * counts.sum().min() >= _LEAST_EXPECTED) & (counts.index != _REST)
    merged: pd.DataFrame = counts.loc[enough]
    rest = counts.loc[~enough].sum()
    return pd.concat([merged, rest.rename(_REST).to_frame().T]) if rest.sum() else merged


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]
