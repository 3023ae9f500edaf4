"""How well a model does on labelled rows, beside what always guessing the larger class would reach."""

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score

from mlops.training.families import Family


@dataclass(frozen=True)
class Scores:
    """All of the positive class; NaN where undefined. Counts: what was predicted, and whether that was right."""

    accuracy: float
    f1: float
    auc: float
    baseline_accuracy: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def rows(self) -> int:
        return self.true_positives + self.false_positives + self.true_negatives + self.false_negatives

    @property
    def gained(self) -> int:
        """Rows that the model gets right and the majority class does not: the found ones of the smaller class."""
        return self.true_negatives if self._mostly_positive else self.true_positives

    @property
    def lost(self) -> int:
        """Rows that the majority class gets right and the model does not."""
        return self.false_negatives if self._mostly_positive else self.false_positives

    @property
    def baseline_f1(self) -> float:
        """The F1 of always guessing the larger class, whose recall is 1 or 0."""
        positives = self.true_positives + self.false_negatives
        return 2 * positives / (self.rows + positives) if self._mostly_positive else 0.0

    @property
    def _mostly_positive(self) -> bool:
        return 2 * (self.true_positives + self.false_negatives) > self.rows

    def metrics(self, prefix: str) -> dict[str, float]:
        """The finite ones, as MLflow metrics."""
        return {f"{prefix}_{name}": float(value) for name, value in asdict(self).items() if np.isfinite(value)}


def score(family: Family, model: Any, features: pd.DataFrame, labels: pd.Series) -> Scores:
    """The scores of a family's model on (n, features) rows with (n,) labels of 0 and 1."""
    predicted, probability = family.predict(model, features)
    return score_predictions(labels.to_numpy(), predicted, probability)


def score_predictions(labels: np.ndarray, predicted: np.ndarray, probability: np.ndarray) -> Scores:
    """labels and predicted: (n,) of 0 and 1; probability: (n,), that of class 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        f1 = float(f1_score(labels, predicted, zero_division=0.0))
        auc = float("nan") if np.isnan(probability).any() else float(roc_auc_score(labels, probability))
    true_negatives, false_positives, false_negatives, true_positives = confusion_matrix(
        labels, predicted, labels=[0, 1]
    ).ravel()
    share = float(np.mean(labels))
    return Scores(
        accuracy=float(accuracy_score(labels, predicted)),
        f1=f1,
        auc=auc,
        baseline_accuracy=max(share, 1 - share),
        true_positives=int(true_positives),
        false_positives=int(false_positives),
        true_negatives=int(true_negatives),
        false_negatives=int(false_negatives),
    )
