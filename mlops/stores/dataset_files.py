"""The raw sets as they lie in the data bucket: their rows, the version of their content, and their shift in time."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from mlops.datasets.declaration import EVENT_TIME, Dataset

if TYPE_CHECKING:
    from datetime import datetime

    import polars as pl

    from mlops.stores.object_store import ObjectStore

# The field that says, in every result that shows a time of a shifted set, by how much it was shifted.
SHIFT_FIELD = "event_time_shift_seconds"
_SHIFT_FILE = "shift.json"


@dataclass(frozen=True)
class EventTimeShift:
    """seconds: what is added to every event time of a set, so that all gaps stay; newest: the newest event, shifted."""

    seconds: int = 0
    newest: str | None = None

    @property
    def note(self) -> dict[str, int]:
        """What a result with times says of the shift; nothing where there is none."""
        return {SHIFT_FIELD: self.seconds} if self.seconds else {}


class LoadedDataset(NamedTuple):
    """A raw set.

    table: the declared columns that the files have, and `event_time`, a Datetime("us", "UTC") shifted by
        `shift_seconds`. An integer is Int64, a number Float64, everything else String, each with null for a missing
        value; a numeric column with a value of another type is String, for validation to see.
    data_version: of the set's files.
    """

    table: pl.LazyFrame
    data_version: str
    shift_seconds: int


class DatasetFiles:
    """The raw sets of the data bucket. Each method raises Failure where a set was not loaded or is damaged."""

    def __init__(self, bucket: ObjectStore) -> None:
        self._store = bucket

    def read(self, dataset: Dataset | str) -> LoadedDataset:
        """All rows of a set; its raw columns stay as the files have them, also one that `event_time` is made of."""
        import polars as pl

        from mlops import datasets
        from mlops.datasets.read import data_version, read_dataset

        declared = datasets.get(dataset) if isinstance(dataset, str) else dataset
        files = {name: self._store.read_bytes(declared.object_key(name)) for name in declared.source.files}
        table, shift = read_dataset(declared, files), self.shift(declared)
        if EVENT_TIME in table and shift.seconds:
            table[EVENT_TIME] += timedelta(seconds=shift.seconds)
        rows = pl.from_pandas(table)
        typed = {
            column.name: pl.Int64 if column.kind == "integer" else pl.Float64
            for column in declared.columns
            if column.numeric and column.name in rows.columns and rows[column.name].dtype.is_numeric()
        }
        if EVENT_TIME in rows.columns:
            typed[EVENT_TIME] = pl.Datetime("us", "UTC")
        return LoadedDataset(rows.cast(typed).lazy(), data_version(files), shift.seconds)

    def shift(self, dataset: Dataset) -> EventTimeShift:
        """The shift that the set was loaded with."""
        content = self._store.find_bytes(dataset.object_key(_SHIFT_FILE))
        return EventTimeShift() if content is None else EventTimeShift(**json.loads(content))

    def shift_to(self, dataset: Dataset, now: datetime) -> EventTimeShift:
        """Shifts the set by whole seconds so that its newest event is at most a second before `now`."""
        from mlops.datasets.read import read_dataset

        files = {name: self._store.read_bytes(dataset.object_key(name)) for name in dataset.source.files}
        newest = read_dataset(dataset, files)[EVENT_TIME].max().to_pydatetime()
        seconds = (now - newest) // timedelta(seconds=1)
        return self._write(dataset, EventTimeShift(seconds, (newest + timedelta(seconds=seconds)).isoformat()))

    def unshift(self, dataset: Dataset) -> EventTimeShift:
        """Takes a shift back: event times are again those of the files."""
        return self._write(dataset, EventTimeShift()) if self.shift(dataset).seconds else EventTimeShift()

    def _write(self, dataset: Dataset, shift: EventTimeShift) -> EventTimeShift:
        self._store.write_bytes(dataset.object_key(_SHIFT_FILE), json.dumps(asdict(shift)).encode())
        return shift
