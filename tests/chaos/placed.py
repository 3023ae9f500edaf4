"""The DAGs of this folder in the release: as part of its image, so that no pod that is killed takes them along."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from infrastructure import install
from infrastructure.release import NotInstalled

ROOT = Path(__file__).resolve().parents[2]
DAGS = Path(__file__).parent / "dags"
IMAGES = "images.yaml"
# How make builds the images, which then differ from those of the release in the DAGs alone.
BUILD = "BUILD_IMAGES"
DEFAULT = "--engine buildah --node 'python3 infrastructure/local'"


@contextmanager
def placed(values: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The release has the DAGs until the block ends; yields the files that it is installed by meanwhile.

    values: the files that it is installed by, that of the images last.
    """
    with TemporaryDirectory() as folder:
        copy(ROOT, Path(folder))
        for file in DAGS.glob("*.py"):
            shutil.copy(file, Path(folder, "dags"))
        images = str(Path(folder, IMAGES))
        options = shlex.split(os.environ.get(BUILD, DEFAULT))
        subprocess.run(
            [sys.executable, f"{folder}/images/build.py", *options, "--values", images], cwd=ROOT, check=True
        )
        meanwhile = (*values[:-1], images)
        try:
            _install(meanwhile)
            yield meanwhile
        finally:
            _install(values)


def copy(repository: Path, folder: Path) -> None:
    """Copies a working tree's files, those that git ignores left out."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=repository, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        source, target = repository / name, folder / name
        if source.is_symlink() or source.is_file():  # one that was removed is listed until that is committed
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _install(values: Sequence[str]) -> None:
    if code := install.main(list(values)):
        raise NotInstalled(f"helm upgrade ended with {code}: what it said stands above")
