"""Training jobs in PostgreSQL, which holds the truth about them.

A job is run by attempts. Each has a number and a lease, which its heartbeat renews; what an attempt writes counts only
while the job is running and has its number, so of two attempts the older one can change nothing any more.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID, uuid4

from psycopg.errors import LockNotAvailable
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from mlops.result import shorten
from mlops.sensor_trainer.store.database import transaction
from mlops.sensor_trainer.store.errors import Unavailable

if TYPE_CHECKING:
    from psycopg import Connection, Cursor
    from psycopg.rows import TupleRow
    from psycopg_pool import ConnectionPool

ATTEMPTS = 5
LEASE = 30.0  # seconds without a heartbeat after which a job is given to another worker
_CAUSE = 4000  # bytes of a cause that are kept
_PATIENCE = "3s"  # how long a request to cancel waits for a result that is just being published
# How long an attempt may hold its job while it publishes: MLflow's client alone tries for half a minute.
_PUBLISHING = "5min"
_NOW = "now"  # which PostgreSQL reads as the time of the transaction
_COLUMNS = (
    "id, model, idempotency_key, request, state, step, progress, attempt, created, started, finished, result, error"
)
# While the server was away no heartbeat could come: the lease is counted from its start.
_EXPIRED = """
state = 'running' and greatest(heartbeat, pg_postmaster_start_time()) < now() - make_interval(secs => %(lease)s)
"""

_SUBMIT = f"""
insert into sensors.training_jobs (id, model, idempotency_key, request) values (%s, %s, %s, %s)
on conflict do nothing returning {_COLUMNS}
"""  # noqa: S608 - all of these are put together of constants
_CANCEL = f"""
update sensors.training_jobs set
    cancel_requested = true,
    state = case state when 'queued' then 'cancelled' else state end,
    finished = case state when 'queued' then now() else finished end
where id = %s and state in ('queued', 'running') returning {_COLUMNS}
"""  # noqa: S608
_CLAIM = f"""
update sensors.training_jobs set
    state = 'running', attempt = attempt + 1, heartbeat = now(), started = coalesce(started, now()),
    step = 'started', progress = 0, error = null
where id = (
    select id from sensors.training_jobs
    where id = %(id)s and not cancel_requested and attempt < %(attempts)s and (state = 'queued' or {_EXPIRED})
    for update skip locked
) returning {_COLUMNS}
"""  # noqa: S608
# A job whose row is locked is being published, and has no heartbeat meanwhile.
_EXPIRE = f"""
update sensors.training_jobs set
    state = case when cancel_requested then 'cancelled' when attempt >= %(attempts)s then 'failed' else 'queued' end,
    finished = case when cancel_requested or attempt >= %(attempts)s then now() end,
    handed_over = null,
    error = case when not cancel_requested then format(%(cause)s::text, attempt, %(attempts)s::int, step) end
where id in (select id from sensors.training_jobs where {_EXPIRED} for update skip locked) returning id, state, error
"""  # noqa: S608
_DIED = (
    'attempt %s of %s ended without a word after the step "%s": look at the last state and the log of the sensor '
    "trainer's worker pods; one that was killed for its memory needs a higher limit"
)
_WAITING = """
select id from sensors.training_jobs
where state = 'queued' and (handed_over is null or handed_over < now() - make_interval(secs => %(lease)s))
order by created for update skip locked
"""
# The last that succeeded of a model says up to which reading it has learned.
_FORGET = """
delete from sensors.training_jobs as old where finished < now() - make_interval(days => %s) and exists (
    select from sensors.training_jobs as newer
    where newer.model = old.model and newer.state = 'succeeded' and newer.finished > old.finished
)
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One training of a model.

    state: queued, running, succeeded, skipped, failed or cancelled; progress: 0 to 1; attempt: how many have begun;
    error: why it failed or was skipped, or, while it is queued, why the last attempt came to nothing.
    """

    id: UUID
    model: str
    idempotency_key: str
    request: dict[str, Any]
    state: str
    step: str
    progress: float
    attempt: int
    created: datetime
    started: datetime | None
    finished: datetime | None
    result: dict[str, Any] | None
    error: str | None


class KeyReused(Exception):
    """The idempotency key belongs to a job with another request."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"the key {job.idempotency_key!r} belongs to job {job.id}, which was asked for otherwise")
        self.job = job


class AnotherRuns(Exception):
    """Another job of the model is queued or running."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"job {job.id} of model {job.model} is {job.state}")
        self.job = job


class Superseded(Exception):
    """The job has ended, or another attempt runs it: this one is to stop, and can change nothing."""


class Cancelled(Exception):
    """Somebody asked to cancel the job, and it is cancelled: this attempt is to stop."""


class Jobs:
    """The table of jobs. Each method raises Unavailable without PostgreSQL, and AccessDenied where the role may not."""

    def __init__(self, pool: ConnectionPool[Connection[TupleRow]]) -> None:
        self._pool = pool

    def submit(self, model: str, idempotency_key: str, request: Mapping[str, Any]) -> tuple[Job, bool]:
        """The job of the key, and whether it is new.

        Raises KeyReused where the key's job has another request, and AnotherRuns where the model has an active job.
        """
        while True:
            with transaction(self._pool) as connection, _cursor(connection) as cursor:
                new = cursor.execute(_SUBMIT, (uuid4(), model, idempotency_key, Jsonb(request))).fetchone()
                if new:
                    return new, True
                same = cursor.execute(_select("idempotency_key = %s"), (idempotency_key,)).fetchone()
                if same and (same.model, same.request) != (model, request):
                    raise KeyReused(same)
                if same:
                    return same, False
                active = _select("model = %s and state in ('queued', 'running')")
                if other := cursor.execute(active, (model,)).fetchone():
                    raise AnotherRuns(other)  # else it has ended in this moment

    def get(self, job_id: UUID) -> Job | None:
        with transaction(self._pool) as connection, _cursor(connection) as cursor:
            return cursor.execute(_select("id = %s"), (job_id,)).fetchone()

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state that any is in."""
        with transaction(self._pool) as connection:
            return dict(
                connection.execute("select state, count(*) from sensors.training_jobs group by state").fetchall()
            )

    def request_cancel(self, job_id: UUID) -> Job | None:
        """Cancels a job that nobody has begun at once, and asks one that runs to stop; one that has ended stays.

        One whose result is just being published comes back as it is, running: it is too late.
        """
        try:
            with transaction(self._pool) as connection, _cursor(connection) as cursor:
                cursor.execute(f"set local lock_timeout = '{_PATIENCE}'")
                cancelled = cursor.execute(_CANCEL, (job_id,)).fetchone()
        except Unavailable as error:
            if not _is_locked(error):
                raise
            cancelled = None
        return cancelled or self.get(job_id)

    def newest_trained_reading(self, model: str) -> int | None:
        """The id of the newest reading that the last model was trained with."""
        query = """
        select (result->>'newest_reading')::bigint from sensors.training_jobs
        where model = %s and state = 'succeeded' order by finished desc limit 1
        """
        with transaction(self._pool) as connection:
            row = connection.execute(query, (model,)).fetchone()
        return None if row is None else row[0]

    def forget(self, days: int) -> int:
        """Removes jobs that ended more than `days` ago, where a later one of the model has succeeded; says how many."""
        with transaction(self._pool) as connection:
            return connection.execute(_FORGET, (days,)).rowcount

    def claim(self, job_id: UUID) -> Attempt | None:
        """The next attempt at a job that waits or whose lease has ended; None where there is nothing to do."""
        with transaction(self._pool) as connection, _cursor(connection) as cursor:
            values = {"id": job_id, "attempts": ATTEMPTS, "lease": LEASE}
            job = cursor.execute(_CLAIM, values).fetchone()
        return None if job is None else Attempt(self._pool, job)

    def to_hand_over(self) -> list[UUID]:
        """The jobs that a worker is to be told of, oldest first.

        Those are the jobs that nobody was told of, or so long ago that whom it was told must have lost it. Before,
        jobs without a heartbeat are taken from their worker: they wait again, or fail after the last attempt.
        """
        values = {"attempts": ATTEMPTS, "lease": LEASE, "cause": _DIED}
        with transaction(self._pool) as connection:
            for job_id, state, error in connection.execute(_EXPIRE, values).fetchall():
                log.warning("job %s lost its worker and is %s now: %s", job_id, state, error)
            return [row[0] for row in connection.execute(_WAITING, {"lease": LEASE}).fetchall()]

    def handed_over(self, job_id: UUID) -> None:
        """Notes that a worker was told of the job just now."""
        with transaction(self._pool) as connection:
            connection.execute(
                "update sensors.training_jobs set handed_over = now() where id = %s and state = 'queued'", (job_id,)
            )


class Attempt:
    """One attempt at a job, by the worker that claimed it."""

    def __init__(self, pool: ConnectionPool[Connection[TupleRow]], job: Job) -> None:
        self.job = job
        self._pool = pool
        self._verdict: Superseded | Cancelled | None = None

    @property
    def is_last(self) -> bool:
        return self.job.attempt >= ATTEMPTS

    def report(self, step: str, progress: float) -> None:
        """Says how far it is (0 to 1), and that it lives. Raises Superseded and Cancelled; then there is no more to do.

        A server that is away for a while is passed over: the work goes on, and the next report says more.
        """
        if isinstance(self._verdict, Superseded):
            raise self._verdict
        try:
            with transaction(self._pool) as connection:
                self._write(connection, step=step, progress=progress)
                cancelled = self._is_cancelled(connection)
                if cancelled:
                    self._end(connection, "cancelled")
        except Unavailable as error:
            log.warning("job %s: the step %r is not reported: %s", self.job.id, step, error)
            return
        if cancelled:
            raise self._cancelled()

    def beat(self, connection: Connection[TupleRow]) -> bool:
        """Renews the lease over a connection of its own; whether there is any use in beating again."""
        try:
            with connection.transaction():
                self._write(connection)
        except Superseded as verdict:
            self._verdict = verdict
        return self._verdict is None

    @contextmanager
    def finishing(self) -> Iterator[Ending]:
        """Holds the job while the block publishes its result, and ends it as the block says, in one transaction.

        Nobody else can claim or cancel it meanwhile. Raises Superseded and Cancelled before the block. Where PostgreSQL
        is lost on the way this raises Unavailable and may be tried again, with a block that publishes nothing twice.
        """
        cancelled = False
        with transaction(self._pool) as connection:
            connection.execute(f"set local idle_in_transaction_session_timeout = '{_PUBLISHING}'")
            self._write(connection, step="publishing", progress=0.95)
            cancelled = self._is_cancelled(connection)
            if cancelled:
                self._end(connection, "cancelled")
            else:
                ending = Ending()
                yield ending
                state, reason, result = ending.outcome
                step = {"step": "done", "progress": 1.0} if state == "succeeded" else {}
                self._end(connection, state, error=reason, result=Jsonb(_finite(result)), **step)
        if cancelled:
            raise self._cancelled()

    def fail(self, cause: str) -> None:
        """Ends the job as failed. Raises Superseded."""
        with transaction(self._pool) as connection:
            self._end(connection, "failed", error=shorten(cause, _CAUSE))

    def give_back(self, cause: str) -> None:
        """Lets another attempt be made after a pause, or ends a job that was cancelled or has had its last attempt."""
        with transaction(self._pool) as connection:
            self._write(connection)  # which holds the row: nobody can cancel the job after it was looked at
            if self._is_cancelled(connection):
                self._end(connection, "cancelled")
            elif self.is_last:
                whole = f"{cause} (attempt {self.job.attempt} of {ATTEMPTS})"
                self._end(connection, "failed", error=shorten(whole, _CAUSE))
            else:
                # As if it had just been handed over: what was handed over in vain is handed over again after a while.
                self._write(
                    connection,
                    state="queued",
                    step="waiting for another attempt",
                    progress=0.0,
                    handed_over=_NOW,
                    error=shorten(cause, _CAUSE),
                )

    def _write(self, connection: Connection[TupleRow], **changes: object) -> None:
        """Renews the lease and changes columns of the job, while it is this attempt's. Raises Superseded."""
        columns = ", ".join(["heartbeat = now()", *(f"{name} = %s" for name in changes)])
        query = f"update sensors.training_jobs set {columns} where id = %s and attempt = %s and state = 'running'"  # noqa: S608
        values = (*changes.values(), self.job.id, self.job.attempt)
        if not connection.execute(query, values).rowcount:
            raise Superseded(f"job {self.job.id} is no longer that of attempt {self.job.attempt}")

    def _end(self, connection: Connection[TupleRow], state: str, **changes: object) -> None:
        self._write(connection, state=state, finished=_NOW, **changes)

    def _is_cancelled(self, connection: Connection[TupleRow]) -> bool:
        row = connection.execute(
            "select cancel_requested from sensors.training_jobs where id = %s", (self.job.id,)
        ).fetchone()
        return row is not None and bool(row[0])

    def _cancelled(self) -> Cancelled:
        return Cancelled(f"job {self.job.id} was cancelled in attempt {self.job.attempt}")


class Ending:
    """How the job ends, said within Attempt.finishing."""

    outcome: tuple[str, str | None, Mapping[str, Any]]

    def succeed(self, result: Mapping[str, Any]) -> None:
        """result: as JSON, with the id of the newest reading as `newest_reading`."""
        self.outcome = "succeeded", None, result

    def skip(self, reason: str, result: Mapping[str, Any]) -> None:
        self.outcome = "skipped", reason, result


def _select(condition: LiteralString) -> LiteralString:
    return f"select {_COLUMNS} from sensors.training_jobs where {condition}"  # noqa: S608


def _cursor(connection: Connection[TupleRow]) -> Cursor[Job]:
    return connection.cursor(row_factory=class_row(Job))


def _is_locked(error: Unavailable) -> bool:
    return isinstance(error.__cause__, LockNotAvailable)


def _finite(value: Any) -> Any:
    """The value without NaN and infinity, which JSON has not."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
