"""From a dataset's files to one table. Nothing is repaired here: what is wrong is for validation to see."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow
from pyarrow import parquet

from mlops.datasets.declaration import EVENT_TIME, Clock, Column, Dataset, Join
from mlops.datasets.parsing.columns import canonical, typed
from mlops.datasets.parsing.parts import is_pattern, matching, partition
from mlops.datasets.parsing.text import texts
from mlops.datasets.parsing.times import TYPE, with_clock, with_event_time
from mlops.result import Refused


def read_dataset(dataset: Dataset, folder: Path, scratch: Path) -> pl.LazyFrame:
    """One row a row of the first file, with the declared columns that were found, the constants, and `event_time`.

    folder: has the files of `dataset.source` below it. scratch: an empty folder that is to stay as long as the rows are
    read from there. A column with a value of another type than declared comes as text; one that is missing stays
    missing. Raises Refused, naming the file and what is to be declared, where a file cannot be read right.
    """
    rows = _rows(dataset, dataset.source.parts, folder, scratch)
    for join in dataset.source.joins:
        rows = _joined(dataset, rows, join, folder, scratch)
    source, found = dataset.source, rows.collect_schema().names()
    constants = [pl.lit(value, dtype=pl.String).alias(name) for name, value in source.constants.items()]
    present = [column.name for column in dataset.columns if column.name in found or column.name in source.constants]
    if not present:
        raise Refused(f"{dataset.object_key(source.parts[0])} has none of the declared columns: upload the right file")
    return _with_times(rows.with_columns(constants).select(present), dataset)


def files_below(dataset: Dataset, folder: Path) -> list[str]:
    """The names of a set's files, relative to the folder that has them. Raises Refused where one is not there."""
    found = []
    for name in dataset.source.files:
        if is_pattern(name):
            below = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            names = matching(name, below)
        else:
            names = [name] if (folder / name).is_file() else []
        if not names:
            raise Refused(
                f"{folder / name} not found: put the file there or correct the source of dataset {dataset.name!r}"
            )
        found += names
    return found


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, which is not held whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_version(digests: Mapping[str, str]) -> str:
    """The SHA-256 that names this content: of the file, or, of several, of their names and digests.

    digests: name of a file -> its SHA-256.
    """
    if len(digests) == 1:
        return next(iter(digests.values()))
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _rows(dataset: Dataset, patterns: Iterable[str], folder: Path, scratch: Path) -> pl.LazyFrame:
    """The rows of files of the same columns, one behind the other, with numeric columns typed."""
    source, names = dataset.source, []
    below = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for pattern in patterns:
        names += matching(pattern, below) if is_pattern(pattern) else [pattern]
    parts: list[pl.LazyFrame] = []
    for name in names:
        with _named(dataset, name):
            room = scratch / hashlib.sha256(name.encode()).hexdigest()[:16]
            room.mkdir(exist_ok=True)
            parts.append(_part(dataset, name, folder / name, room))
            _check_same_columns(parts[0], parts[-1], names[0])
    with _named(dataset, names[0] if len(names) == 1 else ", ".join(patterns)):
        first = parts[0].collect_schema().names()
        rows = pl.concat([part.select(first) for part in parts], how="vertical_relaxed")
        return typed(rows, [column for column in dataset.columns if column.name in first], source)


def _part(dataset: Dataset, name: str, file: Path, scratch: Path) -> pl.LazyFrame:
    """The wanted columns of one file, as `canonical` gives them."""
    source = dataset.source
    columns: dict[str, Column | None] = dict.fromkeys(join.on for join in source.joins)
    columns |= {column.name: column for column in dataset.columns if column.name not in source.constants}
    if source.format == "parquet":
        rows = _parquet(file, source.rename, columns)
    else:
        rows = pl.scan_parquet(texts(file, source, [*columns], scratch), glob=False, hive_partitioning=False)
    schema = rows.collect_schema()
    folders = {key: value for key, value in partition(name).items() if key in columns and key not in schema}
    taken = []
    for column, dtype in schema.items():
        try:
            taken.append(canonical(pl.col(column), dtype, columns[column]).alias(column))
        except Refused as refused:
            raise Refused(f"column {column!r} {refused}") from refused
    return rows.select(taken).with_columns(pl.lit(value, dtype=pl.String).alias(key) for key, value in folders.items())


def _parquet(file: Path, rename: Mapping[str, str], wanted: Mapping[str, object]) -> pl.LazyFrame:
    """The wanted columns of a Parquet file, by their declared names."""
    try:
        metadata = parquet.read_metadata(file)
        # Two columns of one name are told from each other by this alone.
        raw = metadata.schema.to_arrow_schema().names
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise Refused(f"cannot be read as parquet ({error}): upload a whole file") from error
    if not metadata.num_rows:
        raise Refused("has no rows: upload a whole file")
    renamed = [rename.get(name, name) for name in raw]
    twice = sorted({name for name in renamed if name in wanted and renamed.count(name) > 1})
    if twice:
        raise Refused(f"has two columns for {', '.join(map(repr, twice))}: give them two names, or declare rename")
    if len(set(raw)) != len(raw):
        raise Refused("has two columns of one name: write it with one name a column")
    rows = pl.scan_parquet(file, glob=False, hive_partitioning=False)
    return rows.select(pl.col(old).alias(new) for old, new in zip(raw, renamed, strict=True) if new in wanted)


def _check_same_columns(first: pl.LazyFrame, other: pl.LazyFrame, name: str) -> None:
    differs = set(first.collect_schema().names()) ^ set(other.collect_schema().names())
    if differs:
        raise Refused(
            f"and {name} are not of the same columns ({', '.join(sorted(differs))} are in one of them): "
            "write them alike, or declare the columns that both have"
        )


def _joined(dataset: Dataset, rows: pl.LazyFrame, join: Join, folder: Path, scratch: Path) -> pl.LazyFrame:
    other = _rows(dataset, [join.file], folder, scratch)
    names, others = rows.collect_schema(), other.collect_schema()
    for file, side in ((dataset.source.parts[0], names), (join.file, others)):
        if join.on not in side:
            raise Refused(
                f"{dataset.object_key(file)} has no column {join.on!r} to join by: upload the whole file, or declare "
                f"rename={{'its name there': {join.on!r}}} in its source"
            )
    both = sorted(set(names) & set(others) - {join.on})
    if both:
        raise Refused(
            f"{dataset.object_key(join.file)} and the files before it each have a column {', '.join(map(repr, both))}: "
            "rename one of them in its file, or declare neither"
        )
    if names[join.on] != others[join.on]:
        rows, other = (side.with_columns(pl.col(join.on).cast(pl.String)) for side in (rows, other))
    if other.select(pl.col(join.on).drop_nulls().is_duplicated().any()).collect().item():
        raise Refused(f"{dataset.object_key(join.file)} has two rows of one {join.on!r}: upload it without repeats")
    return rows.join(other, on=join.on, how="left", maintain_order="left")


def _with_times(rows: pl.LazyFrame, dataset: Dataset) -> pl.LazyFrame:
    match dataset.event_time:
        case None:
            return rows
        case Clock() as clock:
            return with_clock(rows, clock)
        case declared:
            schema = rows.collect_schema()
            if declared.column not in schema:
                return rows.with_columns(pl.lit(None, dtype=TYPE).alias(EVENT_TIME))
            with _named(dataset, dataset.source.parts[0]):
                return with_event_time(rows, pl.col(declared.column), schema[declared.column], declared, dataset.source)


@contextmanager
def _named(dataset: Dataset, name: str) -> Iterator[None]:
    """Puts the file before what is refused in it."""
    try:
        yield
    except Refused as refused:
        raise Refused(f"{dataset.object_key(name)} {refused}") from refused
