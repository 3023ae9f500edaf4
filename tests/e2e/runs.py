"""DAG runs as a test sees them: their end, their tasks and pods, and what they left in MLflow."""

from functools import cache

from kubernetes import client, config

from infrastructure.release import NAMESPACE, wait_until
from mlops.airflow.pods.manifest import label_value

RUN_SECONDS = 1100  # a run that is queued behind one of the schedule has its time, too
HURRIED_TRIES = 5


def finished(services, run_id, dag_id, *, hurried=False):
    """The state a run ended in. hurried: what waits for its next try, for a minute or two, has it at once."""

    def ended():
        if hurried:
            retry_now(services, run_id, dag_id)
        state = services.airflow.run(dag_id, run_id)["state"]
        return state if state in ("success", "failed") else None

    return wait_until(ended, RUN_SECONDS, f"the end of {run_id}", 1)


def retry_now(services, run_id, dag_id):
    """Has the tasks whose next try is due later tried now, as a person does by clearing them.

    A cleared task gets all its retries again, and one that fails for good would never be over: after HURRIED_TRIES they
    are waited for.
    """
    waiting = [
        name
        for name, task in tasks(services, run_id, dag_id).items()
        if task["state"] == "up_for_retry" and task["try_number"] <= HURRIED_TRIES
    ]
    if waiting:
        clear(services, run_id, dag_id, waiting)


def clear(services, run_id, dag_id, task_ids, **more):
    """Clears tasks of a run, whatever their state. more: further fields of the request."""
    wanted = {"dry_run": False, "dag_run_id": run_id, "task_ids": task_ids, "only_failed": False, **more}
    services.airflow.call("POST", f"/dags/{dag_id}/clearTaskInstances", json=wanted)


def tasks(services, run_id, dag_id):
    return {task["task_id"]: task for task in services.airflow.tasks(dag_id, run_id)}


def states(services, run_id, dag_id):
    return {name: task["state"] for name, task in tasks(services, run_id, dag_id).items()}


def pods(run_id, task_id=None, phase=None):
    """The names of a run's pods: of one task, or in one phase only, where they are given."""
    return [pod.metadata.name for pod in found_pods(run_id, task_id, phase)]


def found_pods(run_id, task_id=None, phase=None):
    """The same pods whole."""
    selector = f"maestro/run-id={label_value(run_id)}" + (f",maestro/task-id={task_id}" if task_id else "")
    fields = {"field_selector": f"status.phase={phase}"} if phase else {}
    return kubernetes().list_namespaced_pod(NAMESPACE, label_selector=selector, **fields).items


@cache
def kubernetes():
    """A client that keeps its connection: tests look often, and each kubectl takes 0.15 s of a processor."""
    config.load_kube_config()
    return client.CoreV1Api()


def running_pod(services, run_id, task_id, dag_id):
    """Wait until the container of a task's pod runs; returns the pod's name."""

    def pod():
        found = pods(run_id, task_id, "Running")
        state = states(services, run_id, dag_id).get(task_id)
        assert state not in ("success", "failed", "upstream_failed"), f"{task_id} is {state} and was not seen running"
        return found[0] if found else None

    return wait_until(pod, 240, f"a running pod of {task_id}", 0.2)


def trained(services, run_id, dag_id):
    """The ids of the finished MLflow runs that a DAG run left."""
    experiments = [experiment.experiment_id for experiment in services.mlflow.search_experiments()]
    of_run = f"tags.`maestro.dag_id` = '{dag_id}' and tags.`maestro.dag_run_id` = '{run_id}'"
    return [
        run.info.run_id
        for run in services.mlflow.search_runs(experiments, f"attributes.status = 'FINISHED' and {of_run}")
    ]


def versions(services, model):
    """The registered versions of a model by number."""
    return {found.version: found for found in services.mlflow.search_model_versions(f"name = '{model}'")}


def assert_trained_once(services, run_id, dag_id, model):
    """A run that has ended well left one finished MLflow run, and one version of it."""
    runs = trained(services, run_id, dag_id)
    assert len(runs) == 1
    assert len([version for version in versions(services, model).values() if version.run_id == runs[0]]) == 1
