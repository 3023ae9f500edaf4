"""The stored reference of a dataset: what its newest rows are compared with until somebody makes it anew."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlops.datasets.declaration import EVENT_TIME, Dataset
from mlops.result import Refused

if TYPE_CHECKING:
    import pandas as pd

    from mlops.stores.dataset_files import LoadedDataset
    from mlops.stores.object_store import ObjectStore

FRACTION = 0.6  # of the rows, the earliest: what is left for batches lies all behind it

log = logging.getLogger(__name__)


def key(dataset: Dataset) -> str:
    """Where the reference lies in the data bucket."""
    return f"reference/{dataset.name}.parquet"


def make(raw: LoadedDataset, dataset: Dataset, fraction: float) -> pd.DataFrame:
    """The earliest rows; what `about` tells of them (of which data, which times) is stored with them."""
    from mlops.data_quality.window import earliest, span

    rows = earliest(raw.table, fraction)
    table = rows.collect().to_pandas()
    table.attrs |= {
        "data_version": raw.data_version,
        "fraction": fraction,
        "event_time_shift_seconds": raw.shift_seconds,
        **span(rows),
    }
    return table


def about(table: pd.DataFrame) -> dict[str, Any]:
    """What `make` noted."""
    return {str(name): value for name, value in table.attrs.items()}


def write(store: ObjectStore, table: pd.DataFrame, dataset: Dataset) -> None:
    store.write_table(key(dataset), table)


def stored(store: ObjectStore, dataset: Dataset, read: Callable[[Dataset], LoadedDataset]) -> tuple[pd.DataFrame, bool]:
    """The stored reference, and whether it had to be made first, of the set that `read` then reads.

    Raises Refused where it lacks a column that has been declared since.
    """
    import pandas as pd

    content = store.find_bytes(key(dataset))
    if content is None:
        raw = read(dataset)
        table = make(raw, dataset, FRACTION)
        write(store, table, dataset)
        log.warning(
            "there was no reference: s3://%s/%s is made now, of the earliest %.0f %% of data version %s",
            store.bucket,
            key(dataset),
            100 * FRACTION,
            raw.data_version,
        )
        return table, True
    table = pd.read_parquet(io.BytesIO(content))
    declared = {column.name for column in dataset.columns} | ({EVENT_TIME} if dataset.event_time else set())
    lacking = sorted(declared - set(table.columns))
    if lacking:
        raise Refused(
            f"s3://{store.bucket}/{key(dataset)} lacks {', '.join(lacking)}: make the reference anew with "
            f"'python -m mlops drift reference --dataset {dataset.name}'"
        )
    return table, False
