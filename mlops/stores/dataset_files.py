"""The raw sets as they lie in the data bucket: their rows, the version of their content, and their shift in time."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from mlops.datasets.declaration import EVENT_TIME, FUTURE, Dataset
from mlops.datasets.parsing.parts import is_pattern, matching, stem
from mlops.result import Failure

if TYPE_CHECKING:
    from datetime import datetime

    import polars as pl

    from mlops.stores.object_store import ObjectStore

# The field that says, in every result that shows a time of a shifted set, by how much it was shifted.
SHIFT_FIELD = "event_time_shift_seconds"
_SHIFT_FILE = "shift.json"
_READER = 1  # to be raised by whom changes what reading makes of the same files
_KEPT = 4  # tables of a set: runs may still read those of the files before

log = logging.getLogger(__name__)


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
    key: where the table lies in the data bucket.
    """

    table: pl.LazyFrame
    data_version: str
    shift_seconds: int
    key: str


class DatasetFiles:
    """The raw sets of the data bucket. Each method raises Failure where a set was not loaded or is damaged."""

    def __init__(self, bucket: ObjectStore) -> None:
        self._store = bucket

    def read(self, dataset: Dataset | str) -> LoadedDataset:
        """All rows of a set; its raw columns stay as the files have them, also one that `event_time` is made of.

        The files are parsed once: what they hold is kept as a table in the bucket, of which a query reads the columns
        and row groups that it needs. A change of the files, the shift or the declaration makes another table.
        """
        from mlops import datasets
        from mlops.datasets.read import data_version

        declared = datasets.get(dataset) if isinstance(dataset, str) else dataset
        shift = self.shift(declared).seconds
        digests = {name: self._store.digest(declared.object_key(name)) for name in self._names(declared)}
        known = {name: digest for name, digest in digests.items() if digest is not None}
        if len(known) == len(digests):
            version = data_version(known)
            key = _table_key(declared, version, shift)
            if self._store.exists(key):
                return LoadedDataset(self._store.scan(key), version, shift, key)
        return self._make(declared, shift)

    def shift(self, dataset: Dataset) -> EventTimeShift:
        """The shift that the set was loaded with."""
        content = self._store.find_bytes(dataset.object_key(_SHIFT_FILE))
        return EventTimeShift() if content is None else EventTimeShift(**json.loads(content))

    def shift_to(self, dataset: Dataset, now: datetime) -> EventTimeShift:
        """Shifts the set by whole seconds so that its newest event is at most a second before `now`.

        An event that is dated later than now, unshifted, is not the newest, unless all are.
        """
        import polars as pl

        read = self.read(dataset)
        time = pl.col(EVENT_TIME) - pl.duration(seconds=read.shift_seconds)
        past, last = (
            read.table.select(time.filter(time <= now + FUTURE).max().alias("past"), time.max().alias("last"))
            .collect()
            .row(0)
        )
        if last is None:
            raise Failure(f"dataset {dataset.name} has no event times to shift: load it with --no-shift-to-now")
        newest = past or last
        seconds = (now - newest) // timedelta(seconds=1)
        return self._write(dataset, EventTimeShift(seconds, (newest + timedelta(seconds=seconds)).isoformat()))

    def unshift(self, dataset: Dataset) -> EventTimeShift:
        """Takes a shift back: event times are again those of the files."""
        return self._write(dataset, EventTimeShift()) if self.shift(dataset).seconds else EventTimeShift()

    def add(self, dataset: Dataset, folder: Path) -> dict[str, str]:
        """Reads a set's files in a folder and keeps their table, before they are copied; gives the digest of each.

        Raises Refused where they are not as the set is declared.
        """
        from mlops.datasets.read import file_digest, files_below

        digests = {name: file_digest(folder / name) for name in files_below(dataset, folder)}
        self._keep(dataset, folder, digests, self.shift(dataset).seconds)
        return digests

    def _make(self, dataset: Dataset, shift: int) -> LoadedDataset:
        with self._downloaded(dataset) as (folder, digests):
            version, key = self._keep(dataset, folder, digests, shift)
        return LoadedDataset(self._store.scan(key), version, shift, key)

    def _keep(self, dataset: Dataset, folder: Path, digests: Mapping[str, str], shift: int) -> tuple[str, str]:
        """Parses the files and keeps their table; gives their version and its key. Several pods write the same."""
        import polars as pl

        from mlops.datasets.read import data_version, read_dataset

        version = data_version(digests)
        key = _table_key(dataset, version, shift)
        if self._store.exists(key):
            return version, key
        with TemporaryDirectory() as scratch:
            rows = read_dataset(dataset, folder, Path(scratch))
            if shift and dataset.event_time is not None:
                rows = rows.with_columns(pl.col(EVENT_TIME) + pl.duration(seconds=shift))
            self._store.write(key, rows, {"data_version": version, SHIFT_FIELD: shift})
        self._store.keep_newest(f"{_tables(dataset)}/", _KEPT)
        log.info("%s: its files are read, their table is %s", dataset.name, key)
        return version, key

    @contextmanager
    def _downloaded(self, dataset: Dataset) -> Iterator[tuple[Path, Mapping[str, str]]]:
        """A folder of the set's files, and the digest of each."""
        with TemporaryDirectory() as name:
            folder, digests = Path(name), {}
            for file in self._names(dataset):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                digests[file] = self._store.download(dataset.object_key(file), folder / file)
            yield folder, digests

    def _names(self, dataset: Dataset) -> list[str]:
        """The set's files by name, those that its patterns fit among them."""
        names: list[str] = []
        for name in dataset.source.files:
            if not is_pattern(name):
                names.append(name)
                continue
            root = dataset.object_key("")
            found = matching(name, (key.removeprefix(root) for key in self._store.keys(root + stem(name))))
            if not found:
                raise Failure(
                    f"s3://{self._store.bucket}/{root}{name} is the name of no file: load the set with 'python -m "
                    f"mlops ingestion load --dataset {dataset.name}', or correct its source"
                )
            names += found
        return names

    def _write(self, dataset: Dataset, shift: EventTimeShift) -> EventTimeShift:
        self._store.write_bytes(dataset.object_key(_SHIFT_FILE), json.dumps(asdict(shift)).encode())
        return shift


def _tables(dataset: Dataset) -> str:
    return f"tables/{dataset.name}"


def _table_key(dataset: Dataset, version: str, shift: int) -> str:
    """Where the table lies that reading makes of these files, this shift and this declaration."""
    said = repr((_READER, version, shift, dataset.source, dataset.columns, dataset.event_time))
    return f"{_tables(dataset)}/{hashlib.sha256(said.encode()).hexdigest()}.parquet"
