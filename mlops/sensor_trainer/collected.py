"""Readings as the API hands them out, as rows of the data set whose columns they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlops.datasets.declaration import EVENT_TIME, Dataset
from mlops.result import Refused

if TYPE_CHECKING:
    import polars as pl


def rows_of(readings: Sequence[Mapping[str, Any]], columns: Sequence[str], dataset: Dataset) -> pl.DataFrame:
    """The columns of the data set and `event_time` (UTC). A label that says more than yes or no stays missing.

    Raises Refused where the readings have other columns than the data set.
    """
    import polars as pl

    times = pl.Datetime("us", "UTC")
    features, entity, label = [column.name for column in dataset.features], str(dataset.entity), dataset.label
    if list(columns) != features:
        raise Refused(
            f"the sensor trainer's readings have the columns {', '.join(columns)}, and dataset {dataset.name} has "
            f"{', '.join(features)}: correct sensorTrainer.dataset, or upgrade the release as a whole"
        )
    failure = pl.Series(label.column, [reading["failure"] for reading in readings], pl.Boolean)
    yes_or_no = label.equals == 1
    return pl.DataFrame(
        {
            entity: pl.Series([reading["sensor"] for reading in readings], dtype=pl.String),
            **{
                name: pl.Series([reading["values"][place] for reading in readings], dtype=pl.Float64)
                for place, name in enumerate(features)
            },
            label.column: failure.cast(pl.Int64) if yes_or_no else pl.Series([None] * len(readings), dtype=pl.Int64),
            EVENT_TIME: pl.Series([datetime.fromisoformat(reading["time"]) for reading in readings], dtype=times),
        }
    )
