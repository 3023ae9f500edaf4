"""From a dataset's files to one table. Nothing is repaired here: what is wrong is for validation to see."""

import hashlib
import io
import zlib
from collections.abc import Mapping

import pandas as pd
import pyarrow

from mlops.datasets.declaration import EVENT_TIME, Clock, Dataset, EpochSeconds
from mlops.result import Failure

_MISSING = ("", "nan", "NaN", "NULL")
# What pandas lets through of a file that is cut off, empty, or of another format.
_UNREADABLE = (ValueError, OSError, EOFError, zlib.error, pyarrow.ArrowInvalid)


def read_dataset(dataset: Dataset, files: Mapping[str, bytes]) -> pd.DataFrame:
    """One row a row of the first file, with the declared columns that were found, the constants, and `event_time`.

    files: name -> content, one for each of `dataset.source.files`.
    A column with a value of another type than declared comes as text; one that is missing stays missing.
    """
    source = dataset.source
    table = _parse(dataset, source.file, files[source.file])
    for join in source.joins:
        other = _parse(dataset, join.file, files[join.file])
        for name, side in ((source.file, table), (join.file, other)):
            if join.on not in side.columns:
                raise Failure(f"{dataset.object_key(name)} has no column {join.on!r} to join by: upload the whole file")
        if other[join.on].duplicated().any():
            raise Failure(f"{dataset.object_key(join.file)} has two rows of one {join.on!r}: upload it without repeats")
        table = table.merge(other, on=join.on, how="left")
    for name, value in source.constants.items():
        table[name] = pd.Series(value, index=table.index, dtype=object)
    table = table[[column.name for column in dataset.columns if column.name in table.columns]]
    times = _event_time(dataset, table)
    return table if times is None else table.assign(**{EVENT_TIME: times})


def data_version(files: Mapping[str, bytes]) -> str:
    """The SHA-256 that names this content: of the file, or, of several, of their names and digests."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if len(digests) == 1:
        return next(iter(digests.values()))
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _parse(dataset: Dataset, file: str, content: bytes) -> pd.DataFrame:
    source = dataset.source
    texts = [column.name for column in dataset.columns if not column.numeric]
    raw_names = {name: raw for raw, name in source.rename.items()}
    try:
        if source.format == "parquet":
            table = pd.read_parquet(io.BytesIO(content))
            table = table.replace(dict.fromkeys(source.missing, None))
        else:
            table = pd.read_csv(
                io.BytesIO(content),
                sep="," if source.format == "csv" else "\t",
                compression="gzip" if file.endswith(".gz") else None,
                dtype={raw_names.get(name, name): object for name in texts},
                keep_default_na=False,
                na_values=[*_MISSING, *source.missing],
                low_memory=False,  # one type for the whole column, not one for each part of it
            )
    except _UNREADABLE as error:
        raise Failure(
            f"{dataset.object_key(file)} cannot be read as {source.format} ({error}): upload a whole file"
        ) from error
    return table.rename(columns=dict(source.rename))


def _event_time(dataset: Dataset, table: pd.DataFrame) -> pd.Series | None:
    """UTC times; missing where the column that holds them is missing or wrong, which validation reports."""
    match dataset.event_time:
        case Clock(start, every):
            return pd.Series(pd.date_range(start, periods=len(table), freq=every), index=table.index)
        case EpochSeconds(column):
            seconds = pd.to_numeric(table.get(column, pd.Series(index=table.index, dtype=float)), errors="coerce")
            return pd.to_datetime(seconds, unit="s", utc=True, errors="coerce")
        case None:
            return None
