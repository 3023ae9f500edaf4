"""Bring datasets into the object store, and a table of one into a DAG run."""

import argparse
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path

from mlops import datasets
from mlops.config import RunIdentity, datasets_folder
from mlops.datasets.declaration import Dataset
from mlops.result import JSON, Failure, Result
from mlops.retry import once_started
from mlops.stores.dataset_files import SHIFT_FIELD, DatasetFiles, EventTimeShift
from mlops.stores.object_store import ObjectStore, bucket, data_bucket

log = logging.getLogger(__name__)


def buckets(*, names: list[str], wait: float) -> Result:
    """Creates the buckets that are not there yet."""
    deadline = time.monotonic() + wait
    made = {name: once_started(bucket(name).ensure, deadline) for name in names}
    return {name: "created" if new else "present" for name, new in made.items()}


def load(*, dataset: str, folder: Path, shift_to_now: bool | None) -> Result:
    """Copies datasets' files from a folder into the data bucket; a file that is there already is not written again.

    With --shift-to-now the event times of each set are shifted, all by as much, so that its newest event is now; with
    --no-shift-to-now they are those of the files again; with neither a shift stays as it is.
    """
    store = data_bucket()
    raw = DatasetFiles(store)
    store.ensure()
    found = [datasets.get(name) for name in (datasets.names() if dataset == "all" else [dataset])]
    if dataset == "all":
        found = [entry for entry in found if (folder / entry.name).is_dir()]
    if not found:
        raise Failure(f"{folder} holds no dataset: give the folder that has one folder a dataset with --folder")
    return {
        entry.name: {**_load(store, entry, folder / entry.name), **_shift(raw, entry, shift_to_now)} for entry in found
    }


def download(*, dataset: str) -> Result:
    """Reads a dataset's files from the data bucket and writes them as one table of this DAG run."""
    import polars as pl

    declared, identity, store = datasets.get(dataset), RunIdentity.from_environment(), data_bucket()
    table, data_version, shift = DatasetFiles(store).read(declared)
    key = identity.key("raw")
    # Beside the columns, for who joins features to them.
    store.write(key, table, {"data_version": data_version, SHIFT_FIELD: shift})
    written = store.scan(key)
    size = {"rows": written.select(pl.len()).collect().item(), "columns": len(written.collect_schema())}
    log.info("%s: %d rows, %d columns", dataset, *size.values())
    return {"data": key, **size, "data_version": data_version, **EventTimeShift(shift).note}


def _load(store: ObjectStore, dataset: Dataset, folder: Path) -> Mapping[str, JSON]:
    """Counts the files that were written and those that were there with the same content."""
    written = {"written": 0, "unchanged": 0}
    for name in dataset.source.files:
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError as error:
            raise Failure(
                f"{folder / name} not found: put the file there or correct mlops/datasets/{dataset.name}.py"
            ) from error
        digest = hashlib.sha256(content).hexdigest()
        if store.digest(dataset.object_key(name)) == digest:
            written["unchanged"] += 1
            continue
        store.write_bytes(dataset.object_key(name), content, digest=digest)
        written["written"] += 1
        log.info("wrote %s (%d bytes)", dataset.object_key(name), len(content))
    return written


def _shift(raw: DatasetFiles, dataset: Dataset, to_now: bool | None) -> Mapping[str, JSON]:
    """Shifts the set or takes its shift back, and says which shift it has now; nothing where it has none."""
    if dataset.event_time is None:
        return {}
    if to_now is not None:
        shift = raw.shift_to(dataset, datetime.now(UTC)) if to_now else raw.unshift(dataset)
    else:
        shift = raw.shift(dataset)
    if not shift.seconds:
        return {}
    log.info("%s: event times are %d s later than in the files, the newest is %s", dataset.name, *astuple(shift))
    return {**shift.note, "newest_event": shift.newest}


def _buckets_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", dest="names", action="append", required=True, help="a bucket; repeatable")
    parser.add_argument(
        "--wait", type=float, default=0, metavar="SECONDS", help="how long the store may take to start (%(default)s)"
    )


def _load_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="a declared dataset, or all that the folder holds")
    parser.add_argument("--folder", type=Path, default=datasets_folder(), help="has one folder a dataset (%(default)s)")
    parser.add_argument(
        "--shift-to-now", action=argparse.BooleanOptionalAction, help="whether event times are shifted to end now"
    )


def _download_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)


COMMANDS = {
    "buckets": (buckets, _buckets_options),
    "load": (load, _load_options),
    "download": (download, _download_options),
}
