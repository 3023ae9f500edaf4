"""Whether a model may go into production."""

from dataclasses import dataclass
from math import isfinite
from typing import Protocol


class Quality(Protocol):
    """What the gate looks at; see mlops.training.score.Scores."""

    @property
    def accuracy(self) -> float: ...
    @property
    def f1(self) -> float: ...
    @property
    def auc(self) -> float: ...
    @property
    def baseline_accuracy(self) -> float: ...


@dataclass(frozen=True)
class Thresholds:
    """accuracy and f1 must lie above these, accuracy also this margin above always guessing the larger class."""

    accuracy: float
    f1: float
    baseline_margin: float


def refusals(candidate: Quality, thresholds: Thresholds, champion: Quality | None) -> list[str]:
    """Why the candidate is not good enough; empty where it is.

    champion: the production model's scores on the same rows; the candidate must not have a lower F1. None where there
    is no such model.
    """
    undefined = [name for name in ("accuracy", "f1", "auc") if not isfinite(getattr(candidate, name))]
    if undefined:
        return [f"{name} is not a number: the model or the test set is broken" for name in undefined]
    reasons = []
    if candidate.accuracy <= thresholds.accuracy:
        reasons.append(f"accuracy {candidate.accuracy:.4f} is not above the threshold {thresholds.accuracy:g}")
    if candidate.f1 <= thresholds.f1:
        reasons.append(f"F1 {candidate.f1:.4f} is not above the threshold {thresholds.f1:g}")
    required = required_accuracy(candidate.baseline_accuracy, thresholds.baseline_margin)
    if candidate.accuracy <= required:
        reasons.append(
            f"accuracy {candidate.accuracy:.4f} is not above {required:.4f}, which is the majority baseline "
            f"{candidate.baseline_accuracy:.4f} and a margin"
        )
    if champion is not None and candidate.f1 < champion.f1:
        reasons.append(
            f"F1 {candidate.f1:.4f} is below that of the production model on the same rows, {champion.f1:.4f}"
        )
    return reasons


def required_accuracy(baseline: float, margin: float) -> float:
    """The baseline and the margin, but never more than half way from the baseline to 1, so that a good model passes."""
    return baseline + min(margin, (1 - baseline) / 2)
