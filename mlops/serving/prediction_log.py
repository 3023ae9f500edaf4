"""What a model server predicted, written to the object store as Parquet for monitoring, comparisons and later labels.

Requests hand rows to a bounded buffer and go on; a thread writes them in batches. What finds no room, because the store
is away or slower than requests come, is dropped and counted: a prediction is never late for its log.
"""

from __future__ import annotations

import io
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from mlops.result import Failure

if TYPE_CHECKING:
    import polars as pl
    from prometheus_client import CollectorRegistry

    from mlops.serving.by_ids import Joined
    from mlops.stores.object_store import ObjectStore

CAPACITY = 50_000  # rows that are held, about 30 MB of them
BATCH = 5_000  # rows that are written at once, if they come within
INTERVAL = 30.0  # seconds
_PAUSE = 5.0  # seconds until a write that failed is tried again

Row = dict[str, Any]
log = logging.getLogger(__name__)


def prefix(model: str, day: date | None = None) -> str:
    """Where the predictions of a model lie, or those of a day (UTC)."""
    return f"{model}/" if day is None else f"{model}/date={day.isoformat()}/"


def schema(keys: Sequence[str]) -> dict[str, pl.DataType]:
    """The columns of the log, of which those of the keys are the model's own.

    id: of the prediction, as the answer has it. time: UTC. prediction: as text, whatever its type. score: the
    probability of 1, or of the class that is predicted, or the number. features_age_seconds: of the oldest view, null
    where no feature was read. missing, stale: names of features.
    """
    import polars as pl

    return {
        "id": pl.String(),
        "time": pl.Datetime("us", "UTC"),
        "model": pl.String(),
        "version": pl.String(),
        **dict.fromkeys(keys, pl.String()),
        "prediction": pl.String(),
        "score": pl.Float64(),
        "features_age_seconds": pl.Float64(),
        "missing": pl.List(pl.String()),
        "stale": pl.List(pl.String()),
    }


class PredictionLog:
    """The log of one process. share: of the predictions that are written, above 0 and at most 1."""

    def __init__(
        self,
        store: ObjectStore,
        model: str,
        version: str,
        keys: Sequence[str],
        share: float,
        registry: CollectorRegistry,
        *,
        capacity: int = CAPACITY,
        interval: float = INTERVAL,
        pause: float = _PAUSE,
    ) -> None:
        from prometheus_client import Counter

        self._store, self._model, self._version, self._keys, self._share = store, model, version, list(keys), share
        self._capacity, self._interval, self._pause = capacity, interval, pause
        self._rows: deque[Row] = deque()
        self._due, self._ending = threading.Condition(), False
        self._counted = Counter(
            "maestro_prediction_log_rows",
            "Predictions that were to be logged: written, or dropped where the store is away or too slow",
            ("model", "result"),
            registry=registry,
        )
        for result in ("written", "dropped"):
            self._counted.labels(model, result)
        self._thread = threading.Thread(target=self._keep, name="prediction-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(
        self,
        ids: Sequence[str],
        keys: Sequence[Mapping[str, Any]],
        predictions: Sequence[Any],
        scores: Sequence[float],
        joined: Sequence[Joined] | None = None,
    ) -> None:
        """Takes the share of n predictions that is logged; never waits for the store, and never fails for want of room.

        keys: what is known of the keys of each; joined: of the features that the server read itself.
        """
        chosen = [place for place in range(len(ids)) if random.random() < self._share]
        if not chosen:
            return
        now = datetime.now(UTC)
        rows = [
            {
                "id": ids[place],
                "time": now,
                "model": self._model,
                "version": self._version,
                **{key: _text(keys[place].get(key)) for key in self._keys},
                "prediction": str(predictions[place]),
                "score": scores[place],
                "features_age_seconds": max(joined[place].ages.values(), default=None) if joined else None,
                "missing": joined[place].missing if joined else [],
                "stale": joined[place].stale if joined else [],
            }
            for place in chosen
        ]
        with self._due:
            room = max(0, self._capacity - len(self._rows))
            self._rows.extend(rows[:room])
            if len(self._rows) >= BATCH:
                self._due.notify()
        self._drop(len(rows) - room)

    def close(self) -> None:
        """Writes what is held, by one try, and ends. What cannot be written is dropped."""
        with self._due:
            self._ending = True
            self._due.notify()
        self._thread.join()

    def _keep(self) -> None:
        began = time.monotonic()
        while True:
            with self._due:
                patience = max(0.0, began + self._interval - time.monotonic())
                self._due.wait_for(lambda: self._ending or len(self._rows) >= BATCH, patience)
                ending = self._ending
            began = time.monotonic()
            written = self._write_all()
            if ending:
                self._drop(len(self._rows))
                return
            if not written:
                with self._due:
                    self._due.wait_for(lambda: self._ending, self._pause)

    def _write_all(self) -> bool:
        """Writes what is held, the oldest first; False where the store does not take it, and it is held further."""
        while True:
            with self._due:
                rows = _of_one_day(islice(self._rows, BATCH))
            if not rows:
                return True
            try:
                self._write(rows)
            except Failure as failure:
                log.warning("%d predictions are held that cannot be written: %s", len(self._rows), failure)
                return False
            except Exception:  # the log of predictions must not end by one batch
                log.exception("%d predictions cannot be written and are dropped", len(rows))
                self._drop(len(rows))
            with self._due:
                for _ in rows:
                    self._rows.popleft()

    def _write(self, rows: Sequence[Row]) -> None:
        """Writes rows of one day as one file. It is named for the first, which stays the first until it is written: one
        that came to the store although its answer was lost is replaced, and no row is there twice.
        """
        import polars as pl

        table, first = pl.DataFrame(rows, schema(self._keys), orient="row"), rows[0]
        content = io.BytesIO()
        table.write_parquet(content)
        key = f"{prefix(self._model, first['time'].date())}{first['time']:%H%M%S}-{first['id']}.parquet"
        self._store.write_bytes(key, content.getvalue())
        self._counted.labels(self._model, "written").inc(table.height)

    def _drop(self, rows: int) -> None:
        if rows > 0:
            self._counted.labels(self._model, "dropped").inc(rows)


def _of_one_day(rows: Iterable[Row]) -> list[Row]:
    """The first rows, as far as they are of one day."""
    return list(next((of_day for _, of_day in groupby(rows, lambda row: row["time"].date())), ()))


def _text(value: Any) -> str | None:
    if value is None or value != value:
        return None
    # A whole number that is a float, because another row of its request had none.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
