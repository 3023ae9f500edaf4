"""Whether a model is good enough: the one gate of every pipeline that trains one from a data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Protocol

from mlops.models import metrics
from mlops.models.declaration import Model
from mlops.models.metrics import Metric, shown

_NOTHING: Mapping[str, float] = MappingProxyType({})


class Interval(Protocol):
    """Where a difference lies; see mlops.training.resampling.Interval."""

    @property
    def value(self) -> float: ...
    @property
    def lower(self) -> float: ...
    @property
    def upper(self) -> float: ...


@dataclass(frozen=True)
class Criteria:
    """What a model has to show on its test set.

    metric: what decides beside the baseline and the champion. thresholds: of any metrics by name, each of which must be
    better than its own. margin: see `Metric.required_gain`; confidence: of both intervals.
    """

    metric: Metric
    thresholds: Mapping[str, float]
    margin: float
    confidence: float = 0.95

    @classmethod
    def of(
        cls, model: Model, overrides: Mapping[str, float | None], margin: float | None, confidence: float
    ) -> "Criteria":
        """Those that the model declares, but for what is overridden.

        overrides: thresholds by metric; None leaves what is declared, and one of a metric that the kind of label does
        not have says nothing.
        """
        metric, kind = model.judged_by, model.data.label.kind
        declared = {} if model.threshold is None else {metric.name: model.threshold}
        set_ = {name: each for name, each in overrides.items() if each is not None and kind in metrics.get(name).kinds}
        thresholds = {**declared, **set_}
        return cls(metric, thresholds, model.margin if margin is None else margin, confidence)

    @property
    def measured(self) -> tuple[Metric, ...]:
        """The metrics that it asks for."""
        return (self.metric, *(metrics.get(name) for name in self.thresholds if name != self.metric.name))


def refusals(
    scores: Mapping[str, float],
    baseline: float,
    gain: Interval,
    criteria: Criteria,
    advantage: Interval | None,
    others: Mapping[str, float] = _NOTHING,
) -> list[str]:
    """Why a model with these scores on its test set is not good enough; empty where it is.

    baseline, gain: of the metric that decides, what the baseline reaches, and by how much the model is better.
    advantage: by how much it is better than the champion on the same rows; None where it is compared with none. others:
    what else must be a number, such as the scores on the training set.
    """
    undefined = [name for name, value in {**scores, **others}.items() if not isfinite(value)]
    if undefined:
        return [f"{name} is not a number: the model or its data is broken" for name in undefined]
    reasons = []
    for name, threshold in criteria.thresholds.items():
        asked = metrics.get(name)
        # Asked this way round, a threshold that is not a number lets nothing pass.
        if not asked.better(scores[name], threshold):
            reasons.append(f"{_title(asked)} {shown(scores[name])} is not {_side(asked)} the threshold {threshold:g}")
    metric = criteria.metric
    value, required = scores[metric.name], metric.required_gain(baseline, criteria.margin)
    if not gain.lower > required:
        reasons.append(
            f"{_title(metric)} {shown(value)} is not {_side(metric)} {shown(baseline)}, that of {metric.baseline}, by "
            f"a margin of {shown(required)}: the gain {_between(gain, criteria.confidence)}"
        )
    if advantage is not None and not advantage.upper >= 0:
        reasons.append(
            f"{_title(metric)} {shown(value)} is worse than that of the production model on the same rows: the "
            f"difference of {shown(advantage.value)} {_between(advantage, criteria.confidence)}"
        )
    return reasons


def _title(metric: Metric) -> str:
    return metric.title[0].upper() + metric.title[1:]


def _side(metric: Metric) -> str:
    return "below" if metric.error else "above"


def _between(interval: Interval, confidence: float) -> str:
    return f"lies between {shown(interval.lower)} and {shown(interval.upper)} with {100 * confidence:g} % confidence"
