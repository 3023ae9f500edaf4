"""The queue in Redis (RQ) that hands the ids of jobs to workers.

It holds no truth: PostgreSQL does. A job that is handed over twice is claimed once, and one that Redis loses is handed
over again. What is in Redis is JSON, and not the pickles that RQ writes by default, which run code when they are read.
Of a job it says the id and no more: which function runs, the worker knows by itself, so who writes to the queue can
have a job run that there is, and nothing else.
"""

from __future__ import annotations

import json
import logging
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from uuid import UUID

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError
from redis.retry import Retry
from rq import Queue, Worker
from rq.exceptions import NoSuchJobError, StopRequested
from rq.job import Job as QueuedJob
from rq.serializers import JSONSerializer

from mlops.sensor_trainer.store.errors import AccessDenied, Unavailable

if TYPE_CHECKING:
    from rq.executions import Execution

    from mlops.config import RedisSettings
    from mlops.sensor_trainer.store.jobs import Jobs

FUNCTION = "mlops.sensor_trainer.worker.runner.run_job"
_NAME = "training"
_DATABASE = 1  # Feast's online store is database 0
_TIME_LIMIT = 3600  # seconds of one attempt, of which a training takes less than one in a hundred
_KEPT = 3600  # seconds that RQ keeps what it knows of an attempt that failed
_WORKER_TTL = 30  # seconds; a worker asks again every half of it, and so learns of a Redis that vanished
_PAUSE = 2.0  # seconds
_LONGEST = 1024  # bytes of what is run, of which one of ours has about 100
# What RQ reads of a job beside its id. The rest is left where it is: functions to call at its end, addresses to ask,
# other jobs to wait for or to repeat.
_READ = {"created_at", "enqueued_at", "started_at", "ended_at", "origin", "status", "last_heartbeat", "worker_name"}
_READ |= {"description", "timeout", "result_ttl", "failure_ttl", "ttl", "exc_info"}

log = logging.getLogger(__name__)


class _TrainingJob(QueuedJob):
    """A job as the worker takes it out of Redis: of the one function, or none."""

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Raises NoSuchJobError for what is no training job of ours: RQ takes that out of the queue and goes on."""
        stored = {key.decode(errors="replace"): value for key, value in raw_data.items()}
        ours = _data(self.id.rpartition("_")[0])
        if _decompressed(stored.get("data", b"")) != ours:
            log.error(
                "%r in Redis' queue is no training job and does not run: somebody else who has the password of Redis' "
                "user 'queue' has put it there, so change it (%.200r)",
                self.id,
                _decompressed(stored.get("data", b"")),
            )
            raise NoSuchJobError(f"{self.id} is no training job")
        kept = {key.encode(): value for key, value in stored.items() if key in _READ}
        super().restore({**kept, b"data": ours})


def _data(job_id: str) -> bytes:
    """What RQ's JSON says of a training job: function, instance, arguments, named arguments."""
    return json.dumps((FUNCTION, None, [job_id], {})).encode()


def _decompressed(data: bytes) -> bytes | None:
    """At most the first bytes of it; None where it was not compressed as RQ does."""
    try:
        return zlib.decompressobj().decompress(data, _LONGEST)
    except zlib.error:
        return None


def _queue(client: Redis) -> Queue:
    return Queue(_NAME, connection=client, serializer=JSONSerializer, job_class=_TrainingJob)


class JobQueue:
    """Each method raises Unavailable without Redis, within 4 s, and AccessDenied where the password is wrong."""

    def __init__(self, settings: RedisSettings) -> None:
        self._client = _client(settings)
        self._address = f"{settings.host}:{settings.port}"
        self._queue = _queue(self._client)

    def enqueue(self, job_id: UUID, attempt: int) -> None:
        """Hands a job over. attempt: how many it has had (Job.attempt). One that waits already stays where it is."""
        name = _name(job_id, attempt)
        with _explained(self._address):
            if self._queue.get_job_position(name) is not None:
                return
            self._queue.enqueue_call(
                FUNCTION,
                args=(str(job_id),),
                job_id=name,
                timeout=_TIME_LIMIT,
                result_ttl=0,
                failure_ttl=_KEPT,
                description=f"training job {job_id}",
            )

    def stop(self, job_id: UUID) -> None:
        """Takes a job that waits out of the queue. One that runs stops by itself, at the next Attempt.report."""
        with _explained(self._address):
            for name in self._queue.get_job_ids():
                if name.startswith(f"{job_id}_"):
                    self._queue.remove(name)

    def waiting(self) -> int:
        """How many jobs wait for a worker."""
        with _explained(self._address):
            return self._queue.count

    def ping(self) -> None:
        with _explained(self._address):
            self._client.ping()


def hand_over(jobs: Jobs, queue: JobQueue) -> int:
    """Hands all jobs over that wait for it, and returns how many. What fails is done by the next call."""
    handed = 0
    for job_id in jobs.to_hand_over():
        job = jobs.get(job_id)
        if job is not None:
            queue.enqueue(job_id, job.attempt)
            jobs.handed_over(job_id)
            handed += 1
    return handed


class _Worker(Worker):
    """RQ's worker, which lets a job go on to its end while Redis is away."""

    asked_to_stop = False
    max_connection_wait_time = 5.0

    def maintain_heartbeats(self, job: QueuedJob, execution: Execution) -> None:
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            log.warning("Redis is away while %s runs, which goes on: %s", job.id, error)

    def handle_warm_shutdown_request(self) -> None:
        self.asked_to_stop = True
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]


def work(settings: RedisSettings, on_start: Callable[[], None]) -> None:
    """Runs the jobs that are handed over, one after the other, until SIGTERM; one that runs then is run to its end.

    on_start: called once before; what it imports, no job has to. Each job runs in a process of its own.
    Raises AccessDenied.
    """
    signal.signal(signal.SIGTERM, _stop)
    on_start()
    queue, client = JobQueue(settings), _client(settings)
    with suppress(StopRequested):
        while not _work_while_redis_is_there(queue, client):
            time.sleep(_PAUSE)


def _work_while_redis_is_there(queue: JobQueue, client: Redis) -> bool:
    """Whether the worker ended because it was asked to."""
    worker = None
    try:
        queue.ping()
        worker = _Worker(
            [_queue(client)],
            connection=client,
            serializer=JSONSerializer,
            job_class=_TrainingJob,
            worker_ttl=_WORKER_TTL,
            job_monitoring_interval=_WORKER_TTL // 2,
        )
        worker.work(logging_level="WARNING")
    except (Unavailable, RedisError) as error:
        log.warning("the worker waits for Redis: %s", error)
    if worker is not None and worker.horse_pid:
        worker.wait_for_horse()  # RQ gave its job up, which is still at work
    return worker is not None and worker.asked_to_stop


def _stop(signal_number: int, frame: object) -> None:
    raise StopRequested


def _name(job_id: UUID, attempt: int) -> str:
    """The name of an attempt in the queue, where it waits once; the next one may wait beside what is left of it."""
    return f"{job_id}_{attempt}"


@contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        if isinstance(error, AuthenticationError | AuthorizationError):
            remedy = "check the password in the Secret that global.redis.existingSecret names"
            raise AccessDenied("redis", f"Redis at {address} lets nobody in ({error}): {remedy}") from error
        remedy = "check that it runs and that global.services.redis or global.redis.external names it"
        raise Unavailable("redis", f"Redis at {address} failed ({error}): {remedy}") from error


def _client(settings: RedisSettings) -> Redis:
    return Redis(
        **settings.connection,
        db=_DATABASE,
        socket_connect_timeout=2,
        socket_timeout=2,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 1),  # once: a connection of the pool may be of before a restart
    )
