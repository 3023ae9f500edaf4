"""An earlier release is upgraded, with its data and the run under way."""

import os
import subprocess
import sys

import pytest

from infrastructure.release import RELEASE, kubectl, object_name, selector, wait_until
from tests.e2e.test_pipeline import DAG, REPOSITORY
from tests.e2e.test_release import SECOND, VALUES, helm, psql, second, secrets

__all__ = ["second"]  # a fixture

# What people have installed: the last commit that had another layout of packages, of which the database keeps names.
BEFORE = "93456b50e3e7"
# The versions of the pipeline's model that are in production or were before.
ALIASED = "SELECT version FROM registered_model_aliases WHERE name = 'sensor-failure' ORDER BY alias DESC"

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        os.environ.get("CLUSTER", "local") != "local", reason="the earlier images are built for the local node"
    ),
]


def test_an_earlier_release_is_upgraded_with_its_data_and_the_run_under_way(services, second, tmp_path):
    """Its task waits in a triggerer that knows the trigger by another name, and so does the deadline of its run."""
    archive = subprocess.run(["git", "archive", BEFORE], cwd=REPOSITORY, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"commit {BEFORE} is not in this clone's history")
    subprocess.run(["tar", "-x"], cwd=tmp_path, input=archive.stdout, check=True)
    images = tmp_path / "images.yaml"
    build = [sys.executable, "images/build.py", "--engine", "buildah", "--values", images]
    node = f"{sys.executable} {REPOSITORY / 'infrastructure/local'}"
    subprocess.run([*build, "--node", node], cwd=tmp_path, check=True)
    values = ("-f", str(tmp_path / "charts/maestro/values-minikube.yaml"), "-f", str(images))
    waited = ("--wait", "--timeout", "10m")
    helm("install", RELEASE, str(tmp_path / "charts/maestro"), "-n", SECOND, "--create-namespace", *values, *waited)
    environment = {**os.environ, "NAMESPACE": SECOND}
    subprocess.run([sys.executable, "-m", "infrastructure.data"], cwd=tmp_path, env=environment, check=True)
    assert airflow(SECOND, "dags", "trigger", DAG, "--run-id", "first")
    assert ended(SECOND, "first") == "success"
    assert psql(SECOND, ALIASED, "mlflow") == "1"
    before = secrets(SECOND)

    assert airflow(SECOND, "dags", "trigger", DAG, "--run-id", "under-way")
    selector = "maestro/run-id=under-way,maestro/task-id=validate_data"
    pods = ("get", "pods", "-n", SECOND, "-o", "name", "-l", selector, "--field-selector", "status.phase=Running")
    wait_until(lambda: kubectl(*pods), 180, "a pod that runs", every=0.2)
    triggerers(0)  # its own might see the pod's end before it is replaced
    helm("upgrade", RELEASE, "charts/maestro", "-n", SECOND, *VALUES, *waited)
    triggerers(1)
    # A new release may need a password more.
    now = secrets(SECOND)
    assert {name: {key: now[name][key] for key in kept} for name, kept in before.items()} == before
    assert ended(SECOND, "under-way") == "success"
    assert psql(SECOND, ALIASED, "mlflow").split() == ["2", "1"]
    # It was not tried again: the triggerer of the new release took over what waited.
    waiting = "SELECT try_number FROM task_instance WHERE run_id = 'under-way' AND task_id = 'validate_data'"
    assert psql(SECOND, waiting) == "1"
    helm("test", RELEASE, "-n", SECOND)


def triggerers(count):
    """Has so many triggerers, of either release: Helm leaves a number alone that it does not change itself."""
    deployment = object_name("deployment", "airflow-triggerer", SECOND)
    kubectl("scale", "-n", SECOND, deployment, f"--replicas={count}")
    running = ("get", "pods", "-n", SECOND, "-o", "name", "-l", selector("airflow-triggerer"))
    wait_until(lambda: len(kubectl(*running).split()) == count, 180, f"{count} triggerers")


def airflow(namespace, *arguments):
    scheduler = object_name("deployment", "airflow-scheduler", namespace)
    command = ("exec", "-n", namespace, scheduler, "-c", "scheduler", "--", "airflow", *arguments)
    return wait_until(lambda: kubectl(*command, check=False), 180, f"airflow {' '.join(arguments)}")


def ended(namespace, run_id):
    """The state of a run that has come to its end."""

    def state():
        states = dict(line.split("|") for line in psql(namespace, "SELECT run_id, state FROM dag_run").splitlines())
        return states[run_id] if states[run_id] in ("success", "failed") else None

    return wait_until(state, 900, f"the end of run {run_id}", every=2)
