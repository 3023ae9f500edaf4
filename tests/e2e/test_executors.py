"""A release goes over to a pod for each task, with the run that is under way, and back."""

import json

import pytest

from infrastructure import install
from infrastructure.release import NAMESPACE, selector, wait_until
from tests.e2e.disturb import reconnect
from tests.e2e.runs import assert_trained_once, finished, kubernetes, running_pod, states
from tests.e2e.test_pipeline import DAG, MODEL
from tests.e2e.test_release import FILES

pytestmark = [pytest.mark.full, pytest.mark.alone]

SETTINGS = {
    "executor": "KubernetesExecutor",
    "config": {
        "core": {"parallelism": "6", "max_active_tasks_per_dag": "4"},
        "kubernetes_executor": {"worker_pods_creation_batch_size": "2"},
    },
    "workers": {"hpa": {"enabled": False}, "keda": {"enabled": False}},
}


@pytest.fixture
def by_pods(services, tmp_path):
    """The release has KubernetesExecutor until the test ends. Gives a run that was under way when it got it."""
    values = tmp_path / "executor.yaml"
    values.write_text(json.dumps({"airflow": SETTINGS}))
    run_id = services.airflow.trigger(DAG)
    running_pod(services, run_id, "validate_data", DAG)
    try:
        assert install.main([*FILES, str(values)]) == 0
        reconnect(services)
        yield run_id
    finally:
        assert install.main([*FILES]) == 0
        reconnect(services)


def workers():
    """The pods that the scheduler has made for tasks: (DAG, run, task) of each."""
    found = kubernetes().list_namespaced_pod(NAMESPACE, label_selector=selector("airflow-worker")).items
    noted = [pod.metadata.annotations for pod in found]
    return {(each["dag_id"], each["run_id"], each["task_id"]) for each in noted if "task_id" in each}


def test_tasks_have_a_pod_each_and_the_run_under_way_ends_well(services, by_pods):
    seen = set()

    def ended(run_id):
        seen.update(workers())
        return services.airflow.run(DAG, run_id)["state"] in ("success", "failed")

    second = services.airflow.trigger(DAG)
    for run_id in (by_pods, second):
        wait_until(lambda run_id=run_id: ended(run_id), 900, f"the end of {run_id}", 0.5)
        assert set(states(services, run_id, DAG).values()) == {"success"}
        assert_trained_once(services, run_id, DAG, MODEL)
    tasks = states(services, second, DAG)
    assert {task for _, run, task in seen if run == second} == set(tasks), "each task was begun in a pod of its own"
    wait_until(lambda: not workers(), 120, "the end of all pods of the executor", 1)
    assert finished(services, services.airflow.trigger(DAG), DAG) == "success"
