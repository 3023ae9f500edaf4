"""What was delivered to be scored: files in a folder of the data bucket, and a marker that says that they are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mlops.keys import done, is_path, slug
from mlops.result import Failure, Refused

if TYPE_CHECKING:
    from mlops.stores.object_store import Entry, ObjectStore

_NAMED = 20  # characters of the folder's name in that of the batch


@dataclass(frozen=True)
class Delivery:
    """marker: its key before it is moved, or a path outside of the bucket; folder: of the files, without a slash."""

    marker: str
    folder: str
    files: Sequence[Entry]

    @classmethod
    def find(cls, store: ObjectStore, marker: str, folder: str | None) -> Self:
        """folder: None where the files lie beside the marker.

        Raises Failure where the marker is not there, nor where it lies when its files are scored, and Refused where
        there is no file.
        """
        outside = is_path(marker)
        if outside and folder is None:
            raise Refused(f"the marker {marker} is a path, beside which no file of the data bucket lies: give --folder")
        if not outside and not (store.exists(marker) or store.exists(done(marker))):
            raise Failure(f"s3://{store.bucket}/{marker} is not there: write it when all files are in its folder")
        below = (folder if folder is not None else marker.rpartition("/")[0]).strip("/")
        if not below:
            raise Refused(f"the marker {marker} lies in no folder: put it and its files into one, such as inbox/today/")
        files = [entry for entry in store.entries(f"{below}/") if not _is_hidden(entry.key.removeprefix(below))]
        if not files:
            raise Refused(f"s3://{store.bucket}/{below}/ has no files to score: deliver them before the marker")
        return cls(marker, below, files)

    def batch(self, model: str, alias: str) -> str:
        """The name of what is made of it: the same for the same files, marker, model and alias, whoever asks."""
        content = json.dumps([self.marker, model, alias, [[*entry] for entry in self.files]])
        name = slug(self.folder.rpartition("/")[2])[:_NAMED]
        return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    @property
    def names(self) -> list[str]:
        """The files, relative to their folder."""
        return [entry.key.removeprefix(f"{self.folder}/") for entry in self.files]


def move_marker(store: ObjectStore, marker: str) -> None:
    """Puts the marker where those of scored deliveries lie; to repeat it changes nothing."""
    if not is_path(marker) and store.exists(marker):
        store.copy(marker, done(marker))
        store.delete(marker)


def _is_hidden(name: str) -> bool:
    """Markers, and what programs leave that are not finished, begin so by custom."""
    return any(part.startswith(("_", ".")) for part in name.strip("/").split("/")) or name.endswith("/")
