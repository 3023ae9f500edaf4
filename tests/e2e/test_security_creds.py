"""Who holds which credential in the installed release, and what each of them can do there."""

import json
import subprocess
from base64 import b64decode

import pytest
import yaml

from infrastructure.release import NAMESPACE, RELEASE, find, kubectl, object_name, wait_until
from tests.e2e.conftest import SESSION

AIRFLOW, DEPLOYER = (f"system:serviceaccount:{NAMESPACE}:{RELEASE}-{name}" for name in ("airflow", "deployer"))
AS_AIRFLOW = ("--as", AIRFLOW)
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 10001,
}
POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def refused(*arguments, stdin=None):
    """What the API server says against a request; nothing where it takes it."""
    command = ["kubectl", "--namespace", NAMESPACE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, input=stdin, check=False)
    return done.stderr if done.returncode else ""


def create(*options, **spec):
    container = {"name": "base", "image": "localhost/maestro/base:latest", "securityContext": RESTRICTED}
    container |= spec.pop("container", {})
    spec = {"serviceAccountName": f"{RELEASE}-task", **spec}
    labels = spec.pop("labels", {"app.kubernetes.io/component": "task"})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "creds", "labels": labels},
        "spec": {"securityContext": POD, "containers": [container], **spec},
    }
    return refused("create", *options, "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def python(workload, container, program):
    """What a program says in a container of the release, with what that is told."""
    return kubectl("exec", object_name("deployment", workload), "-c", container, "--", "python", "-c", program)


def test_the_namespace_takes_no_pod_that_is_less_than_restricted():
    labels = json.loads(kubectl("get", "namespace", NAMESPACE, "-o", "json"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    said = kubectl("get", "events", "--field-selector=reason=FailedCreate", "-o", "json")
    assert "violates PodSecurity" not in said
    assert "violates PodSecurity" in create(hostNetwork=True, container={"securityContext": {}})


def test_who_creates_task_pods_creates_no_others():
    assert "one of the images" in create(*AS_AIRFLOW)
    assert "service account of tasks" in create(*AS_AIRFLOW, serviceAccountName=AIRFLOW.rpartition(":")[2])
    assert "task pods only" in create(*AS_AIRFLOW, labels={"app.kubernetes.io/component": "mlflow"})
    platform = kubectl("get", "configmap", f"{RELEASE}-airflow-pods", "-o", r"jsonpath={.data.platform\.yaml}")
    container = {"image": yaml.safe_load(platform)["images"]["task"]}
    assert create(*AS_AIRFLOW, container=container) == ""
    secret = [{"secretRef": {"name": find("secret", "airflow")["metadata"]["name"]}}]
    assert "envFrom" in create(*AS_AIRFLOW, container={**container, "envFrom": secret})
    for resource in ("secrets", "deployments", "roles"):
        assert kubectl("auth", "can-i", "create", resource, *AS_AIRFLOW, check=False).strip() == "no", resource
    for resource, part in (("serviceaccounts", "token"), ("pods", "exec"), ("pods", "ephemeralcontainers")):
        asked = ("auth", "can-i", "create", resource, "--subresource", part, *AS_AIRFLOW)
        assert kubectl(*asked, check=False).strip() == "no", part


def test_who_deploys_a_model_changes_its_version_and_nothing_else():
    server = object_name("deployment", "model-server")
    patch = ("patch", server, "--as", DEPLOYER, "--dry-run=server", "--type=merge", "--patch")
    version = {"template": {"metadata": {"annotations": {"maestro/model-version": "999"}}}}
    assert refused(*patch, json.dumps({"spec": version})) == ""
    for change in ({"replicas": 0}, {"template": {"spec": {"serviceAccountName": "default"}}}):
        assert "changes nothing else" in refused(*patch, json.dumps({"spec": change}))


@pytest.mark.parametrize(
    ("component", "container", "lacks"),
    [
        ("airflow-dag-processor", "dag-processor", ("JWT_SECRET", "API__SECRET_KEY", "AWS_SECRET_ACCESS_KEY")),
        ("airflow-triggerer", "triggerer", ("JWT_SECRET",)),
    ],
)
def test_a_process_of_airflow_has_no_secret_that_it_does_not_use(component, container, lacks):
    said = python(component, container, "import os; print(*os.environ)")
    assert not [name for name in lacks if name in said]
    token = "import pathlib; print(pathlib.Path('/var/run/secrets/kubernetes.io/serviceaccount/token').exists())"
    assert python(component, container, token).strip() == str(component == "airflow-triggerer")


ASKS = """
import os, redis
client = redis.Redis(os.environ["MAESTRO_REDIS_HOST"], int(os.environ["MAESTRO_REDIS_PORT"]),
                     username=os.environ["MAESTRO_REDIS_USERNAME"], password=os.environ["MAESTRO_REDIS_PASSWORD"])
def ask(*command):
    try:
        client.execute_command(*command)
        return "yes"
    except redis.RedisError as error:
        return "no" if "permission" in str(error) else str(error)
print(*(ask(*command) for command in {commands}))
"""


@pytest.mark.parametrize(
    ("component", "container", "mine", "others"),
    [
        ("feast", "feast", ("HGET", "e:maestro", "f"), ("LRANGE", "rq:queue:training", "0", "1")),
        ("sensor-trainer-worker", "worker", ("LRANGE", "rq:queue:training", "0", "1"), ("HGET", "e:maestro", "f")),
    ],
)
def test_a_user_of_redis_gets_at_its_own_keys_alone(component, container, mine, others):
    commands = [mine, others, ("FLUSHALL",), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("KEYS", "*")]
    assert python(component, container, ASKS.replace("{commands}", repr(commands))).split() == ["yes"] + 5 * ["no"]


ENQUEUES = """
from rq import Queue
from rq.serializers import JSONSerializer
from mlops.config import RedisSettings
from mlops.sensor_trainer.store.queue import _client
queue = Queue("training", connection=_client(RedisSettings.from_environment()), serializer=JSONSerializer)
queue.enqueue_call("os.system", args=("touch /tmp/{made}",), job_id="{made}")
"""


def test_with_the_password_of_the_queue_no_function_can_be_enqueued():
    made = f"made-by-the-queue-{SESSION}"
    python("sensor-trainer", "api", ENQUEUES.replace("{made}", made))
    worker = object_name("deployment", "sensor-trainer-worker")
    told = f"'{made}' in Redis' queue is no training job and does not run"
    wait_until(lambda: told in kubectl("logs", worker, "--since=10m"), 60, "the worker's word of it")
    assert made not in kubectl("exec", worker, "-c", "worker", "--", "ls", "/tmp")  # noqa: S108


def test_no_list_of_processes_shows_a_password_of_redis():
    """Their environment is for the user alone that they run as."""
    said = kubectl("exec", f"{RELEASE}-redis-0", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
    assert "redis-server" in said
    known = json.loads(kubectl("get", "secret", f"{RELEASE}-redis", "-o", "json"))["data"].values()
    assert not [password for password in map(b64decode, known) if password.decode() in said]
