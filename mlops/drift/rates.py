"""Whether more rows of a batch are anomalous than of the reference, where rows that follow each other are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

_BLOCKS = 20  # into which rows are cut; with many more, neighbouring blocks would depend on each other
_LEAST_OF_BLOCK = 10  # rows

Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Excess:
    """rate, expected: the shares of the batch's and of the reference's rows that are flagged.

    p: the probability of such an excess where there is none. design_effect: how many times the variance of the batch's
    rate is that of as many rows that do not depend on each other.
    """

    rate: float
    expected: float
    p: float
    design_effect: float

    @property
    def share(self) -> float:
        """The share of the batch's rows that are anomalous beyond what is expected; below 0 where fewer are."""
        return self.rate - self.expected


def excess(reference: Flags, batch: Flags) -> Excess:
    """Compares the flagged shares of rows in their order of time, one-sided, by Welch's test of the means of blocks.

    Rows are cut into consecutive blocks. The variance between the rates of blocks holds what rows of a block have in
    common (batch means: Law and Kelton, Simulation Modeling and Analysis, 9.5.3); it counts as at least that of rows
    that do not depend on each other. What the rate of the reference varies between its blocks beyond that, it varies
    between batches as well.
    """
    rates = [float(side.mean()) for side in (reference, batch)]
    pooled = float(np.concatenate([reference, batch]).mean())
    least = [pooled * (1 - pooled) / len(side) for side in (reference, batch)]
    between = [_variance_of_blocks(side) for side in (reference, batch)]
    drifting = max(0.0, between[0][0] - least[0] * between[0][1])
    variances = [max(least[0], between[0][0] / between[0][1]), max(between[1][0] / between[1][1], least[1] + drifting)]
    p = 1.0
    if rates[1] > rates[0]:
        freedom = sum(variances) ** 2 / sum(
            variance**2 / (blocks - 1) for variance, (_, blocks) in zip(variances, between, strict=True)
        )
        p = float(stats.t.sf((rates[1] - rates[0]) / np.sqrt(sum(variances)), freedom))
    return Excess(rates[1], rates[0], p, variances[1] / least[1] if least[1] else 1.0)


def _variance_of_blocks(flags: Flags) -> tuple[float, int]:
    """The variance of the rates of consecutive blocks, and their number, which is two at least."""
    blocks = max(2, min(_BLOCKS, len(flags) // _LEAST_OF_BLOCK))
    rates = [float(block.mean()) if len(block) else 0.0 for block in np.array_split(flags, blocks)]
    return float(np.var(rates, ddof=1)), blocks
