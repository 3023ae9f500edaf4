"""What is done to a service: its pods killed, or away for a while."""

import time
from contextlib import contextmanager

import requests

from infrastructure.release import NAMESPACE, NotInstalled, kubectl, object_name, selector, wait_until
from tests.e2e.runs import kubernetes

PATIENCE = 600  # seconds: more than any startup probe has
KILLED = ("--grace-period=0", "--force")


def ready(component):
    """The UIDs of a component's pods that are ready."""
    return {
        pod.metadata.uid
        for pod in kubernetes().list_namespaced_pod(NAMESPACE, label_selector=selector(component)).items
        if ("Ready", "True") in {(found.type, found.status) for found in pod.status.conditions or ()}
        and not pod.metadata.deletion_timestamp
    }


@contextmanager
def replaced(component, *how):
    """Deletes a component's pods; at the end of the block another one is waited for."""
    before = ready(component)
    kubectl("delete", "pod", "-l", selector(component), "--wait=false", *how)
    yield
    wait_until(lambda: ready(component) - before, PATIENCE, f"another pod of {component}")


@contextmanager
def away(component, *, kind="deployment", waited_for=True):
    """No pod of a Deployment or StatefulSet, until the block ends."""
    workload = object_name(kind, component)
    before = kubectl("get", workload, "-o", "jsonpath={.spec.replicas}")
    running = ("get", "pods", "-l", selector(component), "--field-selector=status.phase=Running", "-o", "name")
    kubectl("scale", workload, "--replicas=0")
    try:
        wait_until(lambda: not kubectl(*running), PATIENCE, f"the end of {component}")
        yield
    finally:
        kubectl("scale", workload, f"--replicas={before}")
    if waited_for:
        wait_until(lambda: ready(component), PATIENCE, f"the return of {component}")


def be_away_for_a_minute(component):
    """No pod of a StatefulSet for a minute."""
    with away(component, kind="statefulset"):
        time.sleep(60)


def reconnect(services):
    """Waits until all services answer, by connections made anew: those to a pod end with it."""
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException

    def answers():
        try:
            services.connect()
            services.airflow.call("GET", "/dags")
            services.mlflow.search_experiments(max_results=1)
            services.s3.list_buckets()
        except (requests.RequestException, OSError, NotInstalled, MlflowException, BotoCoreError, ClientError):
            return False
        return True

    wait_until(answers, 300, "an answer of Airflow, MLflow and MinIO", 1)
