"""Readings of sensors in PostgreSQL: taken in by COPY, each key once, and read in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from psycopg.errors import DeadlockDetected

from mlops.sensor_trainer.store.database import transaction
from mlops.sensor_trainer.store.errors import Unavailable

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow
    from psycopg_pool import ConnectionPool

_TRIES = 3
_LONG = "set local statement_timeout = '5min'"  # what reads for training may look at all readings
# A temporary table a session, and not one a batch, of which the catalogue would grow.
_INCOMING = """
create temporary table if not exists incoming
    (key text, sensor text, time timestamptz, "values" double precision[], failure boolean) on commit delete rows
"""
_COPY = """copy pg_temp.incoming (key, sensor, time, "values", failure) from stdin (format binary)"""
# In order of time, so that ids are as well; of two batches with the same readings none waits for the other in a circle.
_INSERT = """
insert into sensors.readings (key, sensor, time, "values", failure)
select key, sensor, time, "values", failure from pg_temp.incoming order by time, key
on conflict (key) do nothing
"""
# Another pod that does the same takes other rows.
_FORGET = """
delete from sensors.readings where id in (
    select id from sensors.readings where time < (select max(time) from sensors.readings) - make_interval(days => %s)
    order by time limit %s for update skip locked
)
"""
_SELECT = """
select id, sensor, time, "values", failure from sensors.readings
where time > %s and time <= %s and cardinality("values") = %s order by time, id
"""


# Only what was received a while ago: a transaction that is under way may yet store readings of lower ids, and it ends
# within its statement_timeout (mlops/sensor_trainer/store/database.py).
_AFTER = """
select id, sensor, time, "values", failure from sensors.readings
where id > %s and received < now() - interval '20 seconds' and cardinality("values") = %s order by id limit %s
"""


class NewReading(NamedTuple):
    """What a client sends. key: names the reading, so that sending it again changes nothing; time: with its zone."""

    key: str
    sensor: str
    time: datetime
    values: Sequence[float]
    failure: bool | None


class StoredReading(NamedTuple):
    """A reading and its id; ids grow in the order in which readings were stored."""

    id: int
    sensor: str
    time: datetime
    values: Sequence[float]
    failure: bool | None


class Ingested(NamedTuple):
    """How many readings are new, and of how many the key was known."""

    accepted: int
    duplicates: int


class Readings:
    """The table of readings. Each method raises Unavailable without PostgreSQL, AccessDenied where the role may not."""

    def __init__(self, pool: ConnectionPool[Connection[TupleRow]]) -> None:
        self._pool = pool

    def ingest(self, readings: Sequence[NewReading]) -> Ingested:
        """Stores the readings, all or none of them; of a key that is there, what came first stays."""
        for again in reversed(range(_TRIES)):
            try:
                accepted = self._ingest(readings)
                break
            except Unavailable as error:
                # Two batches that give the same keys other times may block each other; PostgreSQL ends one of them.
                if not (again and isinstance(error.__cause__, DeadlockDetected)):
                    raise
        return Ingested(accepted, len(readings) - accepted)

    def _ingest(self, readings: Sequence[NewReading]) -> int:
        with transaction(self._pool) as connection, connection.cursor() as cursor:
            cursor.execute(_INCOMING)
            with cursor.copy(_COPY) as copy:
                copy.set_types(["text", "text", "timestamptz", "float8[]", "bool"])
                for reading in readings:
                    copy.write_row((reading.key, reading.sensor, reading.time, list(reading.values), reading.failure))
            return cursor.execute(_INSERT).rowcount

    def newest_id(self) -> int | None:
        found: int | None = self._one("select max(id) from sensors.readings")
        return found

    def newest_time(self) -> datetime | None:
        found: datetime | None = self._one("select max(time) from sensors.readings")
        return found

    def count_after(self, reading_id: int | None, until: datetime | None = None) -> int:
        """How many readings were stored after this one, of those whose time is not later than `until`."""
        query = "select count(*) from sensors.readings where id > %s and (%s::timestamptz is null or time <= %s)"
        return int(self._one(query, (reading_id or 0, until, until)))

    def after(self, reading_id: int, columns: int, limit: int) -> list[StoredReading]:
        """The first readings that were stored after this one, with so many values each, in order of id.

        None is passed over for good: what was stored in the last seconds comes the next time.
        """
        with transaction(self._pool) as connection:
            return [StoredReading(*row) for row in connection.execute(_AFTER, (reading_id, columns, limit))]

    def table(self, columns: Sequence[str], since: datetime, until: datetime, chunk: int = 20_000) -> pd.DataFrame:
        """The readings of since < time <= until, ordered by time and id; at most `chunk` are in flight at once.

        Columns id, sensor, time (UTC), each of `columns` (float64), and failure: 1.0, 0.0, or NaN where nobody knows.
        Readings with another number of values, which an earlier dataset left behind, are passed over.
        """
        parts = [_part((), columns)]
        with transaction(self._pool) as connection:
            connection.execute(_LONG)
            with connection.cursor("readings", binary=True) as cursor:  # a server-side cursor, as it has a name
                cursor.execute(_SELECT, (since, until, len(columns)))
                while rows := cursor.fetchmany(chunk):
                    parts.append(_part(rows, columns))
        return pd.concat(parts[1:] or parts, ignore_index=True)

    def forget(self, days: int, chunk: int = 10_000) -> int:
        """Removes the readings that are more than `days` older than the newest; returns how many they were.

        At most `chunk` of them in a transaction, so that batches that come in meanwhile do not wait for long.
        """
        removed = 0
        while True:
            with transaction(self._pool) as connection:
                found = connection.execute(_FORGET, (days, chunk)).rowcount
            removed += found
            if found < chunk:
                return removed

    def _one(self, query: Any, parameters: Sequence[object] = ()) -> Any:
        with transaction(self._pool) as connection:
            connection.execute(_LONG)
            row = connection.execute(query, parameters).fetchone()
        return None if row is None else row[0]


def _part(rows: Sequence[TupleRow], columns: Sequence[str]) -> pd.DataFrame:
    values = np.array([row[3] for row in rows], dtype=np.float64).reshape(len(rows), len(columns))
    return pd.DataFrame(
        {
            "id": np.array([row[0] for row in rows], dtype=np.int64),
            "sensor": pd.Series([row[1] for row in rows], dtype=object),
            # Not by way of nanoseconds, which end in 2262; the session's time zone is UTC.
            "time": pd.DatetimeIndex(
                np.array([row[2].replace(tzinfo=None) for row in rows], "datetime64[us]"), tz="UTC"
            ),
            **{column: values[:, number] for number, column in enumerate(columns)},
            "failure": np.array([np.nan if row[4] is None else row[4] for row in rows], dtype=np.float64),
        }
    )
