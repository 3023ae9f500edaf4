"""The DAG that scores what is delivered, as Airflow sees it, and the wait for a delivery, on a real store."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSensorTimeout

from mlops.airflow.authoring.arrival import DataDelivered
from mlops.airflow.authoring.operator import PodTask
from mlops.airflow.platform import Platform
from tests.conftest import ACCESS_KEY, SECRET_KEY

DAGS = Path(__file__).parents[2] / "dags"
MARKER = "inbox/2026-03-01/_READY"


@pytest.fixture(scope="module")
def dag() -> DAG:
    found: DAG = DagBag(DAGS).dags["ml_pipeline"]
    return found


def test_the_steps_run_in_their_order(dag: DAG) -> None:
    order = ["wait_for_data", "ingest_data", "preprocess_data", "run_inference", "evaluate_results", "generate_report"]
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == {
        step: set(order[place + 1 : place + 2]) for place, step in enumerate(order)
    }
    assert (dag.max_active_runs, dag.max_active_tasks) == (1, 4)


def test_each_step_is_tried_again_after_a_while_but_for_the_report(dag: DAG) -> None:
    assert {task.task_id: task.retries for task in dag.tasks} == {
        **dict.fromkeys([task.task_id for task in dag.tasks], 2),
        "generate_report": 0,
    }
    assert all(task.retry_delay == timedelta(minutes=1) for task in dag.tasks)


def test_the_wait_holds_no_slot_and_ends(dag: DAG) -> None:
    wait = dag.get_task("wait_for_data")
    assert isinstance(wait, DataDelivered)
    assert (wait.mode, wait.poke_interval, wait.timeout) == ("reschedule", 300, 7200)


def test_partitions_are_scored_in_pods_of_their_own_four_at_once(dag: DAG) -> None:
    score: Any = dag.get_task("run_inference")
    assert (score.max_active_tis_per_dagrun, score.pool, score.operator_class) == (4, "inference", PodTask)
    assert {task.task_id for task in dag.tasks if task.trigger_rule == "none_failed"} == {"evaluate_results"}


def rendered(dag: DAG, **fields: Any) -> str:
    params = {name: dag.params.get_param(name).value for name in dag.params} | fields.pop("params", {})
    wait: Any = dag.get_task("wait_for_data")
    run = SimpleNamespace(logical_date=None, run_after=datetime(2026, 3, 2, tzinfo=UTC), **fields)
    text: str = wait.render_template(wait.marker, {"params": params, "dag_run": run})
    return text


def test_the_marker_is_that_of_the_day_unless_another_is_asked_for(dag: DAG) -> None:
    assert rendered(dag) == "inbox/2026-03-02/_READY", "a run that was triggered need not have a logical date"
    assert rendered(dag, params={"marker": "in/x/_READY"}) == "in/x/_READY"


# The wait, on a real store.


@pytest.fixture
def bucket(
    s3_endpoint: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Any]:
    """The data bucket, with the connection of Airflow to it."""
    import json
    import uuid

    name = f"data-{uuid.uuid4().hex[:12]}"
    extra = {"endpoint_url": s3_endpoint, "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": ACCESS_KEY, "password": SECRET_KEY, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    monkeypatch.setattr(Platform, "load", lambda: SimpleNamespace(data_bucket=name))
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": "us-east-1"}
    found = boto3.resource("s3", endpoint_url=s3_endpoint, **keys).Bucket(name)
    found.create()
    return found


def wait(marker: str = MARKER, started: datetime | None = None, **options: Any) -> None:
    task = DataDelivered(task_id="wait_for_data", marker=marker, **options)
    ti = SimpleNamespace(get_first_reschedule_date=lambda _: started)
    task.execute({"ti": ti})


@pytest.mark.parametrize("key", [MARKER, "done/2026-03-01/_READY"], ids=["delivered", "scored before"])
def test_a_marker_that_is_there_is_not_waited_for(bucket: Any, key: str) -> None:
    bucket.put_object(Key=key, Body=b"")
    wait()


def test_one_that_is_not_is_looked_for_again_in_five_minutes_without_holding_a_slot(bucket: Any) -> None:
    bucket.put_object(Key="inbox/2026-03-01/part-0.parquet", Body=b"")
    with pytest.raises(AirflowRescheduleException) as raised:
        wait()
    assert timedelta(minutes=4) < raised.value.reschedule_date - datetime.now(UTC) <= timedelta(minutes=5)


def test_a_marker_that_begins_with_a_slash_is_a_file(tmp_path: Path) -> None:
    flag = tmp_path / "input_ready.flag"
    with pytest.raises(AirflowRescheduleException):
        wait(str(flag))
    flag.touch()
    wait(str(flag))


def test_where_nothing_is_delivered_the_run_fails_with_the_remedy(bucket: Any) -> None:
    told = "nothing was delivered: inbox/2026-03-01/_READY did not come within 2 h: write it"
    with pytest.raises(AirflowSensorTimeout, match=told):
        wait(started=datetime.now(UTC) - timedelta(hours=3))
