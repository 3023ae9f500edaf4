"""The stored reference of a dataset: what its newest rows are compared with.

It is the training data of the model that was put into production last, or the earliest rows of the set where there is
none yet or somebody wants it so. What is stored of it does not grow with its rows: counts of each column, and a sample.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from mlops.data_quality.window import span
from mlops.datasets.declaration import EVENT_TIME, Dataset
from mlops.drift.columns import comparable, scales
from mlops.drift.sketch import Sketch, as_table, from_table, marks, sketch
from mlops.result import JSON, Refused
from mlops.stores.trained_on import TrainedOn

if TYPE_CHECKING:
    from mlops.stores.dataset_files import LoadedDataset
    from mlops.stores.object_store import ObjectStore

_SLICE = 1 << 17  # rows that are held at a time
_SAMPLE = 1 << 17  # rows that say where to count
_KEPT = 1 << 15  # of them; an Isolation Forest takes 256 of the rows for a tree
_SEED = 7

log = logging.getLogger(__name__)


class Made(NamedTuple):
    """What is kept of the reference's rows. sample: rows in their order of time, with the columns of `sketches`."""

    sketches: Mapping[str, Sketch]
    sample: pl.DataFrame


@dataclass(frozen=True)
class Reference:
    """about: where it is from, and how many rows it has. made_now: whether it had to be made first."""

    about: Mapping[str, Any]
    sketches: Mapping[str, Sketch]
    made_now: bool = False

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        about = self.about
        if about.get("model"):
            return f"the training data of {about['model']} version {about['version']}"
        return (
            f"the earliest {about['fraction']:.0%} of the data"
            if about.get("fraction")
            else "the rows that were stored"
        )


def make(rows: pl.LazyFrame, dataset: Dataset) -> Made:
    """Reads the rows twice, once to see where to count, and holds no more of them than a sample."""
    times = [pl.col(EVENT_TIME)] if EVENT_TIME in rows.collect_schema().names() else []
    watched = rows.select(*comparable(dataset), *times)
    sample = _drawn(watched, _count(rows), _SAMPLE)
    found = sketch(slices(watched), marks(sample, scales(dataset)))
    kept = _some(sample, _KEPT, np.random.default_rng(_SEED))
    if EVENT_TIME in kept.columns:
        kept = kept.sort(EVENT_TIME, maintain_order=True).drop(EVENT_TIME)
    return Made(found, kept)


def earliest(table: pl.LazyFrame, fraction: float) -> pl.LazyFrame:
    """The first `fraction` of the rows by event time, with all of the last one's moment, or as they lie without times.

    Of many rows the time to end at is told by a sample, which misses the fraction by less than half a hundredth.
    """
    total = _count(table)
    if EVENT_TIME in table.collect_schema().names():
        times = _drawn(table.select(EVENT_TIME), total, _SAMPLE)[EVENT_TIME].drop_nulls().sort()
        if len(times):
            return table.filter(pl.col(EVENT_TIME) <= times[max(1, round(len(times) * fraction)) - 1])
    return table.head(max(1, round(total * fraction)))


def store_earliest(store: ObjectStore, dataset: Dataset, raw: LoadedDataset, fraction: float) -> Reference:
    """Stores the earliest part of a set as the reference, until another model is put into production."""
    return _store(store, dataset, raw, earliest(raw.table, fraction), {"fraction": fraction})


def current(
    store: ObjectStore, dataset: Dataset, read: Callable[[Dataset], LoadedDataset], fraction: float
) -> Reference:
    """The stored reference; it is made first where there is none, or where a model was put into production since.

    read: reads the whole set, which is asked for in that case alone. fraction: of the rows, the earliest, that are the
    reference where no model is in production.
    Raises Refused where it lacks a column that has been declared since.
    """
    trained_on = TrainedOn.find(store, dataset.name)
    if (stored := _stored(store, dataset, trained_on)) is not None:
        return stored
    if trained_on is not None:
        raw = read(dataset)
        rows = _of_training(raw, trained_on)
        made = _store(store, dataset, raw, rows, {"model": trained_on.model, "version": trained_on.version})
    elif former := _of_former_release(store, dataset):
        made = former
    else:
        made = store_earliest(store, dataset, read(dataset), fraction)
    log.warning("the reference of dataset %s is made now: %s, %d rows", dataset.name, made.name, made.about["rows"])
    return Reference(made.about, made.sketches, made_now=True)


def sample(store: ObjectStore, dataset: Dataset) -> pl.DataFrame:
    """Rows of the reference in their order of time, with the columns that are watched."""
    return store.scan(_key(dataset, "sample")).collect()


def _key(dataset: Dataset, part: str) -> str:
    return f"reference/{dataset.name}/{part}.parquet"


def _former_key(dataset: Dataset) -> str:
    """Where a release before this one kept the rows of the reference themselves."""
    return f"reference/{dataset.name}.parquet"


def _stored(store: ObjectStore, dataset: Dataset, trained_on: TrainedOn | None) -> Reference | None:
    """The reference that was stored since this model was put into production."""
    key = _key(dataset, "sketch")
    if not store.keys(key):
        return None
    facts: dict[str, Any] = store.facts(key)
    if facts["promoted"] != (trained_on.identity if trained_on else None):
        return None
    columns = facts.pop("columns")
    _refuse_without(store, key, dataset, columns)
    found = from_table(store.scan(key).collect(), columns)
    return Reference(facts, {name: found[name] for name in scales(dataset)})


def _store(
    store: ObjectStore, dataset: Dataset, raw: LoadedDataset, rows: pl.LazyFrame, origin: Mapping[str, JSON]
) -> Reference:
    about = {**origin, "data_version": raw.data_version, "event_time_shift_seconds": raw.shift_seconds}
    return _write(store, dataset, rows, {**about, **span(rows)})


def _write(store: ObjectStore, dataset: Dataset, rows: pl.LazyFrame, about: Mapping[str, JSON]) -> Reference:
    """Writes the counts last: who finds them finds the sample that belongs to them."""
    trained_on = TrainedOn.find(store, dataset.name)
    about = {**about, "promoted": trained_on.identity if trained_on else None}
    made = make(rows, dataset)
    table, columns = as_table(made.sketches)
    store.write(_key(dataset, "sample"), made.sample.lazy(), about)
    store.write(_key(dataset, "sketch"), table.lazy(), {**about, "columns": columns})
    return Reference(about, made.sketches)


def _of_training(raw: LoadedDataset, trained_on: TrainedOn) -> pl.LazyFrame:
    """The raw rows of the training period, or, where the run tells none, as many of the earliest as it learned from."""
    if trained_on.until is not None and EVENT_TIME in raw.table.collect_schema().names():
        until = datetime.fromisoformat(trained_on.until) + timedelta(seconds=raw.shift_seconds)
        return raw.table.filter(pl.col(EVENT_TIME) <= until)
    return earliest(raw.table, min(1.0, trained_on.rows / _count(raw.table))) if trained_on.rows else raw.table


def _of_former_release(store: ObjectStore, dataset: Dataset) -> Reference | None:
    """The reference as a release before stored it, by its rows: counted once, and kept in that way from then on."""
    key = _former_key(dataset)
    if not store.keys(key):
        return None
    rows = store.scan(key)
    _refuse_without(store, key, dataset, rows.collect_schema().names())
    return _write(store, dataset, rows, store.facts(key))


def _refuse_without(store: ObjectStore, key: str, dataset: Dataset, columns: Any) -> None:
    lacking = sorted(set(scales(dataset)) - set(columns))
    if lacking:
        raise Refused(
            f"s3://{store.bucket}/{key} lacks {', '.join(lacking)}: make the reference anew with "
            f"'python -m mlops drift reference --dataset {dataset.name}'"
        )


def _count(rows: pl.LazyFrame) -> int:
    return int(rows.select(pl.len()).collect().item())


def slices(rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The rows in their order, some at a time."""
    return iter(rows.collect_batches(chunk_size=_SLICE, maintain_order=True, engine="streaming"))


def _drawn(rows: pl.LazyFrame, total: int, most: int) -> pl.DataFrame:
    """`most` rows drawn at random, or all, in the order in which they lie."""
    if total <= most:
        return rows.collect()
    generator, parts, left = np.random.default_rng(_SEED), [], most
    for part in slices(rows):
        total -= len(part)
        taken = int(generator.hypergeometric(len(part), total, left))
        parts.append(_some(part, taken, generator))
        left -= taken
    return pl.concat(parts)


def _some(rows: pl.DataFrame, most: int, generator: np.random.Generator) -> pl.DataFrame:
    return rows[np.sort(generator.choice(len(rows), min(most, len(rows)), replace=False))]
