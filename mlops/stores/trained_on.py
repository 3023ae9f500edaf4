"""What the model in production learned from: written where one is put there, read where data is watched."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from mlops.stores.object_store import ObjectStore


@dataclass(frozen=True)
class TrainedOn:
    """The training data of a model version.

    until: the last event of it, ISO 8601 in the times of the files; None where the run tells none. rows: how many rows,
    the earliest of the set, it was drawn from; 0 where the run tells none.
    """

    model: str
    version: str
    run_id: str
    data_version: str
    until: str | None
    rows: int

    @property
    def identity(self) -> str:
        """Names what was put into production."""
        return f"{self.model}/{self.version}/{self.run_id}"

    @classmethod
    def find(cls, store: ObjectStore, dataset: str) -> Self | None:
        """That of the model which was put into production last; None where none was."""
        content = store.find_bytes(_key(dataset))
        return None if content is None else cls(**json.loads(content))

    def write(self, store: ObjectStore, dataset: str) -> None:
        store.write_bytes(_key(dataset), json.dumps(asdict(self)).encode())


def _key(dataset: str) -> str:
    return f"reference/{dataset}/trained_on.json"
