"""Bring datasets into the object store, and a table of one into a DAG run."""

import argparse
import hashlib
import logging
from pathlib import Path

from mlops import datasets
from mlops.config import RunIdentity, Settings, datasets_folder
from mlops.datasets.declaration import Dataset
from mlops.result import Failure, Result
from mlops.stores.object_store import ObjectStore, data_bucket

log = logging.getLogger(__name__)


def buckets(*, names: list[str] | None) -> Result:
    """Creates the buckets that are not there yet."""
    settings = Settings.from_environment()
    wanted = names or [settings.data_bucket, settings.reports_bucket]
    return {name: "created" if ObjectStore(settings, name).ensure() else "present" for name in wanted}


def load(*, dataset: str, folder: Path) -> Result:
    """Copies datasets' files from a folder into the data bucket; a file that is there already is not written again."""
    store = data_bucket(Settings.from_environment())
    store.ensure()
    found = [datasets.get(name) for name in (datasets.names() if dataset == "all" else [dataset])]
    if dataset == "all":
        found = [entry for entry in found if (folder / entry.name).is_dir()]
    if not found:
        raise Failure(f"{folder} holds no dataset: give the folder that has one folder a dataset with --folder")
    return {entry.name: _load(store, entry, folder / entry.name) for entry in found}


def download(*, dataset: str) -> Result:
    """Reads a dataset's files from the data bucket and writes them as one table of this DAG run."""
    from mlops.ingestion.read import data_version, read_dataset

    declared, identity = datasets.get(dataset), RunIdentity.from_environment()
    store = data_bucket(Settings.from_environment())
    files = {name: store.read_bytes(declared.object_key(name)) for name in declared.source.files}
    table = read_dataset(declared, files)
    key = identity.key("raw")
    store.write_table(key, table)
    log.info("%s: %d rows, %d columns", dataset, *table.shape)
    return {"data": key, "rows": table.shape[0], "columns": table.shape[1], "data_version": data_version(files)}


def _load(store: ObjectStore, dataset: Dataset, folder: Path) -> dict[str, int]:
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


def _buckets_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", dest="names", action="append", help="a bucket; repeatable; default: the buckets of Settings"
    )


def _load_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="a declared dataset, or all that the folder holds")
    parser.add_argument("--folder", type=Path, default=datasets_folder(), help="has one folder a dataset (%(default)s)")


def _download_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)


COMMANDS = {
    "buckets": (buckets, _buckets_options),
    "load": (load, _load_options),
    "download": (download, _download_options),
}
