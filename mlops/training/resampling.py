"""How sure a difference on one test set is: by drawing its rows again, and by swapping two models' answers.

Where the dataset says which rows belong together, whole groups are drawn and swapped instead of rows.
"""

from collections.abc import Iterator
from math import ceil, nan
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from mlops.models.metrics import Metric
from mlops.training.measures import Answers, Curve, Rows, Sums, levels, measure

DRAWS = 999
_SEED = 7  # the same rows and models give the same interval
_BLOCK = 1 << 22  # numbers that are held at a time


class Interval(NamedTuple):
    """Where a number lies with a stated confidence; value: as measured."""

    value: float
    lower: float
    upper: float


def interval(metric: Metric, rows: Rows, model: Answers, confidence: float, draws: int = DRAWS) -> Interval:
    """How good the model is, and between what, by the same bootstrap as `gain`."""
    measured, groups = measure(metric), rows.number_of_groups
    found = measured(rows, model)
    if groups < 2 or not np.isfinite(found):
        return Interval(found, nan, nan)
    drawn = _drawn(measured, rows, model, _weights(groups, draws, np.random.default_rng(_SEED)))
    return Interval(found, *_between(drawn, groups, confidence))


def gain(
    metric: Metric, rows: Rows, model: Answers, baseline: Answers, confidence: float, draws: int = DRAWS
) -> Interval:
    """By how much the model is better than the baseline on the same rows; negative where it is worse.

    The percentile interval of the paired bootstrap (B. Efron, R. J. Tibshirani, An Introduction to the Bootstrap, 1993,
    ch. 13): rows are drawn with replacement, and both are measured on those drawn. Its tails are widened for few
    groups as T. C. Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69 (2015),
    371-386, section 4.3, has it. NaN with less than two groups, or where the metric is not a number.
    """
    measured, groups = measure(metric), rows.number_of_groups
    found = metric.gain(measured(rows, model), measured(rows, baseline))
    if groups < 2 or not np.isfinite(found):
        return Interval(found, nan, nan)
    values = [
        _drawn(measured, rows, answers, _weights(groups, draws, np.random.default_rng(_SEED)))
        for answers in (model, baseline)
    ]
    differences = values[1] - values[0] if metric.error else values[0] - values[1]
    return Interval(found, *_between(differences, groups, confidence))


def advantage(
    metric: Metric, rows: Rows, candidate: Answers, champion: Answers, confidence: float, draws: int = DRAWS
) -> Interval:
    """By how much the candidate is better than the champion on the same rows; negative where it is worse.

    If both are equally good it makes no difference whose answer to a row is whose. So both answers are swapped for a
    random half of the rows, and the difference measured again: those differences say how large one is by chance. The
    interval reaches as far to either side as the share `confidence` of them, the measured one counted among them. It
    leaves 0 out, whatever the metric and however few the rows, no more often than 1 - confidence where the two can be
    exchanged (R. A. Fisher's randomization test; E. W. Noreen, Computer-Intensive Methods for Testing Hypotheses, 1989;
    for any metric of classifiers A. Yeh, COLING 2000). NaN where the metric is not a number.
    """
    measured = measure(metric)
    found = metric.gain(measured(rows, candidate), measured(rows, champion))
    if not np.isfinite(found):
        return Interval(found, nan, nan)
    generator = np.random.default_rng(_SEED)
    if isinstance(measured, Sums):
        swapped = _swapped_sums(measured, rows, candidate, champion, draws, generator)
    else:
        swapped = _swapped_curves(measured, rows, candidate, champion, draws, generator)
    # Beyond as many of the draws + 1 as the confidence leaves over: the measured difference is one of them.
    place = ceil((draws + 1) * confidence - 1e-9)
    far = np.inf if place > draws else float(np.sort(np.abs(swapped))[place - 1])
    far += 1e-12  # two ways of adding up the same rows differ in their last digits
    return Interval(found, found - far, found + far)


def _between(drawn: np.ndarray, groups: int, confidence: float) -> tuple[float, float]:
    """The ends of the percentile interval, its tails widened for few groups; NaN without a finite value."""
    tail = norm.cdf(np.sqrt(groups / (groups - 1)) * t.ppf((1 - confidence) / 2, groups - 1))
    finite = drawn[np.isfinite(drawn)]  # no positive row may have been drawn
    lower, upper = np.quantile(finite, [tail, 1 - tail]) if len(finite) else (nan, nan)
    return float(lower), float(upper)


def _weights(groups: int, draws: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks of (some draws, groups): how often each group was drawn."""
    rows = max(1, _BLOCK // groups)
    for start in range(0, draws, rows):
        block = np.empty((min(rows, draws - start), groups))
        for line in block:
            line[:] = np.bincount(generator.integers(0, groups, groups), minlength=groups)
        yield block


def _drawn(measured: Sums | Curve, rows: Rows, answers: Answers, weights: Iterator[np.ndarray]) -> np.ndarray:
    """(draws,) values of the metric on the rows drawn."""
    if isinstance(measured, Sums):
        terms = _by_group(measured.terms(rows, answers), rows)
        return np.concatenate([measured.value(block @ terms) for block in weights])
    order, last = levels(answers.score)
    truth, groups = rows.truth[order].astype(float), rows.groups[order]
    values = []
    for block in weights:
        for line in block:
            weight = line[groups]
            positive, either = np.cumsum(weight * truth)[last], np.cumsum(weight)[last]
            values.append(measured.value(positive, either - positive))
    return np.array(values)


def _by_group(terms: np.ndarray, rows: Rows) -> np.ndarray:
    """(groups, m) sums of (n, m) terms."""
    groups = rows.number_of_groups
    if groups == len(rows.groups):
        return terms[np.argsort(rows.groups)]
    return np.stack([np.bincount(rows.groups, column, groups) for column in terms.T], axis=1)


def _swapped_sums(
    measured: Sums, rows: Rows, first: Answers, second: Answers, draws: int, generator: np.random.Generator
) -> np.ndarray:
    """(draws,) differences. Only the groups where the two differ make any."""
    ours, theirs = (_by_group(measured.terms(rows, answers), rows) for answers in (first, second))
    differs = (ours != theirs).any(axis=1)
    ours_sum, both = ours.sum(axis=0), ours.sum(axis=0) + theirs.sum(axis=0)
    change = (theirs - ours)[differs]
    found, size = [], max(1, _BLOCK // max(1, len(change)))
    for start in range(0, draws, size):
        swap = generator.integers(0, 2, (min(size, draws - start), len(change)), dtype=np.int8)
        sums = ours_sum + swap.astype(float) @ change
        found.append(measured.value(sums) - measured.value(both - sums))
    return np.concatenate(found)


def _swapped_curves(
    measured: Curve, rows: Rows, first: Answers, second: Answers, draws: int, generator: np.random.Generator
) -> np.ndarray:
    """(draws,) differences."""
    _, places = np.unique(np.concatenate([first.score, second.score]), return_inverse=True)
    ours, theirs = np.split(places, 2)
    is_positive, levels_of_both = rows.truth == 1, int(places.max()) + 1

    def above(mixed: np.ndarray) -> np.ndarray:
        return np.cumsum(np.bincount(mixed, minlength=levels_of_both)[::-1])

    both_positive = above(ours[is_positive]) + above(theirs[is_positive])
    both = above(ours) + above(theirs)
    found = np.empty(draws)
    for index in range(draws):
        swap = generator.integers(0, 2, rows.number_of_groups, dtype=np.int8).astype(bool)[rows.groups]
        mixed = np.where(swap, theirs, ours)
        positive, either = above(mixed[is_positive]), above(mixed)
        found[index] = measured.value(positive, either - positive) - measured.value(
            both_positive - positive, both - either - both_positive + positive
        )
    return found
