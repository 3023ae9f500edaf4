"""Whether the columns of a batch are distributed as in the reference.

With enough rows everything is significant, and with many columns something always is. So a column has drifted only
where its test is significant after correction for the number of columns, and where the distance is large as well. The
distance is the same for numbers and categories: the share of the batch's rows that would have to have other values for
it to be distributed as the reference is. It has no unit, does not depend on the number of rows, and a missing value
is a value like any other.

The tests take rows as independent of each other. Readings that follow each other closely are not, which makes p too
small; for those the distance to tell of is to be raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from mlops.drift.sketch import Categories, Floats, Integers, Numbers, Sketch

_KEPT = 20  # values of a category that are compared one by one; the rest, and new ones, are compared together
_OTHER, _MISSING = "(other values)", "(missing)"
_LEAST_EXPECTED = 5.0  # rows; with fewer the chi-squared approximation is poor (Cochran, Biometrics 10, 1954)
_BINS = 20


@dataclass(frozen=True)
class Comparison:
    """One column of a batch beside the reference.

    p: of the two-sample Kolmogorov-Smirnov test, or of the chi-squared test of homogeneity; p_adjusted: after Holm's
        correction.
    effect: 0 to 1, at least this share of the rows would have to have other values. Of a category it is the total
        variation distance of its commonest values and the rest, of a number the Kolmogorov-Smirnov distance, which is
        the largest difference of the shares of rows on one side of some value, with the missing ones on either side.
    missing_reference, missing_batch: the shares of the rows without a value.
    labels, reference, batch: bins, and the share of the rows in each.
    """

    column: str
    test: str
    p: float
    p_adjusted: float
    effect: float
    drifted: bool
    missing_reference: float
    missing_batch: float
    labels: Sequence[str]
    reference: Sequence[float]
    batch: Sequence[float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def text(self) -> str:
        """What is to be told of it."""
        told = f"drifted: at least {self.effect:.1%} of the rows lie elsewhere than in the reference"
        if self.missing_reference or self.missing_batch:
            told += f"; {self.missing_batch:.1%} are missing, {self.missing_reference:.1%} were"
        return told


def compare(
    reference: Mapping[str, Sketch], batch: Mapping[str, Sketch], *, level: float, effect_threshold: float
) -> list[Comparison]:
    """Each column of the reference, the farthest from it first. The batch was counted where the reference was.

    level: the probability that a batch of the reference's own population is said to have drifted anywhere.
    effect_threshold: the least effect that is of interest. A shift of d standard deviations of a normal distribution is
        one of 2 * Phi(d / 2) - 1: 0.04 for a tenth, 0.08 for a fifth, 0.16 for two fifths.
    """
    tested = {name: _tested(known, batch[name]) for name, known in reference.items()}
    adjusted = dict(zip(tested, holm([result.p for result in tested.values()]), strict=True))
    compared = [
        Comparison(
            column=name,
            test=result.test,
            p=result.p,
            p_adjusted=adjusted[name],
            effect=result.effect,
            drifted=adjusted[name] <= level and result.effect >= effect_threshold,
            missing_reference=reference[name].missing / max(1, reference[name].rows),
            missing_batch=batch[name].missing / max(1, batch[name].rows),
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


@dataclass(frozen=True)
class _Tested:
    test: str
    p: float
    effect: float
    labels: list[str]
    reference: Integers
    batch: Integers


def _tested(r: Sketch, b: Sketch) -> _Tested:
    if isinstance(r, Numbers) and isinstance(b, Numbers):
        return _numbers(r, b)
    if isinstance(r, Categories) and isinstance(b, Categories):
        return _categories(r, b)
    raise TypeError("a number and a category are not comparable: count the batch where the reference was counted")


def _numbers(r: Numbers, b: Numbers) -> _Tested:
    """The Kolmogorov-Smirnov test with the missing values below all others, and with them above all others.

    It is so twice, and p is doubled (Bonferroni), where values are missing on either side. p is that of the limiting
    distribution (Smirnov, Annals of Mathematical Statistics 19, 1948): a little too large for few rows or tied values.
    """
    differences = r.cuts / max(1, r.rows) - b.cuts / max(1, b.rows)
    missing = r.missing / max(1, r.rows) - b.missing / max(1, b.rows)
    effect = float(max(np.abs(differences).max(), np.abs(differences + missing).max()))
    times = 2 if r.missing or b.missing else 1
    rows = r.rows * b.rows / max(1, r.rows + b.rows)
    p = min(1.0, times * float(stats.kstwobign.sf(np.sqrt(rows) * effect)))
    bounds = _bounds(r, b)
    labels = [f"below {bounds[0]:.4g}", *(f"{low:.4g} to {high:.4g}" for low, high in pairwise(bounds))]
    labels += [f"{bounds[-1]:.4g} and above", _MISSING]
    known, new = (np.append(_binned(side, bounds), side.missing) for side in (r, b))
    return _Tested("Kolmogorov-Smirnov", p, effect, *_shown(labels, known, new, range(1, len(labels) - 2)))


def _bounds(r: Numbers, b: Numbers) -> Floats:
    """Of equal bins over all but the outermost hundredths of both sides' values, as far as the edges tell them."""
    if not len(r.edges):  # there is no value to say where they lie
        return np.array([-np.inf, np.inf])
    ends = [
        r.edges[np.searchsorted(side.below + side.at, share * side.cuts[-1]).clip(0, len(r.edges) - 1)]
        for side in (r, b)
        for share in (0.01, 0.99)
    ]
    low, high = (max(min(end, 1e300), -1e300) for end in (min(ends), max(ends)))
    return np.linspace(low, high if high > low else low + 1.0, _BINS + 1)


def _binned(side: Numbers, bounds: Floats) -> Integers:
    """Rows below, in and above the bins. What lies between two edges is counted in their middle."""
    between = np.diff(side.cuts)[::2]
    inner = side.edges[:-1] / 2 + side.edges[1:] / 2
    middles = np.concatenate([[-np.inf], inner, [np.inf]]) if len(side.edges) else np.zeros(1)
    counts = np.zeros(len(bounds) + 1, dtype=np.int64)
    for places, rows in ((side.edges, side.at), (middles, between)):
        np.add.at(counts, np.searchsorted(bounds, places, "right"), rows)
    return counts


def _categories(r: Categories, b: Categories) -> _Tested:
    """Cells are chosen by the rows of both sides: those that are common on one alone would be so by chance as well."""
    kept = sorted(r.counts, key=lambda value: -(r.counts[value] + b.counts[value]))[:_KEPT]
    known, new = (
        np.array([*listed, side.rows - side.missing - sum(listed), side.missing], dtype=np.int64)
        for side in (r, b)
        for listed in [[side.counts[value] for value in kept]]
    )
    effect = float(np.abs(known / max(1, known.sum()) - new / max(1, new.sum())).sum()) / 2
    shown = _shown([*kept, _OTHER, _MISSING], known, new, ())
    return _Tested("chi-squared", _homogeneity(known, new), effect, *shown)


def _homogeneity(r: Integers, b: Integers) -> float:
    """p of the hypothesis that both sides are drawn from one population.

    Values that too few rows of the smaller side are expected to have are taken together. Where they are too few even
    so, as a value is that the reference does not have, their split between the sides is tested by the binomial
    distribution, which is exact, and the smaller of both p is doubled (Bonferroni).
    """
    sizes, expected = (r.sum(), b.sum()), (r + b) / max(1, r.sum() + b.sum()) * min(r.sum(), b.sum())
    rest = expected < _LEAST_EXPECTED
    few = expected[rest].sum() < _LEAST_EXPECTED
    cells = np.array([np.append(side[~rest], [] if few else side[rest].sum()) for side in (r, b)])
    p = 1.0
    if cells.shape[1] > 1 and cells.sum(axis=1).all():
        p = float(stats.chi2_contingency(cells, correction=False).pvalue)
    if few and (of := int(r[rest].sum() + b[rest].sum())):
        split = float(stats.binomtest(int(b[rest].sum()), of, float(sizes[1] / sum(sizes))).pvalue)
        p = min(1.0, 2 * min(p, split))
    return p


def _shown(
    labels: Sequence[str], r: Integers, b: Integers, always: Sequence[int]
) -> tuple[list[str], Integers, Integers]:
    """The bins that either side has rows in, and those that are shown in any case."""
    kept = [index for index in range(len(labels)) if r[index] or b[index] or index in always]
    return [labels[index] for index in kept], r[kept], b[kept]


def _shares(counts: Integers) -> list[float]:
    return [float(share) for share in counts / max(1, counts.sum())]
