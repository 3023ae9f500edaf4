"""The feature tables of one data set in the feast bucket, and the note of what they were computed from."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from mlops.features.repository import FeatureViewSpec, views_of
from mlops.result import Failure
from mlops.stores.dataset_files import SHIFT_FIELD, LoadedDataset

if TYPE_CHECKING:
    import pandas as pd

    from mlops.stores.object_store import ObjectStore

_ROWS_A_GROUP = 20_000  # what a reader that wants the last days only can leave out at once


@dataclass(frozen=True)
class BuildRecord:
    """data_version and shift_seconds: of the raw set; code_version: of what computed; rows: view -> rows."""

    data_version: str
    shift_seconds: int
    code_version: str
    created: str
    rows: Mapping[str, int] = field(default_factory=dict)

    def of(self, raw: LoadedDataset, code_version: str) -> bool:
        """Whether computing anew would give the same."""
        made_from = (self.data_version, self.shift_seconds, self.code_version)
        return made_from == (raw.data_version, raw.shift_seconds, code_version)


def find_build_record(store: ObjectStore, dataset: str) -> BuildRecord | None:
    """What the set's features were computed from; None where they were not, or not wholly."""
    note = store.find_bytes(_note(dataset))
    if note is None or any(store.digest(view.file) is None for view in views_of(dataset)):
        return None
    return BuildRecord(**json.loads(note))


def write_view(store: ObjectStore, view: FeatureViewSpec, rows: pd.DataFrame) -> None:
    """Puts a view's rows in one step: a reader sees those of before or these."""
    content = io.BytesIO()
    rows.to_parquet(content, index=False, row_group_size=_ROWS_A_GROUP)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    store.write_bytes(view.file, content.getvalue(), digest=digest)


def write_build_record(store: ObjectStore, dataset: str, built: BuildRecord) -> None:
    store.write_bytes(_note(dataset), json.dumps(asdict(built)).encode())


def check_same_source(store: ObjectStore, dataset: str, table: pd.DataFrame, key: str) -> None:
    """Raises Failure where the features were computed from another content or shift of the set than the table has.

    A table that does not say what it was made from is taken as it is.
    """
    remedy = f"run 'python -m mlops features build --dataset {dataset}', and clear the task that downloads the data"
    built = find_build_record(store, dataset)
    if built is None:
        raise Failure(f"the features of dataset {dataset} are not in bucket {store.bucket!r}: {remedy}")
    said = {"data_version": built.data_version, SHIFT_FIELD: built.shift_seconds}
    differs = [name for name, value in said.items() if table.attrs.get(name, value) != value]
    if differs:
        parts = ", ".join(f"{name} {said[name]} and not {table.attrs[name]}" for name in differs)
        raise Failure(f"the features of dataset {dataset} were computed from other data than {key} ({parts}): {remedy}")


def _note(dataset: str) -> str:
    return f"built/{dataset}.json"
