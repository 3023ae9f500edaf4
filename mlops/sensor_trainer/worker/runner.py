"""What a worker does with a job: read what there is to learn from, train, and publish the model once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from uuid import UUID

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from mlops import datasets
from mlops.config import SensorWorkerSettings
from mlops.result import Failure, Refused
from mlops.retry import error_of
from mlops.sensor_trainer.store.database import open_pool
from mlops.sensor_trainer.store.errors import Unavailable
from mlops.sensor_trainer.store.heartbeat import Heartbeat
from mlops.sensor_trainer.store.jobs import ATTEMPTS, LEASE, Attempt, Cancelled, Job, Jobs, Superseded
from mlops.sensor_trainer.store.queue import work as work_on_the_queue
from mlops.sensor_trainer.store.readings import Readings
from mlops.stores.ledger import Ledger
from mlops.stores.tracking import Tracking

if TYPE_CHECKING:
    from mlops.sensor_trainer.worker.training import Trained

_PATIENCE = 2 * LEASE  # seconds without PostgreSQL; longer than it takes to start again
_PAUSE = 1.0  # seconds
_READ, _TRAINED = 0.1, 0.9  # the progress when the readings are there, and when the model is

T = TypeVar("T")
log = logging.getLogger(__name__)


def work(settings: SensorWorkerSettings) -> None:
    """Runs the jobs that are handed over until it is told to stop."""
    work_on_the_queue(settings.redis, lambda: _import_what_jobs_use(settings))


def run_job(job_id: str) -> None:
    """Runs a job, or nothing where it has ended or another worker has it. RQ calls this, in a process of its own."""
    settings = SensorWorkerSettings.from_environment()
    with open_pool(settings.database, size=2) as pool:
        attempt = patiently(lambda: Jobs(pool).claim(UUID(job_id)))
        if attempt is None:
            log.info("job %s: there is nothing to do", job_id)
            return
        log.info("job %s: attempt %d", job_id, attempt.job.attempt)
        with _reporting_its_end(attempt):
            _run(attempt, settings, Jobs(pool), Readings(pool))


def patiently(ask: Callable[[], T]) -> T:
    """What the function returns; it is called again while PostgreSQL is away, for as long as a restart may take."""
    retrying = Retrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_fixed(_PAUSE),
        stop=stop_after_delay(_PATIENCE),
        before_sleep=lambda state: log.warning("trying again: %s", error_of(state)),
        reraise=True,
    )
    return retrying(ask)


class _Made(NamedTuple):
    """A model that was trained, and with how many readings."""

    trained: Trained
    readings: int


class _News(NamedTuple):
    """The window of time to learn from, and how many of its readings no model was trained with."""

    since: datetime
    until: datetime
    new_readings: int


def _run(attempt: Attempt, settings: SensorWorkerSettings, jobs: Jobs, readings: Readings) -> None:
    asked = attempt.job.request.get("minimum_new_readings")
    minimum = int(settings.minimum_new_readings if asked is None else asked)
    with Heartbeat(settings.database, attempt):
        attempt.report("counting new readings", 0.0)
        news = patiently(lambda: _news(attempt.job, int(settings.training_days), jobs, readings))
        # Without any reading there is nothing to learn from, whatever the minimum.
        made = _train(attempt, settings, readings, news) if news and news.new_readings >= minimum else None
    new = news.new_readings if news else 0
    if made is not None:
        patiently(lambda: _publish(attempt, settings, made, new))
    else:
        patiently(lambda: _skip(attempt, new, minimum))


def _news(job: Job, days: int, jobs: Jobs, readings: Readings) -> _News | None:
    """None where there are no readings. The window ends with the newest of them, or where the request says."""
    newest = readings.newest_time()
    if newest is None:
        return None
    asked = job.request.get("until")
    until = newest if asked is None else min(newest, datetime.fromisoformat(asked))
    new = readings.count_after(jobs.newest_trained_reading(job.model), until)
    return _News(until - timedelta(days=days), until, new)


def _train(attempt: Attempt, settings: SensorWorkerSettings, readings: Readings, news: _News) -> _Made:
    from mlops.sensor_trainer.worker.training import train

    columns = [column.name for column in datasets.get(settings.dataset).features]
    attempt.report("reading", 0.0)
    table = patiently(lambda: readings.table(columns, news.since, news.until))
    if table.empty:
        window = f"after {news.since.isoformat()} and until {news.until.isoformat()}"
        raise Refused(f"no reading {window} has the values {', '.join(columns)}: check sensorTrainer.dataset")
    trained = train(
        table,
        columns,
        job_id=str(attempt.job.id),
        tracking=Tracking(settings.mlflow),
        report=lambda step, done: attempt.report(step, _READ + (_TRAINED - _READ) * done),
    )
    return _Made(trained, len(table))


def _skip(attempt: Attempt, new: int, minimum: int) -> None:
    reason = f"{new} new readings, {max(minimum, 1)} are needed: they are trained with when there are enough"
    with attempt.finishing() as ending:
        ending.skip(reason, {"new_readings": new, "minimum_new_readings": minimum})


def _publish(attempt: Attempt, settings: SensorWorkerSettings, made: _Made, new: int) -> None:
    """Registers the model while the job is held: of all its attempts one does so, and one that repeats it finds it."""
    from mlops.sensor_trainer.worker.training import publish

    trained = made.trained
    with attempt.finishing() as ending:
        tracking, ledger = Tracking(settings.mlflow), Ledger(settings.ledger)
        published = publish(trained, job_id=str(attempt.job.id), tracking=tracking, ledger=ledger)
        model = {"run_id": trained.run_id, "metrics": trained.metrics, "clusters": trained.clusters}
        counted = {"readings": made.readings, "new_readings": new, "newest_reading": trained.newest_reading}
        ending.succeed({**model, **counted, **published})


@contextmanager
def _reporting_its_end(attempt: Attempt) -> Iterator[None]:
    """Writes the cause of a failure into the job. What may pass, such as MLflow being away, is tried again later."""
    job = attempt.job
    try:
        yield
        log.info("job %s has ended", job.id)
    except (Superseded, Cancelled) as verdict:
        log.warning("attempt %d stops: %s", job.attempt, verdict)
    except Unavailable:
        raise  # PostgreSQL, in which nothing can be written then: the end of the lease gives the job to another attempt
    except Refused as refused:
        log.error("job %s failed: %s", job.id, refused)
        _tell(attempt.fail, str(refused))
    except Failure as failure:
        log.warning("job %s: attempt %d of %d failed: %s", job.id, job.attempt, ATTEMPTS, failure)
        _tell(attempt.give_back, str(failure))
    except Exception as error:
        log.exception("job %s failed", job.id)
        _tell(attempt.fail, f"{type(error).__name__}: {error}")


def _tell(write: Callable[[str], None], cause: str) -> None:
    """Superseded is no news here: another attempt says how the job ends."""
    with suppress(Superseded):
        patiently(lambda: write(cause))


def _import_what_jobs_use(settings: SensorWorkerSettings) -> None:
    """A job is a fork of the worker, which begins at once with what the worker has imported."""
    import mlops.sensor_trainer.worker.training  # noqa: F401

    Tracking(settings.mlflow)
