"""The declared datasets: each other module of this package declares one as `DATASET`, named like the module.

Others come from packages of one's own, by the entry point group `maestro.datasets`, and from the data bucket, by
`look_elsewhere`.
"""

from mlops.catalog import Catalog
from mlops.datasets.declaration import Dataset
from mlops.result import Refused

_CATALOG = Catalog(
    __name__, Dataset, "DATASET", "maestro.datasets", others={"commands", "declaration", "propose", "read"}
)
names, look_elsewhere = _CATALOG.names, _CATALOG.look_elsewhere


def get(name: str) -> Dataset:
    """The declaration of a dataset. Raises Refused where there is none of that name."""
    found = _CATALOG.find(name)
    if found is None:
        raise Refused(
            f"dataset {name!r} is not declared: use one of {', '.join(names())}, add mlops/datasets/{name}.py, or load "
            f"it with a dataset.toml beside its files by 'python -m mlops ingestion load --dataset {name}'"
        )
    return found
