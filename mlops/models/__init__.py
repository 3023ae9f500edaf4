"""The declared models: each other module of this package declares one as `MODEL`, named like the module."""

import pkgutil
from importlib import import_module

from mlops.models.declaration import Model
from mlops.result import Failure

_NOT_MODELS = {"declaration", "metrics"}


def names() -> list[str]:
    """The names of all declared models, sorted."""
    modules = (module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_MODELS)
    return sorted(name.replace("_", "-") for name in modules)


def get(name: str) -> Model:
    """The declaration of a model. Raises Failure where there is none of that name."""
    module = name.replace("-", "_")
    if name not in names():
        raise Failure(
            f"model {name!r} is not declared: use one of {', '.join(names())} or add mlops/models/{module}.py"
        )
    model = getattr(import_module(f"{__name__}.{module}"), "MODEL", None)
    if not isinstance(model, Model) or model.name != name:
        raise Failure(f"mlops/models/{module}.py must set MODEL to a Model named {name!r}")
    return model
