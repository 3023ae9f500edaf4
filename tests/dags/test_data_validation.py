"""The DAG that watches the newest rows, as Airflow sees it."""

from datetime import timedelta
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG

from mlops import datasets
from mlops.airflow.authoring.alerts import deadline_missed, task_broke
from mlops.airflow.authoring.schedule import cron

DAGS = Path(__file__).parents[2] / "dags"


@pytest.fixture(scope="module")
def dag() -> DAG:
    found: DAG = DagBag(DAGS).dags["data_validation_pipeline"]
    return found


def test_the_checks_run_in_order_and_the_report_after_all(dag: DAG) -> None:
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == {
        "select_window": {"validate_schema"},
        "validate_schema": {"check_quality"},
        "check_quality": {"detect_drift", "detect_anomalies"},
        "detect_drift": {"generate_report"},
        "detect_anomalies": {"generate_report"},
        "generate_report": set(),
    }


def test_only_the_report_is_made_whatever_failed_before_it(dag: DAG) -> None:
    rules = {task.task_id: task.trigger_rule.value for task in dag.tasks}
    assert rules.pop("generate_report") == "all_done"
    assert set(rules.values()) == {"all_success"}


def test_it_looks_every_six_hours_and_is_late_after_a_quarter(dag: DAG) -> None:
    assert dag.schedule == cron("0 */6 * * *")
    (alert,) = dag.deadline
    assert alert.interval == timedelta(minutes=15)
    assert alert.callback.path == f"{deadline_missed.__module__}.{deadline_missed.__qualname__}"
    assert dag.max_active_runs == 1


def test_the_dataset_can_be_any_that_is_declared(dag: DAG) -> None:
    dataset = dag.params.get_param("dataset")
    assert dataset.value == "shuttle"
    assert dataset.schema["enum"] == datasets.names()


def test_a_refused_task_raises_no_alert_of_its_own(dag: DAG) -> None:
    """The report tells of it once a window; every six hours again would be noise."""
    assert {tuple(task.on_failure_callback) for task in dag.tasks} == {(task_broke,)}
