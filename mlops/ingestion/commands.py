"""Bring datasets into the object store, and a table of one into a DAG run."""

import argparse
import logging
import time
from collections.abc import Mapping
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path

from mlops import datasets
from mlops.config import RunIdentity, S3Settings, datasets_folder
from mlops.datasets.declaration import Dataset
from mlops.models.declaration import Model
from mlops.result import JSON, Failure, Refused, Result
from mlops.retry import once_started
from mlops.stores.dataset_files import DatasetFiles, EventTimeShift
from mlops.stores.declarations import DATASET_FILE, Declared, declared_in, learns_from
from mlops.stores.object_store import ObjectStore, bucket, data_bucket
from mlops.stores.store_users import Grant, Keys, StoreUsers

log = logging.getLogger(__name__)


def buckets(*, names: list[str], expire: list[tuple[str, int]], versions: list[tuple[str, int]], wait: float) -> Result:
    """Creates the buckets that are not there yet, and sets what each removes and keeps by itself.

    expire, versions: buckets and days; one that is in neither loses the rules that an earlier call set.
    """
    deadline, days, kept = time.monotonic() + wait, dict(expire), dict(versions)
    if unknown := sorted({*days, *kept} - set(names)):
        raise Refused(f"there are rules for {', '.join(unknown)}, which is none of the buckets {', '.join(names)}")
    made = {name: once_started(bucket(name).ensure, deadline) for name in names}
    for name in names:
        bucket(name).rule(days.get(name), kept.get(name))
        if name in days or name in kept:
            log.info("%s: objects go after %s days, earlier versions after %s", name, days.get(name), kept.get(name))
    return {name: "created" if new else "present" for name, new in made.items()}


def users(*, folder: Path, grants: list[Grant], wait: float) -> Result:
    """Makes MinIO's users so that each has its keys and may do what the grants say.

    folder: holds a folder a user, with the files access-key and secret-key.
    """
    keys = {name: _keys(folder / name) for name in sorted({grant.user for grant in grants})}
    if len({each.access_key for each in keys.values()}) < len(keys):
        raise Refused(f"two of the users {', '.join(keys)} have one access key: give each a Secret in global.s3.users")
    store = StoreUsers(S3Settings.from_environment())
    once_started(lambda: store.make(keys, grants), time.monotonic() + wait)
    return {name: [f"{grant.access} {grant.bucket}" for grant in grants if grant.user == name] for name in keys}


def load(*, dataset: str, folder: Path, shift_to_now: bool | None) -> Result:
    """Copies datasets' files from a folder into the data bucket; a file that is there already is not written again.

    They are read first: what cannot be read right is refused, and the bucket stays as it is. A folder with a file
    dataset.toml, and a <model>.toml each, declares the set and its models, and they are copied too; a model that could
    not be trained is refused as well, and one whose name another set's model has.

    With --shift-to-now the event times of each set are shifted, all by as much, so that its newest event is now; with
    --no-shift-to-now they are those of the files again; with neither a shift stays as it is.
    """
    store = data_bucket()
    raw = DatasetFiles(store)
    store.ensure()
    found = {name: declared_in(folder / name) for name in _asked_for(dataset, folder)}
    _check_models(store, {file: model for beside in found.values() if beside for file, model in beside.models.items()})
    return {
        name: {**_load(store, raw, declared, folder / name), **_shift(raw, _declared(name, declared), shift_to_now)}
        for name, declared in found.items()
    }


def download(*, dataset: str) -> Result:
    """Reads a dataset's files from the data bucket and writes them as one table of this DAG run."""
    import polars as pl

    declared, identity, store = datasets.get(dataset), RunIdentity.from_environment(), data_bucket()
    raw, key = DatasetFiles(store).read(declared), identity.key("raw")
    store.copy(raw.key, key)
    table = store.scan(key)
    size = {"rows": table.select(pl.len()).collect().item(), "columns": len(table.collect_schema())}
    log.info("%s: %d rows, %d columns", dataset, *size.values())
    return {"data": key, **size, "data_version": raw.data_version, **EventTimeShift(raw.shift_seconds).note}


def _keys(folder: Path) -> Keys:
    try:
        return Keys(*((folder / file).read_text(encoding="utf-8") for file in ("access-key", "secret-key")))
    except OSError as error:
        remedy = f"mount the Secret of the user {folder.name} there, with the keys access-key and secret-key"
        raise Refused(f"{error.filename} cannot be read ({error.strerror}): {remedy}") from error


def _asked_for(dataset: str, folder: Path) -> list[str]:
    if dataset != "all":
        return [dataset]
    names = sorted(path.parent.name for path in folder.glob(f"*/{DATASET_FILE}"))
    names += [name for name in datasets.names() if (folder / name).is_dir() and name not in names]
    if not names:
        raise Failure(f"{folder} holds no dataset: give the folder that has one folder a dataset with --folder")
    return names


def _check_models(store: ObjectStore, declared: Mapping[Path, Model]) -> None:
    """declared: models by their files. Raises Refused for one that would replace the model of another set."""
    sets: dict[str, str] = {}
    for file, model in declared.items():
        owner = sets.setdefault(model.name, learns_from(store, model.name) or model.dataset)
        if owner != model.dataset:
            raise Refused(
                f"{file} declares the model {model.name!r} of dataset {model.dataset}, and dataset {owner} has a model "
                f"of that name: take another name, or first take that one out of the folder and of "
                f"s3://{store.bucket}/declarations/models"
            )


def _declared(name: str, beside: Declared | None) -> Dataset:
    return datasets.get(name) if beside is None else beside.dataset


def _load(store: ObjectStore, raw: DatasetFiles, beside: Declared | None, folder: Path) -> Mapping[str, JSON]:
    """Counts the files that were written and those that were there with the same content."""
    dataset, written = _declared(folder.name, beside), {"written": 0, "unchanged": 0}
    for name, digest in raw.add(dataset, folder).items():
        path, key = folder / name, dataset.object_key(name)
        if store.digest(key) == digest:
            written["unchanged"] += 1
            continue
        store.upload(path, key, digest=digest)
        written["written"] += 1
        log.info("wrote %s (%d bytes)", key, path.stat().st_size)
    for key, text in beside.texts.items() if beside else ():
        store.write_bytes(key, text)
        log.info("wrote %s", key)
    return {**written, **({"declared": len(beside.texts)} if beside else {})}


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
    for option, text in (
        ("--expire", "that its objects go after so many days"),
        ("--versions", "that it keeps what is overwritten or removed, for so many days"),
    ):
        parser.add_argument(
            option, type=_days, action="append", default=[], metavar="BUCKET:DAYS", help=f"{text}; repeatable"
        )
    parser.add_argument(
        "--wait", type=float, default=0, metavar="SECONDS", help="how long the store may take to start (%(default)s)"
    )


def _users_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="has one folder a user, with its keys")
    parser.add_argument(
        "--grant",
        dest="grants",
        type=_grant,
        action="append",
        required=True,
        metavar="USER:ACCESS:BUCKET",
        help="what a user may do, read or write; repeatable",
    )
    parser.add_argument(
        "--wait", type=float, default=0, metavar="SECONDS", help="how long the store may take to start (%(default)s)"
    )


def _days(text: str) -> tuple[str, int]:
    match text.split(":"):
        case [bucket, days] if bucket and days.isdecimal() and int(days):
            return bucket, int(days)
    raise argparse.ArgumentTypeError(f"{text!r} is no bucket and days: write it as logs:90")


def _grant(text: str) -> Grant:
    match text.split(":"):
        case [user, ("read" | "write") as access, bucket] if user and bucket:
            return Grant(user, access, bucket)
    raise argparse.ArgumentTypeError(f"{text!r} is no grant: write it as tasks:write:data, or tasks:read:data")


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
    "users": (users, _users_options),
    "load": (load, _load_options),
    "download": (download, _download_options),
}
