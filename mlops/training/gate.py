"""Whether a classifier is good enough: the one gate of every pipeline that trains one from a data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Protocol

from mlops.registry.champion import worse
from mlops.training.interval import Interval, paired_difference

_NOTHING: Mapping[str, float] = MappingProxyType({})


class TestScores(Protocol):
    """What the gate looks at; see mlops.training.score.Scores."""

    @property
    def accuracy(self) -> float: ...
    @property
    def f1(self) -> float: ...
    @property
    def auc(self) -> float: ...
    @property
    def baseline_accuracy(self) -> float: ...
    @property
    def rows(self) -> int: ...
    @property
    def gained(self) -> int: ...
    @property
    def lost(self) -> int: ...


@dataclass(frozen=True)
class Thresholds:
    """accuracy and f1 must lie above these; so must, above this margin, what accuracy gains over the majority class.

    confidence: the gain's interval at this level must lie above the margin as a whole.
    """

    accuracy: float
    f1: float
    baseline_margin: float
    confidence: float = 0.95


def refusals(
    candidate: TestScores, thresholds: Thresholds, champion: TestScores | None, metrics: Mapping[str, float] = _NOTHING
) -> list[str]:
    """Why the candidate is not good enough; empty where it is.

    champion: the production model's scores on the same rows; the candidate must not have a lower F1. None where there
    is no such model. metrics: what else must be a number, such as the scores on the training set.
    """
    scores = {name: getattr(candidate, name) for name in ("accuracy", "f1", "auc")}
    undefined = [name for name, value in {**scores, **metrics}.items() if not isfinite(value)]
    if undefined:
        return [f"{name} is not a number: the model or its data is broken" for name in undefined]
    reasons = []
    # Asked this way round, a threshold that is not a number lets nothing pass.
    if not candidate.accuracy > thresholds.accuracy:
        reasons.append(f"accuracy {candidate.accuracy:.4f} is not above the threshold {thresholds.accuracy:g}")
    if not candidate.f1 > thresholds.f1:
        reasons.append(f"F1 {candidate.f1:.4f} is not above the threshold {thresholds.f1:g}")
    required = required_gain(candidate.baseline_accuracy, thresholds.baseline_margin)
    found = gain(candidate, thresholds.confidence)
    if not found.lower > required:
        reasons.append(
            f"accuracy {candidate.accuracy:.4f} is not above the majority baseline {candidate.baseline_accuracy:.4f} "
            f"by a margin of {required:.4f}: the gain lies between {found.lower:.4f} and {found.upper:.4f} with "
            f"{100 * thresholds.confidence:g} % confidence"
        )
    if champion is not None and worse({"f1": candidate.f1}, {"f1": champion.f1}, {"f1": 0.0}):
        reasons.append(
            f"F1 {candidate.f1:.4f} is below that of the production model on the same rows, {champion.f1:.4f}"
        )
    return reasons


def gain(quality: TestScores, confidence: float) -> Interval:
    """By how much accuracy lies above that of always guessing the larger class of the same rows."""
    return paired_difference(quality.gained, quality.lost, quality.rows, confidence)


def required_gain(baseline: float, margin: float) -> float:
    """The margin, but never more than half of what the baseline leaves to 1, so that a good model can pass."""
    return min(margin, (1 - baseline) / 2)
