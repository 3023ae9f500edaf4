"""Attacks on the running platform: from pods that should reach nothing, with known secrets, and by bad inputs."""

import base64
import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import psycopg
import pytest
import requests
from botocore.exceptions import ClientError
from cryptography.fernet import Fernet, InvalidToken

from infrastructure import rotate, sensors
from infrastructure.airflow import Airflow
from infrastructure.release import NAMESPACE, RELEASE, NotInstalled, find, kubectl, object_name, wait_until
from infrastructure.services import mlflow_writer, port_forward, service
from tests.e2e.asking import TASK, asking_pod, elsewhere
from tests.e2e.conftest import SESSION, placed_dags
from tests.e2e.runs import finished
from tests.security import access, canaries, inputs

ELSEWHERE = "maestro-security"
PROBE = (Path(access.__file__).parent / "probe.py").read_text()
EVERYTHING = (
    *("airflow", "feast", "mlflow", "model-server", "notifications", "prometheus"),
    *("pushgateway", "redis", "s3", "sensor-trainer", "kubernetes"),
)
# The namespace and the labels of the pod that asks.
POSITIONS = {
    "another namespace": (ELSEWHERE, {}),
    "a plain pod of the namespace": (NAMESPACE, {}),
    # What each task opens: a message, and what it counts.
    "a task that opens nothing": (NAMESPACE, {**TASK, "maestro/opens-pushgateway": "true"}),
    "a task that opens everything": (NAMESPACE, TASK | {f"maestro/opens-{need}": "true" for need in EVERYTHING}),
}


@pytest.fixture(scope="module")
def other_namespace():
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ELSEWHERE, "labels": labels}}
    elsewhere("apply", "-f", "-", namespace=ELSEWHERE, stdin=json.dumps(body))
    yield ELSEWHERE
    elsewhere("delete", "namespace", ELSEWHERE, "--wait=false", namespace=ELSEWHERE)


@pytest.fixture
def asking(other_namespace, request):
    """What comes of attempts from a pod at a place."""
    place = request.param
    namespace, labels = POSITIONS[place]
    with asking_pod(f"security-{list(POSITIONS).index(place)}", labels, namespace) as run:

        def ask(attempts):
            return json.loads(run(PROBE, stdin=json.dumps(attempts)))

        yield place, ask


def addressed():
    """Each attempt with what probe.py takes, for the services that are there."""
    for attempt in access.ATTEMPTS:
        try:
            found = service(attempt.component)
        except NotInstalled:
            continue
        yield attempt, attempt.asked(f"{found.name}.{NAMESPACE}", found.port(attempt.port))
    for attempt in access.KUBERNETES:
        yield attempt, attempt.asked("kubernetes.default.svc", 443)


@pytest.mark.parametrize("asking", POSITIONS, indirect=True)
def test_nothing_is_open_that_the_note_does_not_state(asking):
    place, ask = asking
    tried = list(addressed())
    outcomes = ask([asked for _, asked in tried])
    assert len({attempt.component for attempt, _ in tried}) >= 12
    found = [(attempt, tuple(outcome)) for (attempt, _), outcome in zip(tried, outcomes, strict=True)]
    assert access.undocumented(place, found, access.stated()) == []


# Bad inputs


def faults(url, requests, headers):
    return inputs.faults(inputs.sent(url, requests, headers))


@pytest.mark.parametrize("made", [inputs.airflow, inputs.reports], ids=["api", "reports"])
def test_airflow_breaks_on_no_bad_input_and_takes_none(made):
    with port_forward("airflow-api-server") as url:
        token = str(Airflow(url).session.headers["Authorization"])
        assert faults(url, made(), {"Authorization": token}) == []


def test_mlflow_breaks_on_no_bad_input_and_takes_none():
    with port_forward("mlflow") as url:
        token = base64.b64encode(":".join(mlflow_writer()).encode()).decode()
        assert faults(url, inputs.mlflow(), {"Authorization": f"Basic {token}"}) == []


def test_the_trainer_breaks_on_no_bad_input_and_takes_none():
    with port_forward(sensors.COMPONENT) as url:
        assert faults(url, inputs.sensor_trainer(), {"Authorization": f"Bearer {sensors.token()}"}) == []


def test_the_model_server_breaks_on_no_bad_input_and_takes_none():
    with port_forward("model-server") as url:
        assert faults(url, inputs.model_server(), {}) == []


# Canaries

CANARY = "e2e_canary"
PRINTS = f"""
import json
import os

from airflow.sdk import DAG, task

from mlops.airflow.authoring.operator import PodTask

print("parsed with", dict(os.environ))

with DAG(dag_id="{CANARY}", schedule=None, tags=["e2e"]):

    @task(retries=0)
    def in_airflow():
        print(json.dumps(dict(os.environ)))
        return {{"environment": [name for name in os.environ]}}

    in_airflow() >> PodTask(task_id="in_a_pod", arguments=["sh", "-c", "env; env >&2; exit 0"], retries=0)
"""
ARGUMENTS = """
import glob
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        print(open(path, "rb").read().replace(b"\\0", b" ").decode(errors="replace"))
    except OSError:
        pass
"""
PLANTED, HERE = "a-canary-of-the-search-itself", "/dev/shm/planted"  # noqa: S108 - of a container
FEW = 64  # MiB of an object that are read


@pytest.fixture(scope="module")
def secrets():
    return canaries.known(json.loads(kubectl("get", "secrets", "-o", "json"))["items"])


@pytest.fixture(scope="module")
def printed(services):
    """The id of a run whose DAG file, task and pod print all that they have in their environment."""
    with placed_dags(services, [CANARY], PRINTS):
        run_id = services.airflow.trigger(CANARY)
        assert finished(services, run_id, CANARY) in ("success", "failed")
        yield run_id


def running_pods():
    return json.loads(kubectl("get", "pods", "-o", "json"))["items"]


def ready(pod):
    """The names of its containers that are."""
    return {status["name"] for status in pod["status"].get("containerStatuses", ()) if status["ready"]}


def assert_clean(secrets, found):
    leaked = [(where, name) for where, content in found for name in canaries.leaks(content, secrets)]
    assert leaked == []


@pytest.mark.full
def test_no_secret_is_in_a_log_not_even_of_what_prints_its_environment(services, printed, secrets):
    # A pod may be gone by the time that it is asked.
    logs = [
        (f"log of {name}", kubectl("logs", name, "--all-containers", check=False).encode())
        for name in (pod["metadata"]["name"] for pod in running_pods())
    ]
    assert sum(bool(said) for _, said in logs) >= 10
    logs += [
        (f"log of {task_id}", services.airflow.log(CANARY, printed, task_id, 1).encode())
        for task_id in ("in_airflow", "in_a_pod")
    ]
    assert b"PATH" in logs[-1][1], "the environment was printed"
    assert_clean(secrets, logs)


@pytest.mark.full
def test_no_secret_is_in_an_xcom_or_a_variable(services, printed, secrets):
    path = f"/dags/{CANARY}/dagRuns/{printed}/taskInstances/in_airflow/xcomEntries/return_value"
    told = [(path, json.dumps(services.airflow.call("GET", path)).encode())]
    told += [(path, json.dumps(services.airflow.call("GET", path)).encode()) for path in ("/variables", "/connections")]
    assert_clean(secrets, told)


@pytest.mark.full
def test_no_secret_is_in_an_object_of_kubernetes_but_secrets(secrets):
    kinds = "pods,configmaps,deployments,statefulsets,jobs,services,events,networkpolicies,serviceaccounts,replicasets"
    items = json.loads(kubectl("get", kinds, "-o", "json"))["items"]
    assert_clean(secrets, [(f"{i['kind']} {i['metadata']['name']}", json.dumps(i).encode()) for i in items])


@pytest.mark.full
def test_no_secret_is_an_argument_of_a_process(secrets):
    seen = []
    for found in running_pods():
        name = found["metadata"]["name"]
        for container in found["spec"]["containers"]:
            said = kubectl("exec", name, "-c", container["name"], "--", "python3", "-c", ARGUMENTS, check=False)
            said = said or kubectl(
                *("exec", name, "-c", container["name"], "--", "sh", "-c"), "cat /proc/[0-9]*/cmdline", check=False
            )
            seen.append((f"arguments in {name} {container['name']}", said.encode()))
    assert sum(bool(said) for _, said in seen) >= 5
    assert_clean(secrets, seen)


@pytest.mark.full
def test_no_secret_is_in_a_file_of_an_image(secrets):
    wanted = b"\n".join({spelling for value in secrets.values() for spelling in canaries.spellings(value)}).decode()
    images = {
        container["image"]: (pod["metadata"]["name"], container["name"])
        for pod in running_pods()
        for container in pod["spec"]["containers"]
        if container["name"] in ready(pod)
    }
    found = {}
    for image, (name, container) in images.items():
        where = ("exec", "-i", name, "-c", container, "--", "sh", "-c")
        kubectl(*where, f"printf '%s' {PLANTED} >{HERE}; cat >/dev/shm/wanted", stdin=f"{wanted}\n{PLANTED}")
        try:
            # All of the image's own file system, which volumes and the memory's are not of; and that it was looked.
            search = f"find / {HERE} -xdev -type f -exec grep -lsaF -f /dev/shm/wanted {{}} +; true"
            found[image] = kubectl(*where, search)
        finally:
            kubectl(*where, f"rm {HERE} /dev/shm/wanted")
    assert len(found) >= 8
    assert {image: files.removesuffix("\n") for image, files in found.items()} == dict.fromkeys(images, HERE)


@pytest.mark.full
def test_no_secret_is_in_a_bucket(services, printed, secrets):
    def objects():
        for bucket in services.s3.list_buckets()["Buckets"]:
            for page in services.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
                for entry in page.get("Contents", ()):
                    where = {"Bucket": bucket["Name"], "Key": entry["Key"]}
                    if entry["Size"]:
                        body = services.s3.get_object(**where, Range=f"bytes=0-{(FEW << 20) - 1}")["Body"]
                        yield f"{bucket['Name']}/{entry['Key']}", body.read()

    assert_clean(secrets, objects())


@pytest.mark.full
def test_no_secret_is_in_a_dump_of_a_database(secrets):
    where = ("exec", object_name("statefulset", "postgresql"), "-c", "postgresql", "--", "env", "PGHOST=/tmp")
    databases = kubectl(*where, "psql", "-U", "postgres", "-Atc", "SELECT datname FROM pg_database")
    for database in databases.split():
        if database != "template0":
            dump = kubectl(*where, "pg_dump", "-U", "postgres", database)
            assert_clean(secrets, [(f"dump of {database}", dump.encode())])


# Rotation


KEPT = f"e2e_kept_{SESSION}"  # a variable of Airflow's
READ_ONLY = "monitoring"  # as global.airflow.readOnlyUser has it


def opens_redis(user):
    def opens(value):
        said = rotate._inside("redis", "redis-cli", stdin=f"AUTH {user} {value}\n", kind="statefulset")
        assert ("OK" in said) is not ("WRONGPASS" in said), said[:80]
        return "OK" in said

    return opens


def opens_store(value):
    with port_forward("minio", "api") as url:
        keys = find("secret", "minio-tasks")["data"]
        client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=base64.b64decode(keys["access-key"]).decode(),
            aws_secret_access_key=value,
            region_name="us-east-1",
        )
        try:
            return bool(client.list_objects_v2(Bucket="data", MaxKeys=1))
        except ClientError as refused:
            assert refused.response["Error"]["Code"] in ("SignatureDoesNotMatch", "InvalidAccessKeyId")
            return False


def opens_page(component, path, ask):
    """ask: what requests is told of the value."""

    def opens(value):
        with port_forward(component) as url:
            sent = ask(value)
            method = "POST" if "json" in sent else "GET"
            status = requests.request(method, f"{url}{path}", timeout=60, **sent).status_code
            assert status in (200, 201, 401), status
            return status != 401

    return opens


def opens_database(value):
    with port_forward("postgresql", "postgresql") as url:
        address = urlsplit(url)
        where = {"host": address.hostname, "port": address.port, "dbname": "mlflow", "user": "mlflow"}
        try:
            psycopg.connect(**where, password=value, connect_timeout=30).close()
        except psycopg.OperationalError as refused:
            assert "password authentication failed" in str(refused)
            return False
        return True


def opens_variable(value):
    psql = ("psql", "--host=/tmp", "--username=postgres", "--dbname=airflow", "-At", f"--set=key={KEPT}")
    asked = "SELECT val FROM variable WHERE key = :'key'"
    stored = rotate._inside("postgresql", *psql, stdin=asked, kind="statefulset").strip()
    try:
        return Fernet(value).decrypt(stored.encode()) == b"kept"
    except InvalidToken:
        return False


@pytest.fixture
def kept(services):
    services.airflow.call("POST", "/variables", json={"key": KEPT, "value": "kept"})
    yield
    services.connect()
    services.airflow.call("DELETE", f"/variables/{KEPT}")


def stored_in(name):
    """The value that the release has now."""
    rotation = rotate.ROTATIONS[name]
    return base64.b64decode(find("secret", rotation.secret)["data"][rotation.key]).decode()


# Whether a value opens what it is for.
OPENS = {
    "redis": opens_redis("default"),
    "redis-queue": opens_redis("queue"),
    "minio-tasks": opens_store,
    "mlflow-writer": opens_page("mlflow", "/version", lambda value: {"auth": ("writer", value)}),
    "postgresql-mlflow": opens_database,
    "sensor-trainer": opens_page(
        sensors.COMPONENT, "/readings?after=0", lambda value: {"headers": {"Authorization": f"Bearer {value}"}}
    ),
    "airflow-read-only": opens_page(
        "airflow-api-server", "/auth/token", lambda value: {"json": {"username": READ_ONLY, "password": value}}
    ),
    "airflow-fernet": opens_variable,
}


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.parametrize("name", OPENS)
def test_after_a_rotation_everything_works_and_the_old_value_opens_nothing(services, kept, name):
    old = stored_in(name)
    assert OPENS[name](old), "this asks what the value is for"
    rotate.rotate(name)
    assert OPENS[name](stored_in(name))
    assert not OPENS[name](old)
    services.connect()
    check = ["make", "check", f"NAMESPACE={NAMESPACE}", f"RELEASE={RELEASE}"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
@pytest.mark.alone
def test_an_upgrade_after_a_rotation_starts_nothing_anew(services):
    rotate.rotate("redis")
    read = ("get", "deployments,statefulsets", "-o", "json")

    def generations():
        return {item["metadata"]["name"]: item["spec"]["template"] for item in json.loads(kubectl(*read))["items"]}

    before = generations()
    upgrade = ["helm", "upgrade", RELEASE, "charts/maestro", "-n", NAMESPACE, "--reset-then-reuse-values"]
    subprocess.run([*upgrade, "--wait", "--timeout", "10m"], check=True, capture_output=True)
    after = wait_until(generations, 60, "the workloads")
    labels = {name: template["metadata"]["labels"] for name, template in after.items()}
    assert labels == {name: template["metadata"]["labels"] for name, template in before.items()}
