"""Declarations in the data bucket: TOML, which is read strictly and runs nothing, beside the files that it is of.

Who may write to the bucket may declare a set and a model, and so choose what a run of it learns from: no more than who
may write the files themselves.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mlops import datasets, models
from mlops.datasets.declaration import Dataset
from mlops.models import metrics
from mlops.models.declaration import Model
from mlops.notation import from_toml
from mlops.result import Failure, Refused

if TYPE_CHECKING:
    from mlops.stores.object_store import ObjectStore

T = TypeVar("T")
DATASET_FILE = "dataset.toml"
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class Declared:
    """What a folder of a set declares beside its files: texts, by their keys in the bucket, and what they say.

    models: by the file of each.
    """

    dataset: Dataset
    models: dict[Path, Model]
    texts: dict[str, bytes]


def declared_in(folder: Path) -> Declared | None:
    """What the folder of a set declares, by `dataset.toml` and a `<model>.toml` each; None where there is no such file.

    Raises Refused for a declaration that is wrong, of another name than its file or folder, or of the name of one that
    comes with the platform or a package, and for a model whose metric is none of its label's kind.
    """
    file = folder / DATASET_FILE
    if not file.is_file():
        return None
    name = folder.name
    dataset = _read(file.read_bytes(), Dataset, name, str(file))
    if name in datasets.names():
        raise Refused(f"{file} declares {name!r}, which a package declares already: take the file or the module away")
    texts, beside = {_dataset_key(name): file.read_bytes()}, {}
    for other in sorted(folder.glob("*.toml")):
        if other == file:
            continue
        model = _read(other.read_bytes(), Model, other.stem, str(other))
        if model.name in models.names():
            raise Refused(f"{other} declares {model.name!r}, which a package declares already: take another name")
        if model.dataset != name:
            raise Refused(f"{other} declares a model of dataset {model.dataset!r}: put it into the folder of that set")
        _check_metric(model, dataset, str(other))
        texts[_model_key(model.name)], beside[other] = other.read_bytes(), model
    return Declared(dataset, beside, texts)


def learns_from(bucket: ObjectStore, model: str) -> str | None:
    """The dataset of the model of this name that the bucket declares; None where it declares none that can be read."""
    content = bucket.find_bytes(_model_key(model))
    try:
        declared = {} if content is None else tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    return declared.get("dataset")


def find_dataset(name: str) -> Dataset | None:
    """What the data bucket declares by this name, or, by `@<model>`, of the model's; None where it declares nothing."""
    if name.startswith(models.OF_MODEL):
        return models.get(name.removeprefix(models.OF_MODEL)).data
    return _find(_dataset_key(name), Dataset, name)


def find_model(name: str) -> Model | None:
    """What the data bucket declares by this name; None where it declares nothing."""
    return _find(_model_key(name), Model, name)


def _find(key: str, kind: type[T], name: str) -> T | None:
    from mlops.stores.object_store import data_bucket

    if not _NAME.fullmatch(name):
        return None
    try:
        bucket: ObjectStore = data_bucket()
    except Failure:
        return None  # a command that is not told of the store knows what packages declare
    content = bucket.find_bytes(key)
    return None if content is None else _read(content, kind, name, f"s3://{bucket.bucket}/{key}")


def _check_metric(model: Model, dataset: Dataset, place: str) -> None:
    """As `Model.judged_by` does, of a dataset that is not in the bucket yet."""
    kind = dataset.label.kind
    if model.metric is not None and kind not in metrics.get(model.metric).kinds:
        known = ", ".join(each.name for each in metrics.of_kind(kind))
        raise Refused(f"{place} declares {model.metric}, no metric of a {kind} label: set one of {known}")


def _read(content: bytes, kind: type[T], name: str, place: str) -> T:
    try:
        declaration = from_toml(content.decode(), kind)
    except UnicodeDecodeError as error:
        raise Refused(f"{place} is no text of UTF-8: save it as such") from error
    except Refused as refused:
        raise Refused(f"{place} {refused}") from refused
    found = getattr(declaration, "name", None)
    if found != name or not _NAME.fullmatch(name):
        raise Refused(f"{place} declares the name {found!r}: it must be {name!r}, of small letters, digits, - and _")
    return declaration


def _dataset_key(name: str) -> str:
    return f"declarations/datasets/{name}.toml"


def _model_key(name: str) -> str:
    return f"declarations/models/{name}.toml"
