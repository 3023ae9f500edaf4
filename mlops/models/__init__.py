"""The declared models: each other module of this package declares one as `MODEL`, named like the module.

Others come from packages of one's own, by the entry point group `maestro.models`, and from the data bucket, by
`look_elsewhere`. A name of this package is never another's.
"""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from mlops.models.declaration import Model
from mlops.result import Failure

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP = "maestro.models"
OF_MODEL = "@"  # before the name of a model: its dataset
_NOT_MODELS = {"declaration", "metrics"}
_elsewhere: list[Callable[[str], Model | None]] = []


def names() -> list[str]:
    """The names of all models that this package and packages of one's own declare, sorted."""
    return sorted({*_own(), *_packaged().names})


def get(name: str) -> Model:
    """The declaration of a model. Raises Failure where there is none of that name."""
    module = name.replace("-", "_")
    if name in _own():
        return _checked(
            getattr(import_module(f"{__name__}.{module}"), "MODEL", None), name, f"mlops/models/{module}.py"
        )
    for entry in _packaged().select(name=name):
        return _checked(entry.load(), name, f"the entry point {entry.value} of {GROUP}")
    for find in _elsewhere:
        found = find(name)
        if found is not None:
            return found
    raise Failure(
        f"model {name!r} is not declared: use one of {', '.join(names())}, add mlops/models/{module}.py, or load its "
        f"dataset with a {name}.toml beside its files"
    )


def dataset_of(name: str) -> str:
    """How a command is told of a model's dataset by one who knows what packages declare, and not the data bucket."""
    return get(name).dataset if name in names() else f"{OF_MODEL}{name}"


def look_elsewhere(find: Callable[[str], Model | None]) -> None:
    """Has `get` ask for what no package declares. Of several only the last is asked."""
    _elsewhere[:] = [find]


def _packaged() -> "EntryPoints":
    """Those of packages of one's own. Imported here: it takes longer than all else that a light command imports."""
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _own() -> set[str]:
    found = (module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_MODELS)
    return {name.replace("_", "-") for name in found}


def _checked(model: object, name: str, place: str) -> Model:
    if not isinstance(model, Model) or model.name != name:
        raise Failure(f"{place} must set MODEL to a Model named {name!r}")
    return model
