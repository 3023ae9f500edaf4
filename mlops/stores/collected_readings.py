"""Readings that the sensor trainer took in, to be counted with the data set whose columns they have: a file a day."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from mlops.datasets.declaration import EVENT_TIME, Dataset
from mlops.result import Refused

if TYPE_CHECKING:
    import polars as pl

    from mlops.stores.object_store import ObjectStore


@dataclass(frozen=True)
class Collected:
    """last_id: of the newest reading that was collected; changed: when readings were last added, which names them.

    pushed: what of these names was brought into the online store; shifts: by how many seconds the set's event times
    were shifted when readings were added, each once.
    """

    last_id: int = 0
    changed: str | None = None
    pushed: str | None = None
    shifts: Sequence[int] = ()

    @property
    def waits(self) -> bool:
        """Whether there are readings that were not brought into the online store."""
        return self.changed != self.pushed


class CollectedReadings:
    """Those of one data set. Raises Refused for a set whose rows have no time or no entity."""

    def __init__(self, bucket: ObjectStore, dataset: Dataset) -> None:
        self._store, self._dataset = bucket, dataset

    def state(self) -> Collected:
        """How far collecting has come."""
        note = self._store.find_bytes(self._note)
        return Collected() if note is None else Collected(**json.loads(note))

    def rows(self) -> pl.LazyFrame | None:
        """All of them, in the columns of the data set and `event_time`; None where there is none."""
        return self._store.scan_parts(self._folder) if self._store.keys(self._folder) else None

    def add(self, rows: pl.DataFrame, last_id: int, shift_seconds: int, now: datetime) -> int:
        """Adds readings in the columns of the data set and `event_time`, and notes how far they go.

        shift_seconds: by how much the event times of the set are shifted now. A reading of a sensor and moment that is
        there is left as it is. Returns how many were new.
        """
        import polars as pl

        if self._dataset.entity is None or self._dataset.event_time is None:
            raise Refused(f"dataset {self._dataset.name} has no event times or no entity: readings of it are not kept")
        key, added = [self._dataset.entity, EVENT_TIME], 0
        there = set(self._store.keys(self._folder))
        for (day,), part in rows.group_by(pl.col(EVENT_TIME).dt.date(), maintain_order=True):
            file = f"{self._folder}{day}.parquet"
            known = self._store.scan(file).collect() if file in there else part.clear()
            both = pl.concat([known, part]).unique(key, keep="first", maintain_order=True)
            if len(both) > len(known):
                self._store.write(file, both.sort(key).lazy())
                added += len(both) - len(known)
        before = self.state()
        if added or last_id != before.last_id:
            state = replace(before, last_id=last_id)
            if added:
                shifts = sorted({*before.shifts, shift_seconds})
                state = replace(state, changed=now.isoformat(), shifts=shifts)
            self._write(state)
        return added

    def note_pushed(self, changed: str | None) -> None:
        """Notes that the readings of this name are in the online store."""
        state = self.state()
        if state.pushed != changed:
            self._write(replace(state, pushed=changed))

    def _write(self, state: Collected) -> None:
        self._store.write_bytes(self._note, json.dumps(asdict(state)).encode())

    @property
    def _folder(self) -> str:
        return f"collected/{self._dataset.name}/"

    @property
    def _note(self) -> str:
        return f"collected/{self._dataset.name}.json"
