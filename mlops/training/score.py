"""How well a model does on labelled rows, beside what knows only their labels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mlops.datasets.declaration import LabelKind
from mlops.models import metrics
from mlops.models.metrics import Metric
from mlops.training.measures import Answers, Rows, measure


@dataclass(frozen=True)
class Scores:
    """Metrics by name, NaN where undefined. counts: of a binary label, what was predicted and whether it was right."""

    rows: int
    model: Mapping[str, float]
    baseline: Mapping[str, float]
    counts: Mapping[str, int] = field(default_factory=dict)

    def logged(self, part: str) -> dict[str, float]:
        """The finite ones, as MLflow metrics of the training or the test set."""
        named = {**self.model, **{f"baseline_{name}": value for name, value in self.baseline.items()}, **self.counts}
        found = {"rows": self.rows, **named}
        return {f"{part}_{name}": float(value) for name, value in found.items() if np.isfinite(value)}


def score(rows: Rows, answers: Answers, kind: LabelKind, beside: Iterable[Metric] = ()) -> Scores:
    """All metrics of the kind of label, and those `beside` them that take a number of their own."""
    baseline = Answers.baseline(rows)
    wanted = {metric.name: metric for metric in (*metrics.of_kind(kind), *beside)}
    found = {name: (measure(metric)(rows, answers), measure(metric)(rows, baseline)) for name, metric in wanted.items()}
    return Scores(
        len(rows.truth),
        {name: ours for name, (ours, _) in found.items()},
        {name: theirs for name, (_, theirs) in found.items()},
        _counts(rows, answers) if kind == "binary" else {},
    )


def _counts(rows: Rows, answers: Answers) -> dict[str, int]:
    right, said = rows.truth == answers.values, answers.values == 1
    return {
        "true_positives": int((right & said).sum()),
        "false_positives": int((~right & said).sum()),
        "true_negatives": int((right & ~said).sum()),
        "false_negatives": int((~right & ~said).sum()),
    }
