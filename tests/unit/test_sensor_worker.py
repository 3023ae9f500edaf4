"""Workers as processes, with a real PostgreSQL and a real Redis, any of which may be killed while a job runs."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from mlflow import MlflowClient
from redis import Redis as Client
from rq import Callback, Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from mlops.config import DatabaseSettings, MLflowSettings, SensorSettings
from mlops.result import Failure
from mlops.sensor_trainer.store import database as of_database
from mlops.sensor_trainer.store import heartbeat
from mlops.sensor_trainer.store import jobs as of_jobs
from mlops.sensor_trainer.store.database import open_pool
from mlops.sensor_trainer.store.errors import AccessDenied, Unavailable
from mlops.sensor_trainer.store.jobs import AnotherRuns, Jobs
from mlops.sensor_trainer.store.queue import FUNCTION, JobQueue, hand_over
from mlops.sensor_trainer.store.readings import NewReading, Readings
from mlops.sensor_trainer.worker import runner
from tests.conftest import ROOT, eventually
from tests.servers import PASSWORD, PostgreSQL, Redis
from tests.unit.sensor_api import told
from tests.unit.sensor_servers import migrated_database

MODEL = "sensor-clusters"
START = datetime(2026, 1, 1, tzinfo=UTC)
READINGS = 10


@pytest.fixture(scope="module")
def postgresql_of_jobs(run_folder):
    with PostgreSQL(run_folder) as server:
        yield server


@pytest.fixture(scope="module")
def redis(run_folder):
    with Redis(run_folder) as server:
        yield server


class Trainer:
    """The trainer without its API: its stores, its sweep, and its workers."""

    def __init__(self, settings, folder, servers):
        self.settings, self.folder = settings, folder
        self.postgresql, self.redis = servers
        self.pool = open_pool(settings.database)
        self.jobs, self.queue, self.readings = Jobs(self.pool), JobQueue(settings.redis), Readings(self.pool)
        self.workers = []

    def start_worker(self):
        environment = {
            **os.environ,
            **told(self.settings),
            "SENSOR_TEST_FOLDER": str(self.folder),
        }
        with (self.folder / "worker.log").open("ab") as log:
            command = [sys.executable, "-m", "tests.unit.sensor_worker"]
            started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.workers.append(started)
        return started

    def submit(self, key="key", **request):
        job, _ = self.jobs.submit(MODEL, key, request)
        self.sweep()
        return job.id

    def sweep(self):
        with suppress(Failure):
            hand_over(self.jobs, self.queue)

    def heard_of(self, job_id):
        """When the worker of a job last said that it is at it."""
        with self.pool.connection() as connection:
            found = connection.execute("select heartbeat from sensors.training_jobs where id = %s", (job_id,))
            return found.fetchone()[0]

    def lease_ends(self, job_id):
        """As if all who said nothing just now had said nothing for the time of a lease: nobody runs the job any more.

        The trainer's own lease is so long that a busy machine does not let one end.
        """
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(of_jobs, "LEASE", 0.0)
            eventually(lambda: job_id in self.jobs.to_hand_over() or self.jobs.get(job_id).state == "failed")

    def becomes(self, job_id, *states, timeout=240):
        """The job, when it is in one of these states; meanwhile the sweep goes on."""

        def there():
            self.sweep()
            try:
                return self.jobs.get(job_id).state in states
            except Failure:
                return False

        try:
            eventually(there, timeout)
        except AssertionError:
            pytest.fail(f"{self.jobs.get(job_id)}\n{(self.folder / 'worker.log').read_text()[-5000:]}")
        return self.jobs.get(job_id)

    def trains(self, job_id, attempt=1):
        """The process that trains, when it has begun this attempt."""

        def begun():
            self.sweep()
            found = self.jobs.get(job_id)
            return (found.attempt, found.step) == (attempt, "waiting") and (self.folder / "training").exists()

        try:
            eventually(begun)
        except AssertionError:
            pytest.fail(f"{self.jobs.get(job_id)}\n{(self.folder / 'worker.log').read_text()[-5000:]}")
        return int((self.folder / "training").read_text())

    def let_go(self):
        (self.folder / "go").touch()

    @property
    def versions(self):
        return sorted(path.name for path in self.folder.glob("version-*"))

    @property
    def published(self):
        return (self.folder / "published").read_text().split()

    def close(self):
        self.let_go()
        for each in self.workers:
            each.kill()
            each.wait()
        self.pool.close()


@pytest.fixture
def trainer(postgresql_of_jobs, redis, tmp_path):
    url = migrated_database(postgresql_of_jobs.url)
    redis_there = redis.settings("queue")
    stores = (DatabaseSettings(url), redis_there, MLflowSettings("http://127.0.0.1:9"))
    settings = SensorSettings(*stores, minimum_new_readings=str(READINGS))
    made = Trainer(settings, tmp_path, (postgresql_of_jobs, redis))
    redis.client.flushall()
    made.readings.ingest(
        [
            NewReading(str(number), "shuttle", START + timedelta(minutes=number), [1.0] * 9, None)
            for number in range(READINGS)
        ]
    )
    yield made
    made.close()


def test_a_job_is_run_to_its_result(trainer):
    trainer.start_worker()
    trainer.let_go()
    job_id = trainer.submit()
    job = trainer.becomes(job_id, "succeeded", "failed")
    assert (job.state, job.attempt, job.progress, job.error) == ("succeeded", 1, 1, None)
    assert job.result == {
        "run_id": str(job_id),
        "metrics": {"auc": None},
        "clusters": 9,
        "readings": READINGS,
        "new_readings": READINGS,
        "newest_reading": trainer.readings.newest_id(),
        "model_version": f"version-{job_id}",
        "served_version": f"version-{job_id}",
        "served": True,
        "reason": "it is the first",
    }
    second = trainer.becomes(trainer.submit("second"), "skipped", "failed", "succeeded")
    assert second.state == "skipped"
    assert second.result == {"new_readings": 0, "minimum_new_readings": READINGS}
    assert second.error.startswith("0 new readings, 10 are needed")
    third = trainer.becomes(trainer.submit("third", minimum_new_readings=0), "skipped", "failed", "succeeded")
    assert third.state == "succeeded"


def test_a_worker_that_is_killed_while_it_trains_loses_nothing(trainer):
    first = trainer.start_worker()
    job_id = trainer.submit()
    training = trainer.trains(job_id)
    first.kill()
    os.kill(training, signal.SIGKILL)
    trainer.lease_ends(job_id)
    trainer.start_worker()
    trainer.trains(job_id, attempt=2)
    trainer.let_go()
    job = trainer.becomes(job_id, "succeeded", "failed")
    assert (job.state, job.attempt) == ("succeeded", 2)
    assert trainer.versions == [f"version-{job_id}"]


def test_a_worker_whose_parent_alone_is_killed_brings_its_job_to_its_end(trainer):
    first = trainer.start_worker()
    job_id = trainer.submit()
    trainer.trains(job_id)
    first.kill()
    trainer.start_worker()
    trainer.let_go()
    job = trainer.becomes(job_id, "succeeded", "failed")
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert trainer.versions == [f"version-{job_id}"]


def test_five_deaths_of_the_training_process_fail_the_job_and_the_worker_goes_on(trainer):
    trainer.start_worker()
    job_id = trainer.submit()
    for attempt in range(1, 6):
        os.kill(trainer.trains(job_id, attempt), signal.SIGKILL)
        (trainer.folder / "training").unlink()
        trainer.lease_ends(job_id)
    job = trainer.becomes(job_id, "failed", "succeeded")
    assert job.state == "failed"
    assert job.error.startswith('attempt 5 of 5 ended without a word after the step "waiting"')
    assert trainer.versions == []
    trainer.let_go()
    assert trainer.becomes(trainer.submit("next"), "succeeded", "failed").state == "succeeded"


def test_redis_killed_while_a_job_trains_changes_nothing(trainer):
    process = trainer.start_worker()
    job_id = trainer.submit()
    trainer.trains(job_id)
    trainer.redis.restart()
    trainer.let_go()
    job = trainer.becomes(job_id, "succeeded", "failed")
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert trainer.becomes(trainer.submit("next", minimum_new_readings=0), "succeeded").attempt == 1
    assert process.poll() is None


def test_a_job_ends_while_redis_is_away_and_the_next_is_run_when_it_is_back(trainer):
    process = trainer.start_worker()
    job_id = trainer.submit()
    trainer.trains(job_id)
    trainer.redis.kill()
    trainer.let_go()
    assert trainer.becomes(job_id, "succeeded", "failed").state == "succeeded"
    next_id = trainer.submit("next", minimum_new_readings=0)
    assert trainer.jobs.get(next_id).state == "queued"
    trainer.redis.start()
    assert trainer.becomes(next_id, "succeeded", "failed").state == "succeeded"
    assert process.poll() is None


def test_a_job_that_redis_lost_is_handed_over_again(trainer):
    job_id = trainer.submit()
    assert trainer.queue.waiting() == 1
    trainer.redis.client.flushall()
    trainer.lease_ends(job_id)
    trainer.start_worker()
    trainer.let_go()
    assert trainer.becomes(job_id, "succeeded", "failed").state == "succeeded"


def test_a_worker_runs_the_one_function_whatever_is_put_into_the_queue_and_says_so(trainer):
    """By who has the password of the queue, with RQ itself: another function, and ours with more to be called."""
    theirs = Client(port=trainer.redis.port, db=1, username="queue", password=PASSWORD)
    queue = Queue("training", connection=theirs, serializer=JSONSerializer)
    made = trainer.folder / "made-by-the-queue"
    command = f"touch {made}"
    callback, ours = Callback("os.system"), {"job_id": "not-a-uuid_0"}
    for number, foreign in enumerate(
        (
            {"func": "os.system", "args": (command,)},
            {"func": "os.system", "args": (command,), "job_id": f"{uuid4()}_0"},
            {"func": FUNCTION, "args": (str(uuid4()),), "job_id": f"{uuid4()}_0"},
            {"func": FUNCTION, "args": ("no id",), **ours},
        )
    ):
        queue.enqueue_call(**{"job_id": f"foreign-{number}", **foreign}, on_failure=callback, on_success=callback)
    # What is ours but for what is called at its end, and where its end is told.
    job_id = trainer.submit()
    key = Job.key_for(f"{job_id}_0")
    called = {f"{when}_callback_name": "shutil.rmtree" for when in ("success", "failure", "stopped")}
    asked = {"url": "http://127.0.0.1:9/told", "job_status": "finished"}
    theirs.hset(key, mapping={**called, "webhooks": json.dumps([asked]), "dependency_ids": '["foreign-0"]'})
    trainer.let_go()
    trainer.start_worker()
    assert trainer.becomes(job_id, "succeeded", "failed").state == "succeeded"
    said = (trainer.folder / "worker.log").read_text()
    eventually(lambda: queue.count == 0)
    assert not made.exists()
    assert said.count("is no training job and does not run") >= 4
    assert "os.system" in said and "change it" in said
    assert "rmtree" not in said and "/told" not in said


def test_postgresql_restarted_while_a_job_trains_costs_no_attempt(trainer):
    trainer.start_worker()
    job_id = trainer.submit()
    trainer.trains(job_id)
    trainer.postgresql.restart()
    trainer.let_go()
    job = trainer.becomes(job_id, "succeeded", "failed")
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert trainer.versions == [f"version-{job_id}"]


def test_postgresql_restarted_while_a_job_publishes_makes_one_version(trainer):
    trainer.start_worker()
    job_id = trainer.submit()
    (trainer.folder / "hold").touch()
    trainer.let_go()
    eventually(lambda: bool(trainer.versions))
    trainer.postgresql.restart()
    (trainer.folder / "hold").unlink()
    job = trainer.becomes(job_id, "succeeded", "failed")
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert trainer.published == [str(job_id), str(job_id)]
    assert trainer.versions == [f"version-{job_id}"]


def test_a_worker_killed_while_it_publishes_makes_one_version(trainer):
    first = trainer.start_worker()
    job_id = trainer.submit()
    training = trainer.trains(job_id)
    (trainer.folder / "hold").touch()
    trainer.let_go()
    eventually(lambda: bool(trainer.versions))
    first.kill()
    os.kill(training, signal.SIGKILL)
    (trainer.folder / "hold").unlink()
    trainer.lease_ends(job_id)
    trainer.start_worker()
    job = trainer.becomes(job_id, "succeeded", "failed")
    assert (job.state, job.attempt) == ("succeeded", 2)
    assert trainer.published == [str(job_id), str(job_id)]
    assert trainer.versions == [f"version-{job_id}"]


def test_of_two_workers_one_runs_the_job(trainer):
    trainer.start_worker()
    trainer.start_worker()
    job_id = trainer.submit()
    # Handed over once more than there are workers, as two APIs that sweep at once may do.
    trainer.queue.enqueue(job_id, 1)
    trainer.queue.enqueue(job_id, 2)
    trainer.trains(job_id)
    eventually(lambda: trainer.queue.waiting() == 0)
    with pytest.raises(AnotherRuns):
        trainer.submit("another")
    # Work that has nothing to report is still its worker's, who says so again and again.
    (trainer.folder / "quiet").touch()
    for _ in range(2):
        last = trainer.heard_of(job_id)
        eventually(lambda last=last: trainer.heard_of(job_id) > last)
    trainer.let_go()
    assert trainer.becomes(job_id, "succeeded", "failed").attempt == 1
    assert trainer.published == [str(job_id)]


def test_a_job_that_is_cancelled_while_it_trains_stops_and_the_worker_goes_on(trainer):
    trainer.start_worker()
    job_id = trainer.submit()
    trainer.trains(job_id)
    assert trainer.jobs.request_cancel(job_id).state == "running"
    assert trainer.becomes(job_id, "cancelled", "succeeded").state == "cancelled"
    assert trainer.versions == []
    trainer.let_go()
    assert trainer.becomes(trainer.submit("next"), "succeeded", "failed").state == "succeeded"


def test_a_job_that_is_cancelled_while_it_waits_is_not_run(trainer):
    job_id = trainer.submit()
    assert trainer.jobs.request_cancel(job_id).state == "cancelled"
    trainer.start_worker()  # what waits in Redis is of no use any more
    trainer.let_go()
    assert trainer.becomes(trainer.submit("next"), "succeeded", "failed").state == "succeeded"
    assert trainer.published == [str(trainer.jobs.submit(MODEL, "next", {})[0].id)]


def test_a_failure_that_may_pass_is_tried_again(trainer):
    trainer.start_worker()
    (trainer.folder / "fail").write_text("MLflow is away")
    job_id = trainer.submit()
    eventually(lambda: trainer.jobs.get(job_id).error == "MLflow is away")
    trainer.lease_ends(job_id)
    trainer.trains(job_id, attempt=2)
    trainer.let_go()
    job = trainer.becomes(job_id, "succeeded", "failed")
    assert (job.state, job.attempt) == ("succeeded", 2)


def test_a_role_without_permission_is_the_cause_of_the_failure(trainer):
    role = trainer.settings.database.url.rpartition("/")[2]
    with psycopg.connect(trainer.settings.database.url) as connection:
        connection.execute("revoke select on sensors.readings from current_user")
    trainer.start_worker()
    job = trainer.becomes(trainer.submit(), "failed", "succeeded")
    assert job.state == "failed"
    assert f"refuses role {role} (permission denied for table readings)" in job.error
    assert job.attempt == 1


def test_sigterm_lets_the_job_come_to_its_end(trainer):
    process = trainer.start_worker()
    job_id = trainer.submit()
    trainer.trains(job_id)
    process.terminate()
    trainer.let_go()
    assert process.wait(240) == 0
    job = trainer.jobs.get(job_id)
    assert (job.state, job.attempt) == ("succeeded", 1)


def test_a_worker_without_redis_waits_for_it_and_ends_at_sigterm(trainer):
    trainer.redis.kill()
    process = trainer.start_worker()
    log = trainer.folder / "worker.log"
    eventually(lambda: "the worker waits for Redis" in log.read_text())
    process.terminate()
    assert process.wait(240) == 0
    trainer.redis.start()


def set_environment(monkeypatch, settings):
    for key, value in told(settings).items():
        monkeypatch.setenv(key, value)


def test_the_window_ends_where_the_request_says(trainer, monkeypatch):
    set_environment(monkeypatch, replace(trainer.settings, minimum_new_readings="3"))
    job_id = trainer.submit(until=(START + timedelta(minutes=1)).isoformat())
    runner.run_job(str(job_id))
    job = trainer.jobs.get(job_id)
    assert (job.state, job.result) == ("skipped", {"new_readings": 2, "minimum_new_readings": 3})
    runner.run_job(str(job_id))  # handed over twice: nothing more happens
    assert trainer.jobs.get(job_id) == job


def test_the_window_never_ends_after_the_newest_reading(trainer):
    newest = START + timedelta(minutes=READINGS - 1)
    asked = {"a": None, "b": START, "c": newest + timedelta(days=1)}
    for key, (until, new) in zip(asked, [(newest, READINGS), (START, 1), (newest, READINGS)], strict=True):
        request = {} if asked[key] is None else {"until": asked[key].isoformat()}
        job, _ = trainer.jobs.submit(key, key, request)
        assert runner._news(job, 30, trainer.jobs, trainer.readings) == (until - timedelta(days=30), until, new)


def test_readings_of_other_columns_than_the_data_set_s_fail_the_job_with_the_remedy(trainer, monkeypatch):
    set_environment(monkeypatch, trainer.settings)
    with psycopg.connect(trainer.settings.database.url) as connection:
        connection.execute("update sensors.readings set \"values\" = '{1, 2}'")
    job_id = trainer.submit()
    runner.run_job(str(job_id))
    job = trainer.jobs.get(job_id)
    assert (job.state, job.attempt) == ("failed", 1)
    assert "check sensorTrainer.dataset" in job.error


def test_a_fault_of_the_code_fails_the_job_at_once_with_its_kind(trainer, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise IndexError("no such column")

    set_environment(monkeypatch, trainer.settings)
    monkeypatch.setattr("mlops.sensor_trainer.worker.training.train", broken)
    job_id = trainer.submit()
    runner.run_job(str(job_id))
    job = trainer.jobs.get(job_id)
    assert (job.state, job.attempt, job.error) == ("failed", 1, "IndexError: no such column")


def test_postgresql_is_asked_again_while_it_is_away_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(runner, "_PAUSE", 0.0)
    answers: list[Exception] = [Unavailable("postgresql", "away"), Unavailable("postgresql", "away")]

    def ask() -> str:
        if answers:
            raise answers.pop()
        return "an answer"

    assert runner.patiently(ask) == "an answer"
    answers[:] = [AccessDenied("postgresql", "not allowed")]
    with pytest.raises(AccessDenied):
        runner.patiently(ask)
    monkeypatch.setattr(runner, "_PATIENCE", 0.0)
    answers[:] = [Unavailable("postgresql", "away")] * 1_000
    with pytest.raises(Unavailable):
        runner.patiently(ask)
    assert answers


def test_a_worker_waits_for_postgresql_for_longer_than_a_lease():
    assert runner._PATIENCE > of_jobs.LEASE > 3 * heartbeat._EVERY, "one heartbeat may be missed, and another"


def test_without_any_reading_there_is_nothing_to_train(trainer, monkeypatch):
    set_environment(monkeypatch, trainer.settings)
    with psycopg.connect(trainer.settings.database.url) as connection:
        connection.execute("delete from sensors.readings")
    job_id = trainer.submit(minimum_new_readings=0)
    runner.run_job(str(job_id))
    job = trainer.jobs.get(job_id)
    assert (job.state, job.result["new_readings"]) == ("skipped", 0)


def test_a_real_model_is_trained_and_found_again(trainer, mlflow_uri, monkeypatch):
    set_environment(monkeypatch, replace(trainer.settings, mlflow=MLflowSettings.from_environment()))
    random = np.random.default_rng(7)
    middles = np.where(np.arange(1_000)[:, None] % 10 == 0, 8.0, 0.0) + random.normal(size=(1_000, 9))
    trainer.readings.ingest(
        [
            NewReading(f"real-{row}", "shuttle", START + timedelta(seconds=row), values.tolist(), row % 10 == 0)
            for row, values in enumerate(middles)
        ]
    )
    job_id = trainer.submit()
    runner.run_job(str(job_id))
    job = trainer.jobs.get(job_id)
    assert job.state == "succeeded", job
    assert (job.result["new_readings"], job.result["newest_reading"]) == (
        1_000 + READINGS,
        trainer.readings.newest_id(),
    )
    assert job.result["served"]
    assert job.result["metrics"]["clusters"] == job.result["clusters"]
    assert [version.run_id for version in MlflowClient(mlflow_uri).search_model_versions(f"name = '{MODEL}'")] == [
        job.result["run_id"]
    ]


def test_the_function_that_the_queue_names_is_there():
    from rq.utils import import_attribute

    from mlops.sensor_trainer.store.queue import FUNCTION

    assert import_attribute(FUNCTION) is runner.run_job
    assert Path(runner.__file__).is_relative_to(ROOT)


def test_patience_with_postgresql_is_of_all_attempts_together(clock, monkeypatch):
    def away(*_: object) -> None:
        raise Unavailable("postgresql", "away")

    monkeypatch.setattr(of_database, "_migrate", away)
    for ask in (lambda: runner.patiently(away), lambda: of_database.upgrade(None, 60)):
        clock.pauses.clear()
        with pytest.raises(Unavailable):
            ask()
        assert sum(clock.pauses) == pytest.approx(60, abs=2)
