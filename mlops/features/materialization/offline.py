"""The rows of a window of time out of a feature view's Parquet files, a batch at a time."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops.features.materialization.view import MaterializedView
from mlops.result import Failure, Refused
from mlops.stores.object_store import ObjectStore

BATCH = 32_768  # rows

log = logging.getLogger(__name__)


class Window(NamedTuple):
    """Events at both ends belong to it, as in Feast. Rows that were written later than `written` do not."""

    start: datetime
    end: datetime
    written: datetime | None = None

    @classmethod
    def before(cls, end: datetime, days: float) -> Self:
        return cls(end - timedelta(days=days), end)


def recent(store: ObjectStore, view: MaterializedView, end: datetime, days: float) -> Window:
    """The last days up to the view's newest event that is not later than `end`.

    Where nothing new has come for longer than that, these are still the values to serve. Raises Failure where there are
    no files.
    """
    dated = {key: _first_day(key) for key in _keys(store, view)}
    found = [_newest(store, view, key, end) for key, start in dated.items() if start is None]
    for key in reversed([key for key, start in dated.items() if start is not None and start <= end]):
        found.append(_newest(store, view, key, end))
        if found[-1] is not None:
            break
    return Window.before(max((moment for moment in found if moment is not None), default=end), days)


@contextmanager
def files(store: ObjectStore, view: MaterializedView, window: Window | None = None) -> Iterator[list[Path]]:
    """Copies of a view's Parquet files, gone afterwards; with a window, of those that may hold an event of it.

    Each is fetched by one request: what is built anew meanwhile is read either as it was or as it is, and never in
    parts, as a Parquet file would be that is read range by range.
    """
    keys = _keys(store, view)
    if window is not None:
        keys = _overlapping(keys, window)
    with copies(store, keys) as paths:
        yield paths


@contextmanager
def copies(store: ObjectStore, keys: Sequence[str]) -> Iterator[list[Path]]:
    """Copies of these files, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="offline-") as folder:
        paths = [Path(folder) / f"{number}.parquet" for number in range(len(keys))]
        for key, path in zip(keys, paths, strict=True):
            store.download(key, path)
        yield paths


def _keys(store: ObjectStore, view: MaterializedView) -> list[str]:
    """The view's Parquet files, those of partitions in order of time."""
    keys = [key for key in store.keys(view.prefix) if key.endswith(".parquet")]
    if not keys:
        raise Failure(
            f"no Parquet file in s3://{store.bucket}/{view.prefix}: build the features with "
            "'python -m mlops features build --dataset all' or 'make data'"
        )
    return keys


def _overlapping(keys: Sequence[str], window: Window) -> list[str]:
    """Without the files of partitions that end before the window or begin after it; a partition ends with the next."""
    starts = [_first_day(key) for key in keys]
    ends = [*starts[1:], None]
    return [
        key
        for key, start, end in zip(keys, starts, ends, strict=True)
        if (start is None or start <= window.end) and (start is None or end is None or end > window.start)
    ]


def _newest(store: ObjectStore, view: MaterializedView, key: str, end: datetime) -> datetime | None:
    """The newest event of a file that is not later than `end`."""
    moment = pl.col(view.timestamp).cast(pl.Datetime("us", "UTC"))
    newest: datetime | None = store.scan(key).select(moment).filter(moment <= end).max().collect().item()
    return newest


def _first_day(key: str) -> datetime | None:
    """When the partition of a file begins; None for a file that is none."""
    try:
        return datetime.fromisoformat(Path(key).stem).replace(tzinfo=UTC)
    except ValueError:
        return None


def read(
    paths: list[Path], view: MaterializedView, window: Window, columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """The window's rows, the newest part of a file first, so that readers see the newest value as soon as can be.

    columns: those of the view that are read, all by default; the times that the window limits are always there.
    Raises Refused where a file lacks a column, or a row has no entity or no event time.
    """
    times = view.times if window.written else [view.timestamp]
    wanted = view.columns if columns is None else list(dict.fromkeys([*columns, *times]))
    for path in paths:
        with _opened(path, view) as file:
            if missing := sorted(set(wanted) - set(file.schema_arrow.names)):
                raise Refused(
                    f"feature view {view.name}: no column {', '.join(missing)} in the offline store: build the "
                    "features anew with 'python -m mlops features build --dataset all'"
                )
            for group in _groups(file, view, window):
                for batch in file.iter_batches(BATCH, row_groups=[group], columns=wanted, use_threads=False):
                    table = _inside(pa.table(batch), view, window)
                    if table.num_rows:
                        yield table


@contextmanager
def _opened(path: Path, view: MaterializedView) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except pa.ArrowInvalid as error:
        raise Failure(
            f"a file in s3://{view.bucket}/{view.prefix} is not a Parquet table: build the features anew"
        ) from error
    with file:
        yield file


def _groups(file: pq.ParquetFile, view: MaterializedView, window: Window) -> list[int]:
    """The row groups that may hold an event of the window, the one with the newest event first."""
    column = file.schema_arrow.names.index(view.timestamp)
    kind = file.schema_arrow.field(view.timestamp).type
    start, end = _nanoseconds(window.start), _nanoseconds(window.end)
    found = []
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_min_max or statistics.null_count:
            found.append((end, group))
            continue
        first, last = (
            pa.scalar(limit, kind).cast(pa.timestamp("ns", "UTC")).value for limit in (statistics.min, statistics.max)
        )
        if first <= end and last >= start:
            found.append((last, group))
    return [group for _, group in sorted(found, key=lambda entry: -entry[0])]


def _inside(table: pa.Table, view: MaterializedView, window: Window) -> pa.Table:
    for name in (view.timestamp, *(key for key in view.keys if key in table.column_names)):
        if nulls := table.column(name).null_count:
            raise Refused(
                f"feature view {view.name}: {nulls} rows of the offline store have no {name}, and would be served to "
                "nobody: build the features anew from a set that has it"
            )
    moment = _moments(table, view.timestamp)
    start, end = _nanoseconds(window.start), _nanoseconds(window.end)
    inside = pc.and_(pc.greater_equal(moment, start), pc.less_equal(moment, end))
    if window.written is not None and view.created is not None:
        written = pc.less_equal(_moments(table, view.created), _nanoseconds(window.written))
        inside = pc.and_(inside, pc.fill_null(written, True))
    return table.filter(inside)


def _moments(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of time in nanoseconds since 1970."""
    return table.column(name).cast(pa.timestamp("ns", "UTC")).cast(pa.int64())


def _nanoseconds(moment: datetime) -> int:
    value: int = pa.scalar(moment, pa.timestamp("ns", "UTC")).value
    return value
