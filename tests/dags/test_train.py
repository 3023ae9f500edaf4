"""The hourly training of the sensor model: its order, its retries, and how a run shows a training that was skipped."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG, DeadlineReference  # type: ignore[attr-defined]

from mlops.airflow.authoring.alerts import task_failed
from mlops.airflow.authoring.operator import PodTask
from mlops.airflow.authoring.schedule import cron
from mlops.cli import parser
from tests.dags.conftest import Printed

ROOT = Path(__file__).parents[2]
FILE = ROOT / "dags/train.py"
ORDER = ["check_mlflow_health", "check_trainer_health", "trigger_training", "monitor_training"]

# What the pods hand back is the test's; the rest is Airflow's own machinery.
RUN = """
import json, sys
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk.exceptions import AirflowSkipException
from mlops.airflow.authoring.operator import PodTask

asked = {}

def execute(self, context):
    asked.setdefault(self.task_id, []).append(self.arguments[3:])
    if self.task_id == "monitor_training" and len(asked[self.task_id]) == 2:
        raise AirflowSkipException("12 new readings, 500 are wanted")
    return {"job_id": "j1"}

PodTask.execute = execute
dag = BundleDagBag(sys.argv[1], bundle_path=sys.argv[2], bundle_name="dags").dags["train_clustering_model"]
dag.deadline = None  # dag.test() of Airflow 3.3 cannot store one
outcome = []
for conf in ({}, {"minimum_new_readings": 0}):
    run = dag.test(run_conf=conf)
    outcome.append([str(run.state), {ti.task_id: str(ti.state) for ti in run.get_task_instances()}])
print(json.dumps({"runs": outcome, "asked": asked}))
"""


@pytest.fixture(scope="module")
def dag() -> DAG:
    found: DAG = BundleDagBag(FILE, bundle_path=FILE.parent, bundle_name="dags").dags["train_clustering_model"]
    return found


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, printed_in_its_own_airflow: Printed) -> dict[str, dict]:
    """How two runs ended, the second with a training that was skipped, and what each pod was asked for."""
    return printed_in_its_own_airflow(tmp_path_factory.mktemp("airflow"), FILE.parent, RUN, str(FILE), str(FILE.parent))


def test_health_is_asked_before_work_is_sent_and_each_step_is_a_pod(dag: DAG) -> None:
    assert [task.task_id for task in dag.topological_sort()] == ORDER
    for first, second in pairwise(ORDER):
        assert dag.get_task(first).downstream_task_ids == {second}
    assert all(isinstance(task, PodTask) for task in dag.tasks)


def test_it_runs_every_hour_by_itself_and_never_twice_at_once(dag: DAG) -> None:
    assert dag.schedule == cron("@hourly")
    assert (dag.catchup, dag.is_paused_upon_creation, dag.max_active_runs) == (False, False, 1)
    assert dag.tags == {"sensor", "ml", "training"}


def test_a_failed_step_is_tried_three_times_more_with_30_s_between(dag: DAG) -> None:
    for task in dag.tasks:
        assert (task.retries, task.retry_delay, task.retry_exponential_backoff) == (3, timedelta(seconds=30), 1.0)
        assert task.on_failure_callback == [task_failed] or task.on_failure_callback is task_failed


def test_a_late_run_is_told_of_before_the_next_is_due(dag: DAG) -> None:
    (alert,) = dag.deadline
    assert (alert.interval, alert.reference) == (timedelta(minutes=50), DeadlineReference.DAGRUN_QUEUED_AT)


def test_a_command_gives_up_before_its_task_does(dag: DAG) -> None:
    """Its own words say what was waited for; Airflow's only that it took too long."""
    for task in dag.tasks:
        options = vars(parser().parse_args([argument.replace("{{", "").split("}}")[0] for argument in given(task)]))
        assert timedelta(seconds=options["patience"]) < task.execution_timeout, task


def given(task: PodTask) -> list[str]:
    return [argument for argument in task.arguments[3:] if not argument.startswith("--minimum-new-readings")]


def test_each_pod_is_asked_with_what_the_one_before_it_handed_back(outcome: dict[str, dict]) -> None:
    asked = outcome["asked"]
    assert asked["trigger_training"] == [
        ["sensor-trainer", "trigger", "--minimum-new-readings=None"],
        ["sensor-trainer", "trigger", "--minimum-new-readings=0"],
    ]
    assert asked["monitor_training"][0] == ["sensor-trainer", "monitor", "--job-id=j1", "--patience=1800"]
    for arguments in (line for lines in asked.values() for line in lines):
        parser().parse_args(arguments)


def test_a_training_that_was_skipped_shows_as_skipped_and_fails_no_run(outcome: dict[str, dict]) -> None:
    (first, states), (second, skipped) = outcome["runs"]
    assert (first, set(states.values())) == ("success", {"success"})
    assert second == "success"
    assert skipped.pop("monitor_training") == "skipped"
    assert set(skipped.values()) == {"success"}


def test_what_dags_share_is_not_taken_for_dags() -> None:
    bag = BundleDagBag(FILE.parent, bundle_path=FILE.parent, bundle_name="dags")
    assert bag.import_errors == {}
    assert not [path for path in bag.file_last_changed if "utils" in path]
