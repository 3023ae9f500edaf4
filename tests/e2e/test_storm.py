"""Each service is killed once in the midst of all work, while DAGs run again and again: nothing fails or is lost."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from infrastructure.local.config import PID_FILE
from infrastructure.release import wait_until
from infrastructure.sensors import COMPONENT, replay, trainer
from tests.e2e import features, sensors
from tests.e2e.disturb import KILLED, away, reconnect, replaced
from tests.e2e.features import assert_users_are_served
from tests.e2e.runs import RUN_SECONDS, assert_trained_once, finished, found_pods, retry_now
from tests.e2e.sensors import assert_one_model, ended, reading, send
from tests.e2e.test_pipeline import DAG as PIPELINE
from tests.e2e.test_pipeline import MODEL

pytestmark = pytest.mark.alone
REPOSITORY = Path(__file__).resolve().parents[2]


class Work:
    """A DAG that runs again and again. runs: their ids, with what became of those that have ended."""

    def __init__(self, services, dag_id, conf=None):
        self.services, self.dag_id, self.conf = services, dag_id, conf
        self.runs = {}
        self.begin()

    def begin(self):
        self.newest = self.services.airflow.trigger(self.dag_id, self.conf)

    def under_way(self):
        """Whether the newest run has a pod, which runs or is about to. A run that has ended is followed by the next."""
        state = self.services.airflow.run(self.dag_id, self.newest)["state"]
        if state in ("success", "failed"):
            self.runs[self.newest] = state
            self.begin()
        retry_now(self.services, self.newest, self.dag_id)
        return any(pod.status.phase in ("Pending", "Running") for pod in found_pods(self.newest))

    def end(self):
        """Waits for the newest run."""
        self.runs[self.newest] = finished(self.services, self.newest, self.dag_id, hurried=True)


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
    subprocess.run(["make", "cluster-up"], check=True, stdin=subprocess.DEVNULL, cwd=REPOSITORY)
    yield


KILLS = {
    "PostgreSQL": lambda: replaced("postgresql"),
    "Redis": lambda: replaced("redis", *KILLED),
    "the trainer's worker": lambda: replaced(f"{COMPONENT}-worker", *KILLED),
    "the trainer": lambda: replaced(COMPONENT, *KILLED),
    "the triggerer": lambda: replaced("airflow-triggerer", *KILLED),
    "MLflow": mlflow_away_and_told_of,
    "the scheduler": lambda: replaced("airflow-scheduler", *KILLED),
    "MinIO": lambda: replaced("minio", *KILLED),
    "the node": node_killed,
}


@pytest.fixture(scope="module")
def storm(services):
    """All work, under way until the last test, and readings that were accepted before each kill."""
    features.flush()
    works = [Work(services, PIPELINE), Work(services, features.DAG)]
    replay(48)
    works.append(Work(services, sensors.DAG, {"minimum_new_readings": 0}))
    return works, []


@pytest.mark.parametrize("service", KILLS)
def test_a_service_is_back_after_it_was_killed_in_the_midst_of_all_work(services, storm, service):
    works, readings = storm
    # Each is asked. One of the schedule may go before.
    wait_until(lambda: all(list(map(Work.under_way, works))), RUN_SECONDS, "a pod of each DAG", 0.5)
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
    pipeline, _, training = works
    assert {run_id: state for work in works for run_id, state in work.runs.items() if state != "success"} == {}
    for run_id in pipeline.runs:
        assert_trained_once(services, run_id, PIPELINE, MODEL)
    assert_users_are_served(services)
    with trainer() as api:
        for run_id in training.runs:
            job_id = services.airflow.result(sensors.DAG, run_id, "trigger_training")["job_id"]
            assert_one_model(services, ended(api, job_id))
        assert send(api, *readings).json() == {"accepted": 0, "duplicates": len(readings)}
