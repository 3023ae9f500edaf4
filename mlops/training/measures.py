"""What each metric is on rows: computed so that it can be asked again for weighted or swapped rows, many times.

Accuracy, F1, log loss and the errors of numbers are functions of sums over rows. AUC, average precision and the recall
at a precision are functions of a curve: of the positives and negatives above each level of the score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlops.datasets.declaration import Dataset
from mlops.models.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

    from mlops.training.families import Prediction

_SMALLEST = np.finfo(float).eps  # of a probability, as scikit-learn's log_loss has it


@dataclass(frozen=True)
class Rows:
    """Labelled rows. truth: (n,) of numbers, or of places in `classes`, which numbers lack; groups: (n,) from 0 on."""

    truth: np.ndarray
    classes: tuple[object, ...]
    groups: np.ndarray

    @classmethod
    def of(cls, labels: pd.Series, dataset: Dataset, groups: pd.Series | None = None) -> Rows:
        """groups: the same value for rows that belong together; None: each row stands for itself."""
        together = np.arange(len(labels)) if groups is None else np.unique(groups.to_numpy(), return_inverse=True)[1]
        classes, values = classes_of(dataset), labels.to_numpy()
        return cls(_places(values, classes) if classes else values.astype(float), classes, together)

    def where(self, mask: np.ndarray) -> Rows:
        """Those of an (n,) mask."""
        return Rows(self.truth[mask], self.classes, self.groups[mask])

    @property
    def number_of_groups(self) -> int:
        return int(self.groups.max()) + 1 if len(self.groups) else 0


@dataclass(frozen=True)
class Answers:
    """What a model says of rows. values: (n,), as `Rows.truth`; probabilities: (n, k), or None of numbers."""

    values: np.ndarray
    probabilities: np.ndarray | None = None

    @classmethod
    def of(cls, prediction: Prediction, rows: Rows) -> Answers:
        """A class that the model never met has the probability 0. Raises ValueError for answers of another kind."""
        if bool(rows.classes) != (prediction.classes is not None):
            raise ValueError("the label is a number and the model says classes, or the other way round")
        if prediction.classes is None or prediction.probabilities is None:
            return cls(np.asarray(prediction.values, dtype=float))
        probabilities = np.zeros((len(prediction.values), len(rows.classes)))
        probabilities[:, _places(prediction.classes, rows.classes)] = prediction.probabilities
        return cls(_places(prediction.values, rows.classes), probabilities)

    @classmethod
    def baseline(cls, rows: Rows) -> Answers:
        """What knows only the rows' labels says: always the larger class, with the classes' shares, or the mean."""
        if not rows.classes:
            return cls(np.full(len(rows.truth), rows.truth.mean()))
        shares = np.bincount(rows.truth, minlength=len(rows.classes)) / len(rows.truth)
        return cls(np.full(len(rows.truth), shares.argmax()), np.broadcast_to(shares, (len(rows.truth), len(shares))))

    def where(self, mask: np.ndarray) -> Answers:
        """Those to the rows of an (n,) mask."""
        return Answers(self.values[mask], None if self.probabilities is None else self.probabilities[mask])

    @property
    def score(self) -> np.ndarray:
        """(n,) probabilities of the second class: of 1, where the label is binary."""
        if self.probabilities is None:
            raise ValueError("numbers have no probabilities")
        return self.probabilities[:, 1]


@dataclass(frozen=True)
class Sums:
    """A metric of sums. terms: (n, m) of rows and answers; value: of (..., m) sums over rows."""

    terms: Callable[[Rows, Answers], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]

    def __call__(self, rows: Rows, answers: Answers) -> float:
        return float(self.value(self.terms(rows, answers).sum(axis=0)))


@dataclass(frozen=True)
class Curve:
    """A metric of the positives and the negatives, (levels,) each, at and above each level of the score, falling."""

    value: Callable[[np.ndarray, np.ndarray], float]

    def __call__(self, rows: Rows, answers: Answers) -> float:
        if not np.isfinite(answers.score).all():
            return float("nan")
        order, last = levels(answers.score)
        positive = np.cumsum(rows.truth[order])[last]
        return self.value(positive, last + 1 - positive)


def _places(values: np.ndarray, classes: tuple[object, ...]) -> np.ndarray:
    """Where each value stands in the classes, which are sorted. Raises ValueError for one that is none of them."""
    known = np.array(classes)
    places = np.minimum(np.searchsorted(known, values.astype(known.dtype)), len(known) - 1)
    strange = known[places] != values
    if strange.any():
        raise ValueError(f"{values[strange][0]!r} is none of the classes {', '.join(map(str, classes))}")
    return places


def classes_of(dataset: Dataset) -> tuple[object, ...]:
    """The classes of a dataset's label in the order that their probabilities have; none of a number."""
    label = dataset.label
    if label.kind == "binary":
        return (0, 1)
    return tuple(sorted(dataset[label.column].values)) if label.kind == "multiclass" else ()


def levels(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order of falling score, in it the last place of each level)."""
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    return order, np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)


def measure(metric: Metric) -> Sums | Curve:
    """How the metric is computed."""
    if metric.name.startswith("recall_at_precision"):
        return Curve(lambda positive, negative: _recall_at(metric.precision, positive, negative))
    return _MEASURES[metric.name]


def _correct(rows: Rows, answers: Answers) -> np.ndarray:
    return np.column_stack([rows.truth == answers.values, np.ones(len(rows.truth))]).astype(float)


def _mean(sums: np.ndarray) -> np.ndarray:
    return _ratio(sums[..., 0], sums[..., 1])


def _hits(rows: Rows, answers: Answers) -> np.ndarray:
    """Of each class: right, and predicted plus true ones."""
    classes = np.arange(len(rows.classes))
    true, said = rows.truth[:, None] == classes, answers.values[:, None] == classes
    hits: np.ndarray = np.concatenate([true & said, true.astype(float) + said], axis=1)
    return hits


def _f1(sums: np.ndarray) -> np.ndarray:
    """Of the second class; 0 where there is none and none was found."""
    found: np.ndarray = np.nan_to_num(_ratio(2 * sums[..., 1], sums[..., 3]))
    return found


def _f1_macro(sums: np.ndarray) -> np.ndarray:
    """The mean over the classes that occur or were predicted, as scikit-learn has it."""
    half = sums.shape[-1] // 2
    occurs = sums[..., half:] > 0
    return _ratio(np.where(occurs, _ratio(2 * sums[..., :half], sums[..., half:]), 0).sum(-1), occurs.sum(-1))


def _surprise(rows: Rows, answers: Answers) -> np.ndarray:
    if answers.probabilities is None:
        raise ValueError("numbers have no probabilities")
    said = answers.probabilities[np.arange(len(rows.truth)), rows.truth]
    return np.column_stack([-np.log(np.clip(said, _SMALLEST, 1)), np.ones(len(said))])


def _deviations(rows: Rows, answers: Answers) -> np.ndarray:
    return np.column_stack([np.abs(rows.truth - answers.values), np.ones(len(rows.truth))])


def _squares(rows: Rows, answers: Answers) -> np.ndarray:
    # Around the mean, so that the difference of large squares keeps its digits.
    truth = rows.truth - rows.truth.mean()
    return np.column_stack([(rows.truth - answers.values) ** 2, np.ones(len(truth)), truth, truth**2])


def _r2(sums: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 - _ratio(sums[..., 0], sums[..., 3] - _ratio(sums[..., 2] ** 2, sums[..., 1]))
    return found


def _auc(positive: np.ndarray, negative: np.ndarray) -> float:
    if not positive[-1] or not negative[-1]:
        return float("nan")
    area = np.trapezoid(np.append(0, positive), np.append(0, negative))
    return float(area / (positive[-1] * negative[-1]))


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    """The precision at each level, weighted by the recall that it adds."""
    if not positive[-1]:
        return float("nan")
    return float((np.diff(positive, prepend=0) * _precision(positive, negative)).sum() / positive[-1])


def _recall_at(precision: float, positive: np.ndarray, negative: np.ndarray) -> float:
    """The most that is found where the precision is at least this; 0 where it never is."""
    if not positive[-1]:
        return float("nan")
    found = positive[_precision(positive, negative) >= precision]
    return float(found.max() / positive[-1]) if len(found) else 0.0


def _precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.nan_to_num(_ratio(positive, positive + negative))
    return found


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is 0."""
    part, whole = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    found: np.ndarray = np.divide(
        part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan), where=whole != 0
    )
    return found


_MEASURES: dict[str, Sums | Curve] = {
    "accuracy": Sums(_correct, _mean),
    "f1": Sums(_hits, _f1),
    "f1_macro": Sums(_hits, _f1_macro),
    "log_loss": Sums(_surprise, _mean),
    "auc": Curve(_auc),
    "average_precision": Curve(_average_precision),
    "mae": Sums(_deviations, _mean),
    "rmse": Sums(_squares, lambda sums: np.sqrt(_mean(sums))),
    "r2": Sums(_squares, _r2),
}
