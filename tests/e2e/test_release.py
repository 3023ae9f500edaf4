"""Helm's promises: beside another release, over upgrades, and again on the volumes of a release that was removed."""

import json
import os
import subprocess

import pytest

from infrastructure.install import restrict
from infrastructure.release import NAMESPACE, RELEASE, find, kubectl, object_name, selector, wait_until
from tests.e2e.disturb import reconnect
from tests.e2e.runs import assert_trained_once, finished, running_pod
from tests.e2e.test_pipeline import DAG, MODEL, REPOSITORY

SECOND = f"{NAMESPACE}-second"
# What `make install` has installed the first release by.
FILES = (*os.environ.get("VALUES", "charts/maestro/values-minikube.yaml").split(), ".build/images.yaml")
VALUES = tuple(f"--values={file}" for file in FILES)


def helm(*arguments):
    result = subprocess.run(["helm", *arguments], capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, f"helm {' '.join(arguments)}: {result.stderr[-2000:]}"
    return result.stdout


def secrets(namespace):
    items = json.loads(kubectl("get", "secrets", "-n", namespace, "-o", "json"))["items"]
    return {
        item["metadata"]["name"]: item["data"]
        for item in items
        if item["type"] == "Opaque" and "setup" not in item["metadata"]["name"]
    }


def psql(namespace, statement, database="airflow"):
    script = f'PGPASSWORD="$POSTGRES_PASSWORD" psql -h /tmp -U postgres -d {database} -At --set=ON_ERROR_STOP=1'
    place = ("exec", "-i", "-n", namespace, object_name("statefulset", "postgresql", namespace), "--")
    return kubectl(*place, "sh", "-c", script, stdin=statement).strip()


def test_every_service_answers_from_inside_the_cluster(services):
    assert helm("test", RELEASE, "-n", NAMESPACE).count("Phase:          Succeeded") == 9


CHANGED = "drift_effect_threshold"  # a declared Variable that the pipeline has no use for
# What each upgrade declares. The first brings a setting of airflow.cfg too, which the second takes back: both replace
# every pod of Airflow.
UPGRADES = (
    ("variables.upgrade_1=yes", "config.core.parallelism=5"),
    ("variables.upgrade_2=yes",),
    (),
)


@pytest.mark.alone
def test_three_upgrades_keep_secrets_data_and_the_run_under_way(services):
    before = secrets(NAMESPACE)
    declared = services.airflow.call("GET", f"/variables/{CHANGED}")["value"]
    run_id = services.airflow.trigger(DAG)
    running_pod(services, run_id, "validate_data", DAG)
    for upgrade in UPGRADES:
        services.airflow.call("PATCH", f"/variables/{CHANGED}", json={"key": CHANGED, "value": "0.9"})
        settings = [f"--set-string=airflow.{setting}" for setting in upgrade]
        helm("upgrade", RELEASE, "charts/maestro", "-n", NAMESPACE, *VALUES, *settings, "--wait", "--timeout", "10m")
        reconnect(services)
        found = {entry["key"]: entry["value"] for entry in services.airflow.call("GET", "/variables")["variables"]}
        assert found[CHANGED] == declared, "what people change lasts until the next upgrade"
        names = [f"variables.{name}=yes" for name in found if name.startswith("upgrade_")]
        assert names == [*upgrade[:1]], "a removed one is gone"
    assert secrets(NAMESPACE) == before
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert_trained_once(services, run_id, DAG, MODEL)


@pytest.fixture
def second():
    """Removes the second release with all it left, also that of an earlier test that was killed."""
    remove_second()
    yield
    remove_second()


def remove_second():
    subprocess.run(["helm", "uninstall", RELEASE, "-n", SECOND, "--ignore-not-found", "--wait"], check=False)
    subprocess.run(["kubectl", "delete", "namespace", SECOND, "--ignore-not-found", "--timeout=180s"], check=True)


@pytest.mark.full
@pytest.mark.skipif(
    os.environ.get("CLUSTER", "local") == "current", reason="a stranger's cluster gets one release from us"
)
def test_a_second_release_beside_the_first_and_again_on_its_kept_volumes(services, second):
    restrict(SECOND)
    install = (
        "install",
        RELEASE,
        "charts/maestro",
        "-n",
        SECOND,
        "--create-namespace",
        *VALUES,
        "--wait",
        "--timeout",
        "10m",
    )
    helm(*install)
    assert find("secret", "postgresql", SECOND)["data"] != find("secret", "postgresql")["data"]
    psql(SECOND, "CREATE TABLE kept AS SELECT 42 AS answer")
    fernet = find("secret", "airflow", SECOND)["data"]
    scheduler = object_name("deployment", "airflow-scheduler", SECOND)
    trigger = ("exec", "-n", SECOND, scheduler, "-c", "scheduler", "--", "airflow", "dags", "trigger", DAG)
    wait_until(lambda: "queued" in kubectl(*trigger, check=False), 120, "the DAG to be known")
    pods = ("get", "pods", "-n", SECOND, "-o", "name")
    wait_until(lambda: kubectl(*pods, "-l", selector("task")), 120, "the pod of a task")
    helm("uninstall", RELEASE, "-n", SECOND, "--wait")
    wait_until(lambda: not kubectl(*pods), 180, "the end of all pods, a task's too")
    helm(*install)
    assert psql(SECOND, "SELECT answer FROM kept") == "42"
    assert find("secret", "airflow", SECOND)["data"] == fernet
    helm("test", RELEASE, "-n", SECOND)
