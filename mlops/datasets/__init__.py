"""The declared datasets: each other module of this package declares one as `DATASET`, named like the module.

Others come from packages of one's own, by the entry point group `maestro.datasets`, and from the data bucket, by
`look_elsewhere`. A name of this package is never another's.
"""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from mlops.datasets.declaration import Dataset
from mlops.result import Failure

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP = "maestro.datasets"
_NOT_DATASETS = {"commands", "declaration", "propose", "read"}
_elsewhere: list[Callable[[str], Dataset | None]] = []


def names() -> list[str]:
    """The names of all datasets that this package and packages of one's own declare, sorted."""
    return sorted({*_own(), *_packaged().names})


def get(name: str) -> Dataset:
    """The declaration of a dataset. Raises Failure where there is none of that name."""
    if name in _own():
        return _checked(
            getattr(import_module(f"{__name__}.{name}"), "DATASET", None), name, f"mlops/datasets/{name}.py"
        )
    for entry in _packaged().select(name=name):
        return _checked(entry.load(), name, f"the entry point {entry.value} of {GROUP}")
    for find in _elsewhere:
        found = find(name)
        if found is not None:
            return found
    raise Failure(
        f"dataset {name!r} is not declared: use one of {', '.join(names())}, add mlops/datasets/{name}.py, or load it "
        f"with a dataset.toml beside its files by 'python -m mlops ingestion load --dataset {name}'"
    )


def look_elsewhere(find: Callable[[str], Dataset | None]) -> None:
    """Has `get` ask for what no package declares. Of several only the last is asked."""
    _elsewhere[:] = [find]


def _packaged() -> "EntryPoints":
    """Those of packages of one's own. Imported here: it takes longer than all else that a light command imports."""
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _own() -> set[str]:
    found = pkgutil.iter_modules(__path__)
    return {module.name for module in found if not module.ispkg and module.name not in _NOT_DATASETS}


def _checked(dataset: object, name: str, place: str) -> Dataset:
    if not isinstance(dataset, Dataset) or dataset.name != name:
        raise Failure(f"{place} must set DATASET to a Dataset named {name!r}")
    return dataset
