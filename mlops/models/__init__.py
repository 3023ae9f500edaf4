"""The declared models: each other module of this package declares one as `MODEL`, named like the module.

Others come from packages of one's own, by the entry point group `maestro.models`, and from the data bucket, by
`look_elsewhere`.
"""

from mlops.catalog import Catalog
from mlops.models.declaration import Model
from mlops.result import Refused

_AS_IN_PYTHON = {"ctr_model"}  # a name that people know it by
OF_MODEL = "@"  # before the name of a model: its dataset
_CATALOG = Catalog(
    __name__,
    Model,
    "MODEL",
    "maestro.models",
    others={"declaration", "metrics", "network"},
    named=lambda module: module if module in _AS_IN_PYTHON else module.replace("_", "-"),
)
names, look_elsewhere = _CATALOG.names, _CATALOG.look_elsewhere


def get(name: str) -> Model:
    """The declaration of a model. Raises Refused where there is none of that name."""
    found = _CATALOG.find(name)
    if found is None:
        raise Refused(
            f"model {name!r} is not declared: use one of {', '.join(names())}, add "
            f"mlops/models/{name.replace('-', '_')}.py, or load its dataset with a {name}.toml beside its files"
        )
    return found


def dataset_of(name: str) -> str:
    """How a command is told of a model's dataset by one who knows what packages declare, and not the data bucket."""
    return get(name).dataset if name in names() else f"{OF_MODEL}{name}"
