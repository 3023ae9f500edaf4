"""Compute and define features, bring them to the online store, serve them, and make training and test sets of them."""

import argparse
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops import datasets, measure, models
from mlops.config import CodeSettings, RunIdentity
from mlops.datasets.declaration import GROUP
from mlops.features import repository
from mlops.features.materialization import commands as materialization
from mlops.registry.record import FEATURE_SERVICE
from mlops.result import JSON, Failure, Refused, Result, Skip
from mlops.retry import once_started
from mlops.stores.object_store import data_bucket

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from mlops.datasets.declaration import Dataset
    from mlops.features.update import Updated
    from mlops.models.declaration import Model
    from mlops.stores.tracking import AliasedVersion

_SHOWN = 20  # lines of a diff in a message
_PLACE = "place"  # of a row, a column that the split is given beside those of the rows

log = logging.getLogger(__name__)


def preprocess(*, dataset: str, data: str) -> Result:
    """Drops repeated rows and sets types as the dataset declares."""
    import polars as pl

    from mlops.features.preprocess import preprocess as clean

    declared, key = datasets.get(dataset), RunIdentity.from_environment().key("clean")
    store = data_bucket()
    store.write(key, clean(store.scan(data), declared))
    found, kept = (store.scan(table).select(pl.len()).collect().item() for table in (data, key))
    log.info("%d rows kept, %d dropped", kept, found - kept)
    return {"data": key, "rows": kept, "dropped": found - kept}


def engineer(*, dataset: str, data: str) -> Result:
    """Splits a clean table as the dataset declares, computes what is derived, and keeps what the model sees."""
    import polars as pl

    from mlops.features.engineer import engineer as features_of
    from mlops.features.split import split

    declared, identity = datasets.get(dataset), RunIdentity.from_environment()
    store = data_bucket()
    keys, rows = {}, {}
    for name, part in zip(("train", "test"), split(store.scan(data), declared), strict=True):
        keys[name] = identity.key(name)
        store.write(keys[name], features_of(part, declared))
        rows[f"{name}_rows"] = store.scan(keys[name]).select(pl.len()).collect().item()
    log.info("%d rows to train on, %d to test on", *rows.values())
    measure.count_records(sum(rows.values()))
    return {**keys, "features": len(declared.features) + len(declared.derived), **rows}


def build(*, dataset: str) -> Result:
    """Brings the feature views of a raw set up to date in the offline store: its files, and readings beside them.

    Computed are the partitions whose events came, changed or went, and those that these reach; the others are left as
    they are. `all` are the sets that have feature views.
    """
    names = repository.datasets_with_features() if dataset == "all" else [dataset]
    for name in names:
        repository.views_of(name)
    return {name: _built(_update(name, datetime.now(UTC))) for name in names}


def push(*, dataset: str) -> Result:
    """Brings the feature views of a raw set up to date, and what is new of them into the online store at once.

    Nothing waits for the next materialization: each value is written to both stores, and what an earlier try did not
    bring into the online one is brought by the next. Skipped where nothing is new, and for a set without views.
    """
    from mlops.features.build_record import find_pushed, write_pushed
    from mlops.features.materialization.commands import push as push_files
    from mlops.stores.collected_readings import CollectedReadings
    from mlops.stores.feature_store import feast_bucket

    if dataset not in repository.datasets_with_features():
        raise Skip(f"dataset {dataset} has no feature views")
    now, store = datetime.now(UTC), feast_bucket()
    collected = CollectedReadings(data_bucket(), datasets.get(dataset))
    updated = _update(dataset, now)
    pushed = find_pushed(store, dataset)
    if pushed is None:  # what was there before is for the materialization to bring
        pushed = updated.record.without(updated.written)
        write_pushed(store, dataset, pushed)
    waiting = updated.record.files_but(pushed)
    if not any(waiting.values()):
        collected.note_pushed(updated.record.readings)
        raise Skip(f"dataset {dataset} has no event that was not in both stores at {updated.record.created}")
    views = push_files(waiting, now)
    write_pushed(store, dataset, updated.record.partitions)
    collected.note_pushed(updated.record.readings)
    return {**_built(updated), "views": views}


def apply(*, wait: float) -> Result:
    """Writes the declared entities, views and services to Feast's registry, where they are not there already.

    Refused, with a diff, where they lack what a registered model with an alias was trained on.
    """
    from mlops.features import definitions
    from mlops.stores.feature_store import FeatureStoreConfig, explained, open_feature_store
    from mlops.stores.tracking import Tracking

    config, deadline = FeatureStoreConfig.from_environment(), time.monotonic() + wait
    store = once_started(open_feature_store, deadline)
    _refuse_breaks(once_started(Tracking.from_environment().aliased_versions, deadline))
    with explained(config):
        changes = definitions.changes(store, config)
        if changes:
            definitions.apply(store, config)
    for line in changes:
        log.info("%s", line)
    views, services = len(repository.VIEWS), len(repository.SERVICES)
    return {"views": views, "services": services, "changed_lines": len(changes)}


def historical(*, model: str, data: str) -> Result:
    """Makes a training and a test set of a validated table: each row's features as they would have been served to it.

    The features are those of the model's feature service, joined by Feast as of the moment that the service's served
    age gives; the split is the one its dataset declares. The tables say in their attributes which service and schema
    made them, and of which age their values are.
    """
    from mlops.features.split import split

    joined = _join(models.get(model), data)
    return _written(joined, dict(zip(("train", "test"), joined.parts(split), strict=True)))


def parts(*, model: str, config: str, epochs: int | None) -> Result:
    """Makes a training, a validation and a test set of a model's data set, as `historical` does of a table, and checks
    them: none is empty, columns and label are right, and no entity's later event lies in an earlier part.

    config: the key of a YAML file in the data bucket by which a network is to be trained; it is checked here, before
    anything is trained, and written beside the parts as it will be used.
    """
    from mlops.features.parts import check
    from mlops.features.split import split_in_three
    from mlops.models import network
    from mlops.stores.dataset_files import DatasetFiles

    wanted, identity, bucket = models.get(model), RunIdentity.from_environment(), data_bucket()
    asked = network.read(bucket.read_bytes(config).decode() if config else None, config).with_epochs(epochs)
    raw = DatasetFiles(bucket).read(wanted.data)
    joined = _join(wanted, raw.key)
    made = dict(zip(("train", "validation", "test"), joined.parts(split_in_three), strict=True))
    of = wanted.data.entity or joined.service.views[0].key.column
    entities = {name: joined.rows[of].to_pandas().iloc[part.index] for name, part in made.items()}
    shared = check(made, list(joined.table.columns), entities)
    written = _written(joined, made)
    key = f"{identity.folder}/config.yaml"
    bucket.write_bytes(key, asked.yaml().encode())
    log.info(
        "%d of the values of %s are in more than one part, and none has a later event in an earlier one", shared, of
    )
    return {**written, "features_path": identity.folder, "config": key, "data_version": raw.data_version}


def validate_store() -> Result:
    """Checks the registry, Redis, the offline store, and that the definitions applied are those of this code."""
    from mlops.features import build_record, definitions
    from mlops.stores.feature_store import (
        FeatureStoreConfig,
        check_online,
        explained,
        feast_bucket,
        open_feature_store,
    )

    config, bucket = FeatureStoreConfig.from_environment(), feast_bucket()

    def applied() -> None:
        store = open_feature_store()
        with explained(config):
            changes = definitions.changes(store, config)
        if changes:
            raise Failure(_not_applied(changes))

    def computed(dataset: str) -> None:
        if build_record.find_build_record(bucket, dataset) is None:
            remedy = f"run 'make data', or 'python -m mlops features build --dataset {dataset}'"
            raise Failure(f"the features of dataset {dataset} are not in bucket {bucket.bucket!r}: {remedy}")

    sets = repository.datasets_with_features()
    checks: list[Callable[[], None]] = [applied, check_online]
    checks += [lambda name=name: computed(name) for name in sets]  # type: ignore[misc]
    problems = list(dict.fromkeys(problem for check in checks if (problem := _problem(check))))
    if problems:
        raise Failure("the feature store is not as it should be:" + "".join(f"\n- {problem}" for problem in problems))
    log.info("registry, online and offline store are reachable and hold what is declared")
    return {"views": len(repository.VIEWS), "services": len(repository.SERVICES), "datasets": sets}


def serve(*, port: int, metrics_port: int | None) -> Result:
    """Serves features by HTTP until it is stopped: POST /get-online-features, GET /health."""
    from mlops.features.serve import run

    run(port, metrics_port)
    return {}


@dataclass(frozen=True)
class _Joined:
    """rows: the clean rows of a raw set; table: their features, in the same order; said: what its parts say of it."""

    service: "repository.FeatureServiceSpec"
    dataset: "Dataset"
    rows: "pl.DataFrame"
    table: "pd.DataFrame"
    shift: Mapping[str, JSON]

    def parts(self, split: "Callable[[pl.LazyFrame, Dataset], tuple[pl.LazyFrame, ...]]") -> "list[pd.DataFrame]":
        """The table's rows by part, each under its place in `rows`.

        Split are the rows themselves: a service may lack the columns that the split asks for, or have others so named.
        """
        added = [GROUP] if self.dataset.groups else []
        places = [
            part.select(_PLACE, *added).collect().to_pandas().set_index(_PLACE)
            for part in split(self.rows.with_row_index(_PLACE).lazy(), self.dataset)
        ]
        return [self.table.loc[part.index].assign(**{name: part[name] for name in added}) for part in places]


def _join(wanted: "Model", data: str) -> _Joined:
    import polars as pl

    from mlops.features import build_record, definitions
    from mlops.features.preprocess import preprocess as clean
    from mlops.features.retrieve import retrieve
    from mlops.stores.dataset_files import SHIFT_FIELD, EventTimeShift
    from mlops.stores.feature_store import FeatureStoreConfig, explained, feast_bucket, open_feature_store

    declared, service = wanted.data, repository.service_of(wanted)
    bucket, config = data_bucket(), FeatureStoreConfig.from_environment()
    raw = bucket.scan(data)
    facts: dict[str, Any] = bucket.facts(data)
    build_record.check_same_source(feast_bucket(), declared.name, facts, data)
    store = open_feature_store()
    with explained(config):
        changes = definitions.changes(store, config)
        if changes:
            raise Failure(_not_applied(changes))
        rows = clean(raw, declared).collect()
        table = retrieve(store, service, rows.to_pandas())
    if wanted.reads_keys:
        keys = dict.fromkeys(view.key.column for view in service.views)
        table = table.assign(**{key: rows[key].cast(pl.String).to_pandas() for key in keys})
    return _Joined(service, declared, rows, table, EventTimeShift(facts.get(SHIFT_FIELD, 0)).note)


def _written(joined: _Joined, parts: "Mapping[str, pd.DataFrame]") -> Result:
    identity, bucket, service = RunIdentity.from_environment(), data_bucket(), joined.service
    for name, part in parts.items():
        told = part.reset_index(drop=True)
        told.attrs.update(
            feature_service=service.name,
            feature_schema=service.schema,
            served_age=str(service.served_age),
            **joined.shift,
        )
        bucket.write_table(identity.key(name), told)
    counts = {f"{name}_rows": len(part) for name, part in parts.items()}
    log.info("%d features, %s", len(service.features), counts)
    measure.count_records(sum(counts.values()))
    served = {"feature_service": service.name, "served_age": str(service.served_age)}
    keys = {name: identity.key(name) for name in parts}
    return {**keys, "features": len(service.features), **counts, **served, **joined.shift}


def _update(name: str, now: datetime) -> "Updated":
    from mlops.features.build_record import write_complete_until
    from mlops.features.update import Events, union, update
    from mlops.stores.collected_readings import CollectedReadings
    from mlops.stores.dataset_files import DatasetFiles
    from mlops.stores.feature_store import feast_bucket

    declared, data = datasets.get(name), data_bucket()
    raw, collected = DatasetFiles(data).read(declared), CollectedReadings(data, declared)
    state, store = collected.state(), feast_bucket()
    store.ensure()
    moved = [raw.shift_seconds - shift for shift in state.shifts if shift != raw.shift_seconds]
    rows = union(raw.table, collected.rows(), declared, moved)
    events = Events(rows, raw.data_version, raw.shift_seconds, state.changed)
    updated = update(store, declared, events, CodeSettings.from_environment().version, now.replace(microsecond=0))
    write_complete_until(store, name, now)
    return updated


def _built(updated: "Updated") -> Result:
    from mlops.stores.dataset_files import EventTimeShift

    record, written = updated.record, {name: len(files) for name, files in updated.written.items()}
    unchanged = not any(written.values())
    log.info("%s", "nothing has changed" if unchanged else f"partitions written: {written}")
    shift = EventTimeShift(record.shift_seconds).note
    return {"rows": dict(record.rows), "partitions": sum(written.values()), "unchanged": unchanged, **shift}


def _refuse_breaks(versions: "list[AliasedVersion]") -> None:
    from mlops.features.contract import breaks

    services = {service.name: service.schema for service in repository.SERVICES}
    ages = {service.name: str(service.served_age) for service in repository.SERVICES}
    lines: list[str] = []
    for version in versions:
        title = f"{version.model} version {version.version} ({', '.join(version.aliases)})"
        broken = breaks(version.tags, services, ages, title)
        lines += [f"{title} reads {version.tags.get(FEATURE_SERVICE)}:", *broken] if broken else []
    if lines:
        raise Refused(
            "the definitions of mlops/features/repository.py would break registered models:\n"
            f"{_listed(lines)}\nKeep what they read and add a service of a new name beside it, or take the models' "
            "aliases away; what is in the registry stays as it is"
        )


def _not_applied(changes: list[str]) -> str:
    return (
        "Feast's registry does not hold the definitions of this code; 'python -m mlops features apply', which helm "
        f"upgrade runs, would change:\n{_listed(changes)}"
    )


def _listed(lines: list[str]) -> str:
    more = [f"and {len(lines) - _SHOWN} more lines"] if len(lines) > _SHOWN else []
    return "\n".join([*lines[:_SHOWN], *more])


def _problem(check: Callable[[], None]) -> str | None:
    try:
        check()
    except Failure as failure:
        return str(failure)
    return None


def _table_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data", required=True, metavar="KEY", help="the table's key in the data bucket")


def _historical_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a declared model that has a feature service")
    parser.add_argument("--data", required=True, metavar="KEY", help="the table's key in the data bucket")


def _parts_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a declared model that has a feature service")
    parser.add_argument(
        "--config", default="", metavar="KEY", help="a YAML file in the data bucket; empty: this code's"
    )
    parser.add_argument("--epochs", type=_integer_or_none, help="the most, instead of the config's")


def _integer_or_none(text: str) -> int | None:
    return None if text.strip() in ("", "None") else int(text)


def _build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="a declared dataset, or all that have features")


def _push_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="a declared dataset that has features")


def _apply_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        type=float,
        default=300,
        metavar="SECONDS",
        help="how long PostgreSQL and MLflow may take (%(default)s)",
    )


def _no_options(parser: argparse.ArgumentParser) -> None:
    pass


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=6566, help="(%(default)s)")
    parser.add_argument(
        "--metrics-port", type=int, help="where Feast's own metrics are for Prometheus; default: nowhere"
    )


COMMANDS = {
    "preprocess": (preprocess, _table_options),
    "engineer": (engineer, _table_options),
    "build": (build, _build_options),
    "push": (push, _push_options),
    "apply": (apply, _apply_options),
    "historical": (historical, _historical_options),
    "parts": (parts, _parts_options),
    "validate-store": (validate_store, _no_options),
    **materialization.COMMANDS,
    "serve": (serve, _serve_options),
}
