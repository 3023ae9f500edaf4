"""The feature tables of one data set in the feast bucket, and the note of what they were computed from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING

from mlops.features.repository import VIEWS, FeatureViewSpec, views_of
from mlops.result import JSON, Failure
from mlops.stores.dataset_files import SHIFT_FIELD

if TYPE_CHECKING:
    from mlops.stores.object_store import ObjectStore


_VIEWS = {view.name: view for view in VIEWS}
Partitions = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class BuildRecord:
    """data_version and shift_seconds: of the raw set; readings: of what was collected beside its files; code_version:
    of what computed; created: when that was; rows: view -> rows; partitions: view -> first day of a partition, in
    ISO 8601 -> what names the events in it.

    One of an earlier release has no partitions: its views are a file each.
    """

    data_version: str
    shift_seconds: int
    code_version: str
    created: str
    rows: Mapping[str, int] = field(default_factory=dict)
    readings: str | None = None
    partitions: Partitions = field(default_factory=dict)

    def of(self, data_version: str, shift_seconds: int, readings: str | None, code_version: str) -> bool:
        """Whether computing anew would give the same."""
        made_from = (self.data_version, self.shift_seconds, self.readings, self.code_version)
        return bool(self.partitions) and made_from == (data_version, shift_seconds, readings, code_version)

    def contents(self, view: FeatureViewSpec) -> dict[date, str]:
        """What names the events of each partition of the view, by its first day."""
        return {date.fromisoformat(start): content for start, content in self.partitions.get(view.name, {}).items()}

    def without(self, written: Mapping[str, Sequence[str]]) -> Partitions:
        """The partitions whose files are none of these."""
        return {
            name: {
                start: content
                for start, content in of.items()
                if _VIEWS[name].file(date.fromisoformat(start)) not in written.get(name, ())
            }
            for name, of in self.partitions.items()
        }

    def files_but(self, known: Partitions) -> dict[str, list[str]]:
        """The files, by view, of the partitions whose content is another than is known of them; oldest first."""
        return {
            name: [
                _VIEWS[name].file(date.fromisoformat(start))
                for start, content in sorted(of.items())
                if known.get(name, {}).get(start) != content
            ]
            for name, of in self.partitions.items()
        }


def find_build_record(store: ObjectStore, dataset: str) -> BuildRecord | None:
    """What the set's features were computed from; None where they were not, or not wholly."""
    note = store.find_bytes(_note(dataset))
    if note is None:
        return None
    found = BuildRecord(**json.loads(note))
    for view in views_of(dataset):
        files = {view.file(start) for start in found.contents(view)} or {f"{view.folder}{dataset}.parquet"}
        if not files <= set(store.keys(view.folder)):
            return None
    return found


def write_build_record(store: ObjectStore, dataset: str, built: BuildRecord) -> None:
    store.write_bytes(_note(dataset), json.dumps(asdict(built)).encode())


def find_complete_until(store: ObjectStore, dataset: str) -> datetime | None:
    """Up to when the set's events are in the offline store, whether or not there were any; None where nobody said."""
    note = store.find_bytes(_complete_until(dataset))
    return None if note is None else datetime.fromisoformat(note.decode())


def write_complete_until(store: ObjectStore, dataset: str, moment: datetime) -> None:
    store.write_bytes(_complete_until(dataset), moment.isoformat().encode())


def find_pushed(store: ObjectStore, dataset: str) -> Partitions | None:
    """What was pushed into the online store, as a record's `partitions`; None where nothing ever was."""
    note = store.find_bytes(_pushed(dataset))
    return None if note is None else json.loads(note)


def write_pushed(store: ObjectStore, dataset: str, partitions: Partitions) -> None:
    store.write_bytes(_pushed(dataset), json.dumps(partitions).encode())


def check_same_source(store: ObjectStore, dataset: str, facts: Mapping[str, JSON], key: str) -> None:
    """Raises Failure where the features were computed from another content or shift of the set than the table has.

    facts: what the table at the key says of itself; one that does not say what it was made from is taken as it is.
    """
    remedy = f"run 'python -m mlops features build --dataset {dataset}', and clear the task that downloads the data"
    built = find_build_record(store, dataset)
    if built is None:
        raise Failure(f"the features of dataset {dataset} are not in bucket {store.bucket!r}: {remedy}")
    said = {"data_version": built.data_version, SHIFT_FIELD: built.shift_seconds}
    differs = [name for name, value in said.items() if facts.get(name, value) != value]
    if differs:
        parts = ", ".join(f"{name} {said[name]} and not {facts[name]}" for name in differs)
        raise Failure(f"the features of dataset {dataset} were computed from other data than {key} ({parts}): {remedy}")


def _complete_until(dataset: str) -> str:
    return f"complete-until/{dataset}.txt"


def _pushed(dataset: str) -> str:
    return f"pushed/{dataset}.json"


def _note(dataset: str) -> str:
    return f"built/{dataset}.json"
