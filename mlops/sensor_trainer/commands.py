"""Send sensor readings to the sensor trainer, have it train and follow that, and run the trainer itself."""

import argparse
import logging
import time
from datetime import UTC, datetime
from functools import partial

from mlops import datasets, measure
from mlops.config import (
    DatabaseSettings,
    MLflowSettings,
    RunIdentity,
    SensorApiSettings,
    SensorTrainerSettings,
    SensorWorkerSettings,
)
from mlops.keys import slug
from mlops.result import Failure, Refused, Result, Skip
from mlops.sensor_trainer.client import JobReport, Submitted, Trainer
from mlops.stores.dataset_files import DatasetFiles, EventTimeShift
from mlops.stores.http import patiently
from mlops.stores.object_store import data_bucket
from mlops.stores.tracking import Tracking, health_check

_PATIENCE = 90.0  # seconds; a pod that was killed is back by then, and for longer there are the task's own retries
_POLL = 2.0  # seconds
_KEYS = 20  # keys of one DAG run: each but the last has a job that failed or was cancelled
_LAST = 2**63 - 1  # an id that no reading comes after
_BATCH = 1_000  # readings in a request; the trainer takes up to 5,000

log = logging.getLogger(__name__)


def check_mlflow(*, patience: float) -> Result:
    """Asks whether MLflow and its database answer; fails with what kept them from it, after asking for a while."""
    patiently(health_check(MLflowSettings.from_environment()), patience)
    return {"mlflow": "answers"}


def check_trainer(*, patience: float) -> Result:
    """Asks whether the sensor trainer is ready; fails with what it lacks, after asking for a while."""
    patiently(Trainer.from_environment().check, patience)
    return {"sensor_trainer": "ready"}


def trigger(*, minimum_new_readings: int | None, patience: float) -> Result:
    """Asks for a training and hands back the id of its job. No retry of this task starts a second one.

    The key of the request is made of the DAG run. A job of that key that failed or was cancelled is left behind: the
    task was cleared, and a new job is wanted. Where another job of the model is under way, that one is followed.
    """
    trainer, key = Trainer.from_environment(), slug(RunIdentity.from_environment().run_key)
    request = {} if minimum_new_readings is None else {"minimum_new_readings": minimum_new_readings}
    for number in range(1, _KEYS + 1):
        numbered = key if number == 1 else f"{key}-{number}"
        submitted = patiently(partial(trainer.train, numbered, request), patience)
        if submitted.others or submitted.job.state not in ("failed", "cancelled"):
            return _handed_over(submitted)
        log.warning("job %s of this run has %s: asking for another one", submitted.job.id, submitted.job.state)
    raise Refused(f"{_KEYS} jobs of this run failed or were cancelled: correct the cause and trigger a new run")


def monitor(*, job_id: str, patience: float, poll: float) -> Result:
    """Waits for the end of a job and hands back its metrics and its model's version; skipped where the job was.

    While the trainer is away it is asked again, until the time is up. The version's card is put beside the reports of
    the task.
    """
    from mlops.registry.registration import keep_card
    from mlops.sensor_trainer.model.served import MODEL

    trainer, deadline = Trainer.from_environment(), time.monotonic() + patience
    logged = None
    while True:
        job = patiently(partial(trainer.job, job_id), deadline - time.monotonic())
        if job.where != logged:
            log.info("job %s: %s", job.id, job.where)
            logged = job.where
        if job.ended:
            outcome = _outcome(job)
            keep_card(Tracking.from_environment(), MODEL, str(outcome["model_version"]))
            return outcome
        if time.monotonic() + poll > deadline:
            raise Failure(
                f"job {job.id} has not ended within {patience:.0f} s, it is {job.where}: the next try of this task "
                "goes on waiting for it; where it stands still, look at the log of the trainer's worker"
            )
        time.sleep(poll)


def replay(*, dataset: str, hours: float, patience: float) -> Result:
    """Sends the newest hours of a data set to the sensor trainer as readings, an hour of the clock at a time.

    A reading that the trainer has already is a duplicate and changes nothing.
    """
    from mlops.sensor_trainer.replay import by_hour, examples, newest

    declared = datasets.get(dataset)
    trainer, raw = Trainer.from_environment(), DatasetFiles(data_bucket()).read(declared)
    rows = newest(raw.table, declared, hours, datetime.now(UTC))
    sent = accepted = duplicates = 0
    for hour in by_hour(rows, declared):
        for start in range(0, len(hour.readings), _BATCH):
            batch = hour.readings[start : start + _BATCH]
            new, known = patiently(partial(trainer.ingest, batch), patience)
            accepted, duplicates = accepted + new, duplicates + known
        sent += 1
        log.info("%s: %d readings sent, %d so far were new", hour.start, len(hour.readings), accepted)
    measure.count_records(accepted + duplicates)
    counts = {"hours": sent, "accepted": accepted, "duplicates": duplicates}
    return {**counts, **examples(rows, declared), **EventTimeShift(raw.shift_seconds).note}


def collect(*, patience: float) -> Result:
    """Brings the readings that were taken in since the last time beside the data set that has their columns.

    Skipped where there is none, and none that waits to be pushed, and where the release has no trainer. To repeat it,
    also where it ended half way, changes nothing.
    """
    from mlops.sensor_trainer.collected import rows_of
    from mlops.stores.collected_readings import CollectedReadings

    if not SensorTrainerSettings.from_environment().token:
        raise Skip("the release has no sensor trainer that readings could be collected from")
    trainer, store = Trainer.from_environment(), data_bucket()
    page = patiently(partial(trainer.readings, _LAST), patience)
    declared = datasets.get(page.dataset)
    collected = CollectedReadings(store, declared)
    last = collected.state().last_id
    if last > page.newest_id:
        log.warning("the trainer's newest reading has id %d, not %d: it has a new database", page.newest_id, last)
        last = 0
    read = added = 0
    shift = DatasetFiles(store).shift(declared).seconds
    while (page := patiently(partial(trainer.readings, last), patience)).readings:
        last = int(page.readings[-1]["id"])
        read += len(page.readings)
        measure.count_records(len(page.readings))
        added += collected.add(rows_of(page.readings, page.columns, declared), last, shift, datetime.now(UTC))
        log.info("%d readings, %d of them new, up to id %d", read, added, last)
    if not added and not collected.state().waits:
        raise Skip("the sensor trainer has taken in no reading since the last time")
    return {"dataset": declared.name, "readings": read, "added": added, "last_id": last}


def serve(*, host: str, port: int) -> Result:
    """Serves the sensor trainer's REST API."""
    from mlops.sensor_trainer.api import app

    app.serve(SensorApiSettings.from_environment(), host, port)
    return {}


def work() -> Result:
    """Works on the jobs of the queue, one after the other: what a pod of the workers does."""
    from mlops.sensor_trainer.worker import runner

    runner.work(SensorWorkerSettings.from_environment())
    return {}


def migrate(*, patience: float) -> Result:
    """Brings the tables of the sensor trainer to what this code expects; waits for PostgreSQL."""
    from mlops.sensor_trainer.store.database import upgrade

    upgrade(DatabaseSettings.from_environment(), patience)
    return {}


def _handed_over(submitted: Submitted) -> Result:
    job = submitted.job
    if submitted.others:
        log.warning("another training of the model is under way: no second one, job %s is followed", job.id)
    log.info("job %s: %s", job.id, job.where)
    return {"job_id": job.id, "state": job.state, "started_elsewhere": submitted.others}


def _outcome(job: JobReport) -> Result:
    if job.state == "skipped":
        raise Skip(f"job {job.id}: {job.error or 'there was nothing to do'}")
    if job.state != "succeeded":
        # A retry would find the same job as it is.
        step = f" at step {job.step}" if job.step else ""
        raise Refused(
            f"job {job.id} {'failed' if job.state == 'failed' else 'was cancelled'}{step} in attempt {job.attempt}: "
            f"{job.error or 'no cause was given'}. To train again, clear trigger_training: it asks for another job"
        )
    return {"job_id": job.id, "attempt": job.attempt, **job.result}


def _count(text: str) -> int | None:
    """A number that is not negative; None for an empty text or None, which a template makes of a parameter not set."""
    if not text or text == "None":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _patience_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--patience", type=float, default=_PATIENCE, metavar="SECONDS", help="how long to ask again (%(default)s)"
    )


def _trigger_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minimum-new-readings", type=_count, metavar="COUNT", help="fewer are not trained on (the trainer's setting)"
    )
    _patience_option(parser)


def _monitor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--job-id", required=True)
    parser.add_argument(
        "--patience", type=float, default=1800.0, metavar="SECONDS", help="how long the job may take (%(default)s)"
    )
    parser.add_argument("--poll", type=float, default=_POLL, metavar="SECONDS", help="between looks (%(default)s)")


def _replay_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--hours", type=float, default=24.0, help="of event time before the newest event (%(default)s)")
    _patience_option(parser)


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (%(default)s)")  # noqa: S104
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (%(default)s)")


def _migrate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--patience", type=float, default=300.0, metavar="SECONDS", help="how long to wait for PostgreSQL (%(default)s)"
    )


def _no_options(parser: argparse.ArgumentParser) -> None:
    pass


COMMANDS = {
    "check-mlflow": (check_mlflow, _patience_option),
    "check-trainer": (check_trainer, _patience_option),
    "trigger": (trigger, _trigger_options),
    "monitor": (monitor, _monitor_options),
    "collect": (collect, _patience_option),
    "replay": (replay, _replay_options),
    "serve": (serve, _serve_options),
    "work": (work, _no_options),
    "migrate": (migrate, _migrate_options),
}
