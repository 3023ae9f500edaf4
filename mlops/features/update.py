"""Brings the offline store up to date: computes the partitions that changed, and leaves the others as they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import polars as pl

from mlops.datasets.declaration import EVENT_TIME, Dataset
from mlops.features.build import build, inputs
from mlops.features.build_record import BuildRecord, find_build_record, write_build_record
from mlops.features.partitions import begin, contents, end_of, touched
from mlops.features.repository import FeatureViewSpec, views_of
from mlops.stores.feature_store import EVENT_TIMESTAMP
from mlops.stores.object_store import ObjectStore

log = logging.getLogger(__name__)


class Events(NamedTuple):
    """The events of a data set, and what names them: see BuildRecord."""

    rows: pl.LazyFrame
    data_version: str
    shift_seconds: int
    readings: str | None


class Updated(NamedTuple):
    """record: of what the features are made of now; written: view -> the files that were written, oldest first."""

    record: BuildRecord
    written: dict[str, list[str]]


def update(store: ObjectStore, dataset: Dataset, events: Events, code_version: str, now: datetime) -> Updated:
    """Makes the files of the set's views what its events say. To repeat it, also where it ended half way, is no harm.

    A file is replaced in one step, and the record is written when all are.
    """
    before = find_build_record(store, dataset.name)
    named = (events.data_version, events.shift_seconds, events.readings, code_version)
    if before is not None and before.of(*named):
        return Updated(before, {})
    known = before if before is not None and before.code_version == code_version else None
    views, written, found = views_of(dataset.name), {}, {}
    with TemporaryDirectory(prefix="events-") as folder:
        file = Path(folder) / "events.parquet"
        columns = list(dict.fromkeys(name for view in views for name in inputs(view, dataset)))
        events.rows.select(columns).sink_parquet(file, engine="streaming")
        for view in views:
            own = pl.scan_parquet(file).select(inputs(view, dataset)).drop_nulls([view.key.column, EVENT_TIME])
            found[view.name] = contents(own, view.partition)
            starts = touched(known.contents(view) if known else {}, found[view.name], view.partition, view.reach)
            written[view.name] = _write(store, view, own, dataset, starts, now)
            gone = set(store.keys(view.folder)) - {view.file(start) for start in found[view.name]}
            for key in gone:
                store.delete(key)
            log.info("%s: %d partitions written, %d files removed", view.name, len(starts), len(gone))
    record = BuildRecord(
        events.data_version,
        events.shift_seconds,
        code_version,
        now.isoformat(),
        rows={view.name: _rows(store, view) for view in views},
        readings=events.readings,
        partitions={name: {start.isoformat(): said for start, said in of.items()} for name, of in found.items()},
    )
    write_build_record(store, dataset.name, record)
    return Updated(record, written)


def _write(
    store: ObjectStore,
    view: FeatureViewSpec,
    events: pl.LazyFrame,
    dataset: Dataset,
    starts: Sequence[date],
    created: datetime,
) -> list[str]:
    """Computes these partitions and hands back their files. Holds one partition of the features at a time."""
    if not starts:
        return []
    with TemporaryDirectory(prefix="features-") as folder:
        if view.reach is None:  # what an entity did counts for ever: computed once for all partitions
            file = Path(folder) / "features.parquet"
            build(view, events, dataset, created).filter(_from(starts[0])).sink_parquet(file, engine="streaming")
            whole = pl.scan_parquet(file)
        for start in starts:
            end = end_of(start, view.partition)
            if view.reach is not None:
                near = pl.col(EVENT_TIME).is_between(begin(start) - view.reach, begin(end), closed="left")
                # Streamed, windows take more memory than a partition of them does.
                rows = build(view, events.filter(near), dataset, created).collect().lazy()
            else:
                rows = whole
            store.write(view.file(start), rows.filter(_from(start), pl.col(EVENT_TIMESTAMP) < begin(end)))
    return [view.file(start) for start in starts]


def _from(start: date) -> pl.Expr:
    return pl.col(EVENT_TIMESTAMP) >= begin(start)


def _rows(store: ObjectStore, view: FeatureViewSpec) -> int:
    return int(store.scan_parts(view.folder).select(pl.len()).collect().item())


def union(
    rows: pl.LazyFrame, readings: pl.LazyFrame | None, dataset: Dataset, moved: Sequence[int] = ()
) -> pl.LazyFrame:
    """The rows of a set and the readings that were collected beside it; one that the set has as well counts once.

    moved: by how many seconds later the set's event times are now than when readings were collected. What was replayed
    of the set then is a copy of its rows at other times, and is left out.
    """
    times = pl.col(EVENT_TIME).cast(pl.Datetime("us", "UTC"))
    rows = rows.with_columns(times)
    if readings is None or dataset.entity is None:
        return rows
    more = readings.with_columns(times).join(rows, on=[dataset.entity, EVENT_TIME], how="anti")
    values = [column.name for column in dataset.features if column.numeric]
    for seconds in moved:
        then = rows.with_columns(
            pl.col(EVENT_TIME) - pl.duration(seconds=seconds), *(pl.col(name).cast(pl.Float64) for name in values)
        )
        more = more.join(then, on=[dataset.entity, EVENT_TIME, *values], how="anti")
    return pl.concat([rows, more], how="diagonal_relaxed")
