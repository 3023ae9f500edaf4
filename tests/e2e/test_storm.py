"""Each service is killed once in the midst of all work, while DAGs run again and again: nothing fails or is lost."""

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from infrastructure.local.config import PID_FILE
from infrastructure.release import wait_until
from infrastructure.sensors import COMPONENT, replay, trainer
from tests.e2e import features, sensors
from tests.e2e.disturb import KILLED, away, minute_away, reconnect, replaced
from tests.e2e.features import assert_users_are_served
from tests.e2e.runs import assert_trained_once, finished, pods, retry_now
from tests.e2e.sensors import assert_one_model, ended, reading, send
from tests.e2e.test_pipeline import DAG as PIPELINE
from tests.e2e.test_pipeline import MODEL

pytestmark = pytest.mark.alone
REPOSITORY = Path(__file__).resolve().parents[2]


class Work:
    """A DAG that runs again and again."""

    def __init__(self, services, dag_id, conf=None):
        self.services, self.dag_id, self.conf = services, dag_id, conf
        self.runs = []
        self.begin()

    def begin(self):
        self.runs.append(self.services.airflow.trigger(self.dag_id, self.conf))

    def under_way(self):
        """Whether a pod of the newest run runs. One that has ended well is followed by the next."""
        state = self.services.airflow.run(self.dag_id, self.runs[-1])["state"]
        assert state != "failed", f"{self.dag_id}, {self.runs[-1]}"
        if state == "success":
            self.begin()
        retry_now(self.services, self.runs[-1], self.dag_id)
        return bool(pods(self.runs[-1], phase="Running"))

    def end(self):
        """Waits for the newest run; each one before it ended well."""
        assert finished(self.services, self.runs[-1], self.dag_id, hurried=True) == "success", self.dag_id


@contextmanager
def mlflow_away_and_told_of():
    """What needs no MLflow goes on, and what does says that it is away."""
    with trainer() as api, away("mlflow"):
        answer = api.ask("GET", "/ready")
        assert (answer.status_code, answer.json()["redis"], answer.json()["postgresql"]) == (503, "ok", "ok")
        assert answer.json()["mlflow"] != "ok"
        assert send(api, reading()).status_code == 200
        yield


@contextmanager
def node_killed():
    if os.environ.get("CLUSTER", "local") != "local":
        pytest.skip("only the local node is ours to kill")
    subprocess.run(["kill", "-9", PID_FILE.read_text().split()[0]], check=True)
    began = time.monotonic()
    subprocess.run(["make", "cluster-up"], check=True, stdin=subprocess.DEVNULL, cwd=REPOSITORY)
    assert time.monotonic() - began < 90, "with everything built it takes half a minute"
    yield


KILLS = {
    "PostgreSQL": lambda: replaced("postgresql"),
    "Redis": lambda: replaced("redis", *KILLED),
    "the trainer's worker": lambda: replaced(f"{COMPONENT}-worker", *KILLED),
    "the trainer": lambda: replaced(COMPONENT, *KILLED),
    "the triggerer": lambda: replaced("airflow-triggerer", *KILLED),
    "MLflow": mlflow_away_and_told_of,
    "the scheduler": lambda: replaced("airflow-scheduler", *KILLED),
    "MinIO": lambda: minute_away("minio"),
    "the node": node_killed,
}


@pytest.fixture(scope="module")
def storm(services):
    """All work, under way until the last test, and readings that were accepted before each kill."""
    replay(48)
    features.flush()
    works = [Work(services, PIPELINE), Work(services, features.DAG)]
    works.append(Work(services, sensors.DAG, {"minimum_new_readings": 0}))
    return works, []


@pytest.mark.parametrize("service", KILLS)
def test_a_service_is_back_after_it_was_killed_in_the_midst_of_all_work(services, storm, service):
    works, readings = storm
    wait_until(lambda: all(list(map(Work.under_way, works))), 300, "a running pod of each DAG", 0.5)  # each is asked
    readings.append(reading())
    with trainer() as api:
        assert send(api, readings[-1]).json()["accepted"] == 1
    with KILLS[service]():
        pass
    reconnect(services)


def test_no_run_failed_and_nothing_was_made_twice_or_lost(services, storm):
    works, readings = storm
    for work in works:
        work.end()
    pipeline, materialization, training = works
    for run_id in pipeline.runs:
        assert_trained_once(services, run_id, PIPELINE, MODEL)
    assert materialization.runs
    assert_users_are_served(services)
    with trainer() as api:
        for run_id in training.runs:
            job_id = services.airflow.result(sensors.DAG, run_id, "trigger_training")["job_id"]
            assert_one_model(services, ended(api, job_id))
        assert send(api, *readings).json() == {"accepted": 0, "duplicates": len(readings)}
