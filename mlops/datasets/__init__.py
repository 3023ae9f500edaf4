"""The declared datasets: each other module of this package declares one as `DATASET`, named like the module."""

import pkgutil
from importlib import import_module

from mlops.datasets.declaration import Dataset
from mlops.result import Failure

_NOT_DATASETS = {"commands", "declaration", "read"}


def names() -> list[str]:
    """The names of all declared datasets, sorted."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(__path__)
        if not module.ispkg and module.name not in _NOT_DATASETS
    )


def get(name: str) -> Dataset:
    """The declaration of a dataset. Raises Failure where there is none of that name."""
    if name not in names():
        raise Failure(
            f"dataset {name!r} is not declared: use one of {', '.join(names())} or add mlops/datasets/{name}.py"
        )
    dataset = getattr(import_module(f"{__name__}.{name}"), "DATASET", None)
    if not isinstance(dataset, Dataset) or dataset.name != name:
        raise Failure(f"mlops/datasets/{name}.py must set DATASET to a Dataset named {name!r}")
    return dataset
