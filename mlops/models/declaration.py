"""The words in which a model is declared: what it learns from, how, and what it is called in the registry."""

from dataclasses import dataclass

from mlops import datasets
from mlops.datasets.declaration import Dataset


@dataclass(frozen=True)
class Model:
    """All that the platform knows of a model before it is trained.

    name: in the registry, where one name stands for one contract of columns. dataset: what it learns from. family: a
    module of mlops/training/families. feature_service: where its columns come from, at the age at which it serves them;
    None where they are those of the data set itself.
    """

    name: str
    description: str
    dataset: str
    family: str = "sklearn"
    feature_service: str | None = None

    @property
    def data(self) -> Dataset:
        """The declaration of its data set. Raises Failure where there is none."""
        return datasets.get(self.dataset)
