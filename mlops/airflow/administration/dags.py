"""Brings DAG files to their volume, as a new version that becomes current in one step.

    python -m mlops.airflow.administration.dags image --volume /dags --keep 10
    python -m mlops.airflow.administration.dags add --volume /dags --keep 10 --archive files.tar.gz --remove old.py

`image` brings those of the image and no others; the chart's Job does, once for each image, which DAGS_OF names: where
the volume has had its files, they stay with all that came after them. `add` puts those of an
archive over the ones that are current, and takes away the ones that are named: `make dags` does. Either then removes
versions that are neither among the newest nor of a run that has not ended.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from mlops.airflow.bundles.versions import DagVersions

IMAGE = Path("/opt/maestro/dags")
# Runs that have not ended: Airflow's states of a run are these and the two of its end.
_USED = (
    "SELECT DISTINCT bundle_version FROM dag_run WHERE state IN ('queued', 'running') AND bundle_version IS NOT NULL"
)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="dags", description="Bring DAG files to their volume")
    commands = parser.add_subparsers(dest="command", required=True)
    image, add = commands.add_parser("image"), commands.add_parser("add")
    for command in (image, add):
        command.add_argument("--volume", type=Path, required=True)
        command.add_argument("--keep", type=int, required=True)
    image.add_argument("--folder", type=Path, default=IMAGE)
    add.add_argument("--archive", type=Path)
    add.add_argument("--remove", nargs="*", default=[])
    options = parser.parse_args(arguments)
    versions = DagVersions(options.volume)
    if options.command == "image":
        of = os.environ.get("DAGS_OF", "")
        if of and versions.current() and of == versions.brought():
            print(f"the volume has had the DAG files of {of}: what lies there stays")  # noqa: T201
            return 0
        version = bring(versions, options.folder)
        versions.note_brought(of)
    else:
        version = put(versions, options.archive, options.remove)
    print(f"DAG files are version {version} now")  # noqa: T201
    for old in versions.prune(options.keep, unfinished(os.environ["DATABASE_URL"])):
        print(f"removed version {old}: not among the newest {options.keep}, and no run of it goes on")  # noqa: T201
    return 0


def bring(versions: DagVersions, folder: Path) -> str:
    """Makes the files of a folder the current version, without what Python compiled of them."""
    return versions.publish(lambda new: _copy(folder, new))


def put(versions: DagVersions, archive: Path | None, removed: Sequence[str] = ()) -> str:
    """Makes a version of the current one, the files of an archive over them, without the `removed`."""

    def fill(new: Path) -> None:
        # Looked up here, where nobody else writes: of two who put at once neither loses the files of the other.
        current = versions.current()
        if current is not None:
            _copy(versions.path(current), new)
        if archive is not None:
            _unpack(archive, new)
        for name in removed:
            _within(new, name).unlink(missing_ok=True)

    return versions.publish(fill)


def unfinished(database: str) -> set[str]:
    """The versions of runs that have not ended, by Airflow's database."""
    import psycopg2

    connection = psycopg2.connect(database)
    try:
        with connection.cursor() as cursor:
            cursor.execute(_USED)
            return {version for (version,) in cursor.fetchall()}
    finally:
        connection.close()


def _unpack(archive: Path, folder: Path) -> None:
    """The plain files of an archive. The `filter` of tarfile is not in each Python 3.11."""
    with tarfile.open(archive) as opened:
        for member in opened:
            content = opened.extractfile(member) if member.isfile() else None
            if content is None:
                raise ValueError(f"{member.name!r} in the archive is no plain file: put files and nothing else")
            path = _within(folder, member.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())


def _within(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} lies outside of the DAG files: name a path within them")
    return path


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(
        source, target, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
