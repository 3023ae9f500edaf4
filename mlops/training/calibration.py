"""Whether what a model says happens as often as it says.

The expected calibration error is the mean distance between both over bins of what was said, each weighted by its rows
(M. P. Naeini, G. F. Cooper and M. Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI
2015), here of the probability of 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlops.page import page, table
from mlops.plots import lines

BINS = 15  # of equal width, as C. Guo et al., "On calibration of modern neural networks", ICML 2017, have them
FILE = "reliability.html"


class Bin(NamedTuple):
    """rows whose probability lies in it: what was said of them, and what share of them was 1."""

    low: float
    high: float
    rows: int
    said: float
    observed: float


def bins(probability: np.ndarray, truth: np.ndarray, count: int = BINS) -> list[Bin]:
    """Those that hold rows. probability, truth: (n,) of numbers from 0 to 1, and of 0 and 1."""
    places = np.minimum((probability * count).astype(int), count - 1)
    rows = np.bincount(places, minlength=count)
    said, observed = (np.bincount(places, values, count) for values in (probability, truth.astype(float)))
    return [
        Bin(
            place / count,
            (place + 1) / count,
            int(rows[place]),
            said[place] / rows[place],
            observed[place] / rows[place],
        )
        for place in np.flatnonzero(rows)
    ]


def expected_error(found: list[Bin]) -> float:
    """0 where all that was said came true as often; at most 1."""
    total = sum(each.rows for each in found)
    return float(sum(each.rows * abs(each.said - each.observed) for each in found) / total)


def reliability(found: list[Bin], title: str) -> str:
    """A page with the plot of what was said and what was observed, and its numbers."""
    labels = [f"{each.low:.2f} to {each.high:.2f}" for each in found]
    series = {"said": [each.said for each in found], "observed": [each.observed for each in found]}
    rows = [
        [label, each.rows, f"{each.said:.4f}", f"{each.observed:.4f}"]
        for label, each in zip(labels, found, strict=True)
    ]
    drawn = lines(labels, series, "Probability said and share observed", lambda value: f"{value:.3f}")
    body = (
        f"<p>Expected calibration error {expected_error(found):.4f} over {len(found)} bins that hold rows.</p>"
        f'<p><span class="key s0">said</span>, <span class="key s1">observed</span></p>{drawn}'
    )
    return page(title, body + table(["probability", "rows", "said", "observed"], rows))
