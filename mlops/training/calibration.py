"""Whether probabilities are what comes true: of rows with the same one, as many should be positive as it says."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

BINS = 10


class Bin(TypedDict):
    """Rows whose probabilities lie beside each other; both numbers are means of them."""

    predicted: float
    observed: float
    rows: int


class Calibration(TypedDict):
    """bins: by rising probability; error: the expected calibration error of them."""

    bins: list[Bin]
    error: float


def calibration(truth: np.ndarray, probability: np.ndarray) -> Calibration:
    """Of (n,) labels 0 and 1 and (n,) probabilities of 1, in BINS of equally many rows.

    The expected calibration error is the mean distance of both numbers of a bin, weighted by its rows (M. P. Naeini et
    al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015; there in bins of equal width).
    """
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    bins = [Bin(predicted=float(probability[p].mean()), observed=float(truth[p].mean()), rows=len(p)) for p in parts]
    apart = sum(each["rows"] * abs(each["predicted"] - each["observed"]) for each in bins)
    return Calibration(bins=bins, error=apart / max(1, len(truth)))
