"""How sure a comparison of a model with always guessing the larger class is."""

from dataclasses import dataclass
from math import nan, sqrt
from statistics import NormalDist


@dataclass(frozen=True)
class Interval:
    """Where a number lies with a stated confidence."""

    lower: float
    upper: float


def paired_difference(gained: int, lost: int, rows: int, confidence: float) -> Interval:
    """The two-sided interval of the difference of two classifiers' accuracies on the same rows.

    gained, lost: the rows that only the first classifier gets right, and only the second; rows: all of them, each
    taken as drawn independently of the others; confidence: 0.95 leaves 2.5 % on either side. NaN without rows.

    Both classifiers see the same rows, so their errors are correlated and two separate intervals would be too wide.
    This is the adjusted Wald interval, which adds one to either count: D. G. Bonett, R. M. Price, "Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data", Journal of Educational and
    Behavioral Statistics 37 (2012), 479-488. M. W. Fagerland, S. Lydersen and P. Laake, Statistics in Medicine 33
    (2014), 2850-2875, compare it with others and recommend it.
    """
    if rows == 0:
        return Interval(nan, nan)
    first, second = (gained + 1) / (rows + 2), (lost + 1) / (rows + 2)
    difference = first - second
    spread = sqrt((first + second - difference**2) / (rows + 2))
    half = NormalDist().inv_cdf((1 + confidence) / 2) * spread
    return Interval(max(difference - half, -1.0), min(difference + half, 1.0))
