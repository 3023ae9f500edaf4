"""The volume of DAG files: each version in a folder of its own that never changes, and a link to the current one.

    versions/<digest>/    the files of a version, whole from the moment that the folder has this name
    current               a link to one of them
    image                 the name of the image whose files were brought last

A version is written beside them, brought to the disk, and then gets its name; the link is put in the place of the one
before. Both are a rename, so that whoever reads sees the old or the new one, also where the writer dies in between.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

_UNFINISHED = ".new-"
_DIGITS = 16  # of SHA-256, as many as nobody meets twice by chance


class DagVersions:
    """The versions that lie in a folder. One writes at a time; any number may read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "versions"
        self._link = root / "current"
        self._image = root / "image"

    def current(self) -> str | None:
        """The version that is current; None where there is none yet."""
        try:
            return self._link.readlink().name
        except FileNotFoundError:
            return None

    def brought(self) -> str:
        """The image whose files were brought last; empty where there was none yet."""
        return self._image.read_text() if self._image.exists() else ""

    def note_brought(self, image: str) -> None:
        """Says whose files were brought, once they are current."""
        self._image.write_text(image)

    def path(self, version: str) -> Path:
        """Where the files of a version lie, or would."""
        return self._folder / version

    def publish(self, fill: Callable[[Path], object]) -> str:
        """Makes what `fill` leaves in an empty folder the current version, and says which it is.

        Files that are there already are the same version. They are of the time of the switch, by which Airflow sees
        that they are to be parsed.
        """
        with self._alone():
            new = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._folder))
            fill(new)
            version = digest(new)
            if self.path(version).exists():
                shutil.rmtree(new)
            else:
                _settle(new)
                new.rename(self.path(version))
                _to_disk(self._folder)
            _touch(self.path(version))
            self._switch(version)
            return version

    def prune(self, kept: int, used: Set[str]) -> list[str]:
        """Removes all versions but the `kept` newest, the current one and those in `used`, and says which."""
        with self._alone():
            by_age = sorted(self._folder.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
            stay = {self.current(), *used, *(folder.name for folder in by_age[:kept])}
            old = [folder for folder in by_age if folder.name not in stay]
            for folder in old:
                # Out of its name first: nobody is to find half of a version.
                gone = self._folder / f"{_UNFINISHED}{folder.name}"
                folder.rename(gone)
                shutil.rmtree(gone)
            return [folder.name for folder in old]

    def _switch(self, version: str) -> None:
        link = self._root / f"{_UNFINISHED}link"
        link.unlink(missing_ok=True)  # of one who died
        link.symlink_to(Path(self._folder.name) / version)
        link.replace(self._link)
        _to_disk(self._root)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other one writes; what such a one left unfinished is removed."""
        self._folder.mkdir(exist_ok=True)
        with (self._root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self._folder.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(left)
            yield


def digest(folder: Path) -> str:
    """What names the files of a folder, by their paths and contents."""
    made = hashlib.sha256()
    for path in _files(folder):
        content = path.read_bytes()
        made.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode())
        made.update(content)
    return made.hexdigest()[:_DIGITS]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _settle(folder: Path) -> None:
    """To be read by all, written by none but its owner, and on the disk."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in _files(folder):
        path.chmod(0o644)
        _to_disk(path)
    for path in folders:
        path.chmod(0o755)
        _to_disk(path)


def _touch(folder: Path) -> None:
    for path in (*_files(folder), folder):
        os.utime(path)


def _to_disk(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
