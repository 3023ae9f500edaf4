"""The DAG that watches Airflow, as Airflow sees it."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG

from mlops.airflow.authoring.schedule import cron

DAGS = Path(__file__).parents[2] / "dags"
ORDER = ["check_dag_runs", "check_task_failures", "check_scheduler_health", "generate_health_report", "send_alerts"]


@pytest.fixture(scope="module")
def dag() -> DAG:
    found: DAG = BundleDagBag(DAGS, bundle_path=DAGS, bundle_name="dags").dags["monitoring_dag"]
    return found


def test_its_steps_run_one_after_the_other(dag: DAG) -> None:
    assert [task.task_id for task in dag.topological_sort()] == ORDER
    for first, second in pairwise(ORDER):
        assert dag.get_task(first).downstream_task_ids == {second}


def test_a_check_that_breaks_keeps_no_other_one_and_no_report_from_being_made(dag: DAG) -> None:
    rules = [dag.get_task(name).trigger_rule.value for name in ORDER]
    assert rules == ["all_done"] * 4 + ["all_success"]


def test_it_looks_every_hour_and_is_done_before_the_next_one(dag: DAG) -> None:
    assert dag.schedule == cron("0 * * * *")
    (alert,) = dag.deadline
    assert alert.interval < timedelta(hours=1)
    assert dag.max_active_runs == 1


def test_the_alerts_are_of_the_report_of_the_same_run(dag: DAG) -> None:
    (argument,) = dag.get_task("send_alerts").arguments[5:]
    assert argument == "--report-json={{ ti.xcom_pull(task_ids='generate_health_report')['report_json'] }}"
