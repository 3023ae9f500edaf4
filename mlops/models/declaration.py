"""The words in which a model is declared: what it learns from, how, when it is good, and its name in the registry."""

from dataclasses import dataclass

from mlops import datasets
from mlops.datasets.declaration import Dataset
from mlops.models import metrics
from mlops.models.metrics import Metric
from mlops.result import Failure


@dataclass(frozen=True)
class Model:
    """All that the platform knows of a model before it is trained.

    name: in the registry, where one name stands for one contract of columns. dataset: what it learns from. family: a
    module of mlops/training/families. feature_service: where its columns come from, at the age at which it serves them;
    None where they are those of the data set itself. reads_keys: whether it reads the keys of its entities too.

    metric: what it is judged by, and compared with the model in production by; see mlops/models/metrics.py. None: by
        average precision where its label is binary, by macro F1 where it has more classes, by R squared where it is a
        number.
    threshold: what the metric must be better than on the test set, beside beating the baseline; None: nothing more.
    margin: by how much it must be better than the baseline; of an error, as a share of the baseline's error.
    slices: columns, categories or numbers, by which its card tells how it does on parts of the test set.
    """

    name: str
    description: str
    dataset: str
    family: str = "sklearn"
    feature_service: str | None = None
    reads_keys: bool = False
    metric: str | None = None
    threshold: float | None = None
    margin: float = 0.02
    slices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.metric is not None:
            metrics.get(self.metric)
        if self.threshold is not None and self.metric is None:
            raise ValueError(f"model {self.name}: a threshold is one of a metric: declare which")

    @property
    def data(self) -> Dataset:
        """The declaration of its data set. Raises Failure where there is none."""
        return datasets.get(self.dataset)

    @property
    def judged_by(self) -> Metric:
        """The metric that decides. Raises Failure where it is not one of its label's kind."""
        kind = self.data.label.kind
        metric = metrics.get(self.metric or metrics.DEFAULT[kind])
        if kind not in metric.kinds:
            known = ", ".join(each.name for each in metrics.of_kind(kind))
            raise Failure(
                f"model {self.name}: {metric.name} is no metric of a {kind} label: set one of {known} in "
                f"mlops/models/{self.name.replace('-', '_')}.py"
            )
        return metric
