"""Says what the model in production learned from, so that new rows of its dataset are compared with that."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mlops.datasets.declaration import SplitByTime
from mlops.registry.record import DATA_VERSION, EVENT_TIME_SHIFT, TEST, TRAIN, Record, period_tag
from mlops.stores.trained_on import TrainedOn

if TYPE_CHECKING:
    from mlops.models.declaration import Model
    from mlops.stores.object_store import ObjectStore
    from mlops.stores.tracking import Tracking


def keep_training_data(tracking: Tracking, model: Model, version: str, store: ObjectStore) -> None:
    """Writes it to the data bucket, for the model's dataset. To be called when the version is in production.

    Rows of a split by time come before those of the test set, so the training set is the earliest of both; of another
    split both are drawn from all rows alike.
    """
    run_id = tracking.made_by(model.name, version)
    record = Record.read(tracking, run_id)
    by_time = isinstance(model.data.split, SplitByTime)
    rows = sum(record.metrics.get(f"{part}_rows", 0.0) for part in ((TRAIN,) if by_time else (TRAIN, TEST)))
    TrainedOn(
        model=model.name,
        version=version,
        run_id=run_id,
        data_version=record.params.get("data_version", record.tags.get(DATA_VERSION, "")),
        until=_until(record),
        rows=int(rows),
    ).write(store, model.dataset)


def _until(record: Record) -> str | None:
    """The last event of the training set in the times of the files."""
    _, _, end = record.tags.get(period_tag(TRAIN), "").partition("/")
    if not end:
        return None
    return (datetime.fromisoformat(end) - timedelta(seconds=float(record.tags.get(EVENT_TIME_SHIFT, 0)))).isoformat()
