"""What a worker does: it creates one pod and hands the task to the triggerer."""

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, TaskDeferred
from kubernetes.client.exceptions import ApiException

from mlops.airflow.authoring.operator import QUEUES, PodTask, task_pod, task_pods
from mlops.airflow.internals.task_metrics import TaskMetrics
from mlops.airflow.pods import create
from mlops.result import Failure
from tests.clock import Clock
from tests.dags.conftest import NAMESPACE
from tests.dags.fake_kubernetes import FakeKubernetes


def context(try_number: int = 1, uid: uuid.UUID | None = None) -> dict[str, Any]:
    names = {"dag_id": "d", "task_id": "t", "run_id": "r", "map_index": -1, "try_number": try_number}
    counted = {"start_date": datetime.now(UTC), "max_tries": 2, "stats_tags": {"dag_id": "d"}, "task": object()}
    ti = SimpleNamespace(**names, **counted, id=uid or uuid.uuid4(), xcoms={})
    ti.xcom_push = ti.xcoms.__setitem__
    return {"ti": ti}


def deferred(task: PodTask, of: dict[str, Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as raised:
        task.execute(of)
    return raised.value


def test_a_task_creates_its_pod_and_defers_at_once(kubernetes: FakeKubernetes) -> None:
    task = task_pod("t", "training", "fit", size="medium", timeout=timedelta(minutes=5), data="key", depth=3)
    start = time.time()
    of = context()
    handed, ti = deferred(task, of), of["ti"]
    (pod,) = kubernetes.pods.values()
    container = pod["spec"]["containers"][0]
    assert container["args"] == ["python", "-m", "mlops", "training", "fit", "--data=key", "--depth=3"]
    told = {entry["name"] for entry in container["env"]}
    assert told >= {"AWS_ENDPOINT_URL_S3", "MLFLOW_TRACKING_URI"}, "what 'training fit' needs"
    assert pod["spec"]["activeDeadlineSeconds"] == 360
    settings = handed.trigger.serialize()[1]
    assert settings["name"] == pod["metadata"]["name"]
    assert settings["namespace"] == NAMESPACE
    assert start + 300 <= settings["deadline"] <= time.time() + 300
    assert start + 600 <= settings["start_by"] <= time.time() + 600
    assert (settings["push"], settings["resume"]) == (True, False)
    assert TaskMetrics(**settings["metrics"]) == TaskMetrics.of(ti)
    assert handed.timeout == timedelta(minutes=10), "Airflow's own limit comes after the trigger's and the kubelet's"
    assert kubernetes.requests == {"create": 1}


def test_a_second_try_that_repeats_its_create_leaves_its_own_pod_alone(kubernetes: FakeKubernetes) -> None:
    of = context(try_number=2)
    deferred(PodTask(task_id="t", arguments=["true"]), of)
    (pod,) = kubernetes.pods.values()
    deferred(PodTask(task_id="t", arguments=["true"]), of)
    assert list(kubernetes.pods.values()) == [pod], "the very same one: its work goes on"
    assert kubernetes.deletions == []


def test_an_api_that_is_away_for_a_moment_is_waited_for(kubernetes: FakeKubernetes) -> None:
    kubernetes.refuse("create", 503, times=2)
    kubernetes.refuse("create", 403)
    deferred(PodTask(task_id="t", arguments=["true"]), context())
    assert len(kubernetes.pods) == 1


@pytest.mark.parametrize("status", [422, 403])
def test_a_refused_pod_fails_the_task_in_the_api_servers_words(
    kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(create, "_PATIENCE", 1.0)
    kubernetes.refuse("create", status, times=9)
    with pytest.raises(AirflowException, match=f"the Kubernetes API refused the pod: {status}: refused by the test"):
        PodTask(task_id="t", arguments=["true"]).execute(context())


def test_a_server_that_has_just_started_is_given_a_second_to_load_its_roles(
    kubernetes: FakeKubernetes, clock: Clock
) -> None:
    kubernetes.refuse("create", 403, times=9)
    with pytest.raises(AirflowException, match="the Kubernetes API refused the pod: 403"):
        PodTask(task_id="t", arguments=["true"]).execute(context())
    assert clock.pauses == [0.25, 0.5, 1.0]


def test_an_api_that_stays_away_fails_the_task(kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create, "_PATIENCE", 0.5)
    kubernetes.refuse("create", 500, times=99)
    with pytest.raises(AirflowException, match="500"):
        PodTask(task_id="t", arguments=["true"]).execute(context())


def test_a_worker_that_is_told_to_end_deletes_its_pod(kubernetes: FakeKubernetes) -> None:
    task = PodTask(task_id="t", arguments=["true"])
    task.on_kill()
    deferred(task, context())
    task.on_kill()
    assert kubernetes.pods == {}
    task.on_kill()


def test_a_task_with_outlets_or_a_success_callback_is_resumed_on_a_worker(kubernetes: FakeKubernetes) -> None:
    for options in ({"outlets": [Asset("features")]}, {"on_success_callback": print}, {"on_skipped_callback": print}):
        handed = deferred(PodTask(task_id="t", arguments=["true"], **options), context())
        assert handed.trigger.serialize()[1]["resume"] is True
        assert handed.method_name == "resume"


def test_a_resumed_task_returns_its_result_or_skips_or_fails_for_good() -> None:
    task = PodTask(task_id="t", arguments=["true"])
    assert task.resume(context(), {"state": "success", "cause": "", "result": {"a": 1}}) == {"a": 1}
    of = context()
    with pytest.raises(AirflowSkipException, match="too few rows"):
        task.resume(of, {"state": "skipped", "cause": "too few rows", "result": {"skipped": "too few rows"}})
    assert of["ti"].xcoms == {"return_value": {"skipped": "too few rows"}}
    with pytest.raises(AirflowFailException, match="column f3 is missing"):
        task.resume(context(), {"state": "failed", "cause": "column f3 is missing", "result": None})


def test_a_command_is_told_of_what_it_needs_and_of_nothing_else(kubernetes: FakeKubernetes) -> None:
    deferred(task_pod("t", "registry", "skip"), context())
    (pod,) = kubernetes.pods.values()
    told = {entry["name"] for entry in pod["spec"]["containers"][0]["env"]}
    assert "MLFLOW_TRACKING_URI" in told
    assert "AWS_ENDPOINT_URL_S3" not in told


def test_a_command_of_which_nothing_says_what_it_opens_is_refused_where_the_dag_is_read() -> None:
    with pytest.raises(Failure, match=r"'training dream' opens: list it in mlops/needs.py"):
        task_pod("t", "training", "dream")


def test_options_become_arguments() -> None:
    task = task_pod("t", "notify", "send", a_name="x", none=None, repeated=["one", "two"], negative=-1, zero=0)
    assert task.arguments[3:] == [
        "notify",
        "send",
        "--a-name=x",
        "--repeated=one",
        "--repeated=two",
        "--negative=-1",
        "--zero=0",
    ]


def test_arguments_and_environment_are_templated() -> None:
    with DAG(dag_id="templated", schedule=None):
        first = task_pod("first", "notify", "send")
        task = task_pod("t", "notify", "send", data=first.result("data"), when="{{ ds }}", env={"RUN": "{{ run_id }}"})
    results = {"first": {"data": "runs/a/b.parquet"}}
    ti = SimpleNamespace(xcom_pull=lambda task_ids: results[task_ids])
    task.render_template_fields({"ti": ti, "ds": "2026-01-01", "run_id": "r"})
    assert task.arguments[-2:] == ["--data=runs/a/b.parquet", "--when=2026-01-01"]
    assert task.env == {"RUN": "r"}


def test_a_map_of_a_result_comes_as_json_and_is_empty_where_there_is_none() -> None:
    with DAG(dag_id="templated_map", schedule=None):
        first = task_pod("first", "notify", "send")
        task = task_pod("t", "notify", "send", metrics=first.result_json("metrics"), other=first.result_json("none"))
    task.render_template_fields({"ti": SimpleNamespace(xcom_pull=lambda task_ids: {"metrics": {"auc": None, "f1": 1}})})
    assert task.arguments[-2:] == ['--metrics={"auc": null, "f1": 1}', "--other={}"]


def test_defaults_hold_unless_the_task_or_its_dag_says_otherwise() -> None:
    plain = task_pod("t", "notify", "send")
    assert (plain.retries, plain.retry_delay, plain.retry_exponential_backoff) == (2, timedelta(minutes=1), 2.0)
    assert (plain.execution_timeout, plain.owner, plain.do_xcom_push) == (timedelta(hours=1), "maestro", True)
    assert task_pod("t", "notify", "send", retries=5).retries == 5
    with DAG(dag_id="patient", schedule=None, default_args={"retries": 7}):
        assert task_pod("t", "notify", "send").retries == 7
        assert task_pod("u", "notify", "send", retries=0).retries == 0


def test_a_size_with_a_queue_sends_its_tasks_there_and_others_where_they_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUEUES, json.dumps({"large": "heavy"}))
    with DAG(dag_id="d", schedule=None):
        sizes = PodTask(task_id="sizes", arguments=["true"])
        told: dict[str, Any] = {
            "large": PodTask(task_id="a", arguments=["true"], size="large"),
            "small": PodTask(task_id="b", arguments=["true"]),
            "of its own": PodTask(task_id="c", arguments=["true"], size="large", queue="mine"),
            "mapped": task_pods(
                "e", "training", "fit", each="data", of=sizes, size="large", at_once=1, timeout=timedelta(1), pool="p"
            ),
        }
    found = {name: task.queue for name, task in told.items()}
    assert found == {"large": "heavy", "small": "default", "of its own": "mine", "mapped": "heavy"}


def test_a_mapped_task_has_the_same_defaults() -> None:
    with DAG(dag_id="mapped", schedule=None):
        mapped = PodTask.partial(task_id="t", size="medium").expand(arguments=[["one"], ["two"]])
    assert (mapped.retries, mapped.execution_timeout, mapped.owner) == (2, timedelta(hours=1), "maestro")
    task: Any = mapped.unmap({"arguments": ["one"]})
    assert (task.arguments, task.size, task.do_xcom_push) == (["one"], "medium", True)


@pytest.mark.parametrize("field", ["volumes", "node_selector", "cmds", "namespace", "service_account_name", "env_vars"])
def test_kubernetes_fields_are_refused_in_a_dag_file(field: str) -> None:
    with pytest.raises(AirflowException, match=f"{field} refused"):
        PodTask(task_id="t", arguments=["true"], **{field: None})


def test_a_missing_platform_is_told_before_any_pod_is_made(kubernetes: FakeKubernetes, pod_config: Path) -> None:
    (pod_config / "pod-template.yaml").unlink()
    with pytest.raises(AirflowException, match=r"pod-template.yaml cannot be read"):
        PodTask(task_id="t", arguments=["true"]).execute(context())
    assert kubernetes.pods == {}


def test_the_words_of_an_answer_without_json_are_its_reason() -> None:
    assert create._words(ApiException(status=502, reason="Bad Gateway")) == "502: Bad Gateway"
    error = ApiException(status=422, reason="x")
    error.body = json.dumps({"message": "spec is wrong"})
    assert create._words(error) == "422: spec is wrong"
