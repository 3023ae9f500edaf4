"""A batch: a delivery and the version of a model that scores it, pinned before the first row is read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

from mlops.result import Failure, Refused
from mlops.stores.tracking import Input

if TYPE_CHECKING:
    from mlops.stores.object_store import ObjectStore

ROW = "batch_row"  # the column that numbers the rows of a delivery from 0, in the order of its files
REASON = "quarantine_reason"  # the column that says why a row is not scored
_PARTITION = re.compile(r"(?P<batch>[^/]+)/(?P<index>\d+)x(?P<size>[1-9]\d*)")


@dataclass(frozen=True)
class Batch:
    """All that its steps go by, written once: who repeats them later finds the same version.

    run_id: the MLflow run that made the version; files: those of the delivery, relative to its folder; inputs: the
    columns that the model reads.
    """

    name: str
    model: str
    alias: str
    version: str
    run_id: str
    family: str
    marker: str
    folder: str
    files: Sequence[str]
    inputs: Sequence[Input]

    @classmethod
    def find(cls, store: ObjectStore, name: str) -> Self | None:
        """None where no such batch was begun."""
        content = store.find_bytes(_key(name, "batch.json"))
        if content is None:
            return None
        said = json.loads(content)
        return cls(**{**said, "inputs": [Input(*column) for column in said["inputs"]]})

    @classmethod
    def get(cls, store: ObjectStore, name: str) -> Self:
        """Raises Failure where no such batch was begun."""
        found = cls.find(store, name)
        if found is None:
            raise Failure(f"batch {name!r} was not begun: run 'python -m mlops inference ingest' first")
        return found

    def begin(self, store: ObjectStore) -> Batch:
        """Writes it down; of two at once the first counts, which is handed back."""
        text = json.dumps({**asdict(self), "inputs": [[*column] for column in self.inputs]}, indent=2)
        return self if store.write_new(self.key("batch.json"), text.encode()) else Batch.get(store, self.name)

    def key(self, file: str) -> str:
        """Where a file of the batch lies in the data bucket."""
        return _key(self.name, file)

    @property
    def raw(self) -> str:
        """The rows as they were delivered, with ROW."""
        return self.key("raw.parquet")

    @property
    def clean(self) -> str:
        """The rows that can be scored; as facts, how many `rows` and how many are `quarantined`."""
        return self.key("clean.parquet")

    @property
    def quarantine(self) -> str:
        """The rows that cannot, with REASON."""
        return self.key("quarantine.parquet")

    @property
    def scores(self) -> str:
        """The folder of the scored partitions."""
        return self.key("scores/")

    @property
    def evaluation(self) -> str:
        return self.key("evaluation.json")

    @property
    def uri(self) -> str:
        """The version, for MLflow."""
        return f"models:/{self.model}/{self.version}"


@dataclass(frozen=True)
class Partition:
    """What one pod scores: of the clean rows of a batch, shared out by `size`, the part number `index` from 0 on."""

    batch: str
    index: int
    size: int

    @property
    def name(self) -> str:
        """`<batch>/<index>x<size>`: all that its pod has to be told."""
        return f"{self.batch}/{self.index}x{self.size}"

    @property
    def file(self) -> str:
        return f"scores/part-{self.index:05}.parquet"

    @property
    def start(self) -> int:
        return self.index * self.size

    def rows(self, total: int) -> int:
        """How many it has of `total` rows."""
        return min(self.size, total - self.start)

    @classmethod
    def parse(cls, name: str) -> Self:
        """Raises Refused for what is no name of a partition."""
        found = _PARTITION.fullmatch(name)
        if found is None:
            raise Refused(f"{name!r} is no partition: give one that 'inference preprocess' handed back")
        return cls(found["batch"], int(found["index"]), int(found["size"]))


def _key(batch: str, file: str) -> str:
    return f"inference/{batch}/{file}"
