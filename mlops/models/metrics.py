"""The metrics that a model may be judged by: which kind of label each is of, and which way is better."""

import re
from dataclasses import dataclass

from mlops.datasets.declaration import LabelKind

_RECALL = re.compile(r"recall_at_precision_(0\.\d+)")


@dataclass(frozen=True)
class Metric:
    """name: in MLflow; title: for people; error: whether less is better; baseline: what it is compared with."""

    name: str
    title: str
    kinds: tuple[LabelKind, ...]
    baseline: str
    error: bool = False
    precision: float = 1.0  # of recall_at_precision

    def better(self, value: float, than: float) -> bool:
        """False where one of them is not a number."""
        return value < than if self.error else value > than

    def gain(self, value: float, over: float) -> float:
        """By how much the value is better, in units of the metric; negative where it is worse."""
        return over - value if self.error else value - over

    def required_gain(self, baseline: float, margin: float) -> float:
        """The margin over the baseline, but never more than half of what it leaves to perfect, so that a good one can
        pass. That of an error is a share of the baseline's error."""
        if self.error:
            return min(margin, 0.5) * baseline
        return min(margin, (1 - baseline) / 2)


_MAJORITY, _PRIOR, _MEAN = "the larger class", "the shares of the classes", "the mean"
_CLASSES: tuple[LabelKind, ...] = ("binary", "multiclass")
_METRICS = (
    Metric("accuracy", "accuracy", _CLASSES, _MAJORITY),
    Metric("f1", "F1", ("binary",), _MAJORITY),
    Metric("auc", "AUC", ("binary",), _PRIOR),
    Metric("average_precision", "average precision", ("binary",), _PRIOR),
    Metric("f1_macro", "macro F1", ("multiclass",), _MAJORITY),
    Metric("log_loss", "log loss", _CLASSES, _PRIOR, error=True),
    Metric("r2", "R\N{SUPERSCRIPT TWO}", ("regression",), _MEAN),
    Metric("mae", "mean absolute error", ("regression",), _MEAN, error=True),
    Metric("rmse", "root mean square error", ("regression",), _MEAN, error=True),
)
# What a model of the kind is judged by unless it says otherwise. Accuracy and F1 of a rare class hang on where the
# probability is cut; these do not, or do not forget a small class, or mean the same in every unit.
DEFAULT: dict[LabelKind, str] = {"binary": "average_precision", "multiclass": "f1_macro", "regression": "r2"}


def of_kind(kind: LabelKind) -> tuple[Metric, ...]:
    """All metrics of a kind that take no number of their own."""
    return tuple(metric for metric in _METRICS if kind in metric.kinds)


def get(name: str) -> Metric:
    """Raises ValueError where there is no such metric."""
    for metric in _METRICS:
        if metric.name == name:
            return metric
    found = _RECALL.fullmatch(name)
    if not found:
        known = ", ".join([*(metric.name for metric in _METRICS), "recall_at_precision_0.9 (or another precision)"])
        raise ValueError(f"metric {name!r} is not known: use one of {known}")
    precision = float(found.group(1))
    title = f"recall at a precision of {precision:g}"
    return Metric(name, title, ("binary",), _PRIOR, precision=precision)


def shown(value: float) -> str:
    """Four digits after the point; of a large number four that count."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"
