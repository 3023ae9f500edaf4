"""What all pods of all charts may do, are told, mount and wait for: one table or rule for all of them."""

import json
import re
from collections.abc import Iterator

import pytest

from mlops.result import EXIT_REFUSED, EXIT_SKIPPED
from tests.charts.conftest import ROOT, Object, containers, environment, find, render
from tests.charts.profiles import PROFILES, command_job, maestro, platform, pods, task_pod

CHARTS = ("postgresql", "redis", "minio", "mlflow", "feast", "modelServer", "sensorTrainer", "airflow", "monitoring")


def folder(chart: str) -> str:
    """The folder of a chart, by the key of its values in the umbrella."""
    return re.sub(r"(?=[A-Z])", "-", chart).lower()


@pytest.fixture(params=PROFILES)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return maestro(request.param)


def each(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """`pod container`, the pod and the container, of all containers."""
    for name, pod in pods(objects).items():
        for container in containers(pod["spec"]):
            yield f"{name} {container['name']}", pod, container


# What a process may do on its node


def test_every_pod_runs_as_the_user_of_the_images_with_the_same_few_rights(objects: list[Object]) -> None:
    base = (ROOT / "images/base/Dockerfile").read_text()
    (user,) = map(int, re.findall(r"^USER (\d+):\1$", base, re.MULTILINE))
    for name, pod in pods(objects).items():
        assert pod["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }, name
    for name, _, container in each(objects):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name


def test_no_pod_shares_anything_of_its_node_or_is_told_more_than_its_own_keys(objects: list[Object]) -> None:
    for name, pod in pods(objects).items():
        assert not [field for field in pod["spec"] if field.startswith("host") or field == "shareProcessNamespace"], (
            name
        )
        assert pod["spec"]["enableServiceLinks"] is False, f"{name}: a Service called mlflow would set MLFLOW_PORT"
    for name, _, container in each(objects):
        assert "envFrom" not in container, name
        assert not [port for port in container.get("ports", ()) if "hostPort" in port], name


def test_what_a_container_mounts_is_a_volume_of_its_pod_and_can_be_written_to_only_where_it_is_to_be(
    objects: list[Object],
) -> None:
    for name, pod in pods(objects).items():
        volumes = {volume["name"]: volume.keys() - {"name"} for volume in pod["spec"].get("volumes", ())}
        # DAG files, for all but the Job that brings them.
        read = {v["name"] for v in pod["spec"].get("volumes", ()) if v.get("persistentVolumeClaim", {}).get("readOnly")}
        mounted = set()
        for container in containers(pod["spec"]):
            for mount in container.get("volumeMounts", ()):
                mounted.add(mount["name"])
                # The claims of a StatefulSet are no volumes of its template.
                (kind,) = volumes.get(mount["name"], {"volumeClaimTemplate"})
                assert kind != "volumeClaimTemplate" or mount["name"] == "data", f"{name} {mount['name']}"
                writable = kind in ("emptyDir", "persistentVolumeClaim", "volumeClaimTemplate")
                writable = (writable and container["name"] != "backup" and mount["name"] not in read) or (
                    mount["name"] == "tmp"
                )
                assert mount.get("readOnly", False) != writable, f"{name} {container['name']} {mount['name']}"
        assert volumes.keys() <= mounted, name


# What a pod may do in the cluster


def rule(group: str, resource: str, *verbs: str, names: tuple[str, ...] = ()) -> Object:
    named = {"resourceNames": list(names)} if names else {}
    return {"apiGroups": [group], "resources": [resource], **named, "verbs": list(verbs)}


# All that service accounts of the platform may do. What is not here nobody may.
RIGHTS = {
    "airflow": [
        rule("", "pods", "create", "get", "list", "watch", "delete"),
        rule("", "pods/log", "get"),
    ],
    "pod-states": [
        rule("", "pods", "list"),
        rule("", "persistentvolumeclaims", "list"),
        rule("metrics.k8s.io", "pods", "list"),
    ],
    "task": [],
}
# The pods of each service account; all others have the default one, which may do nothing.
IDENTITIES = {
    "maestro-airflow": {
        "airflow-api-server",
        "airflow-dag-processor",
        "airflow-retention",
        "airflow-scheduler",
        "airflow-setup",
        "airflow-test",
        "airflow-triggerer",
        "airflow-worker",
        "airflow-worker-large",
    },
    "maestro-pod-states": {"pod-states"},
    "maestro-task": {"task"},
}


def test_service_accounts_may_do_what_the_table_says_in_their_namespace_and_no_more(objects: list[Object]) -> None:
    rights: dict[str, list[Object]] = {}
    for entry in objects:
        if entry["kind"] == "ServiceAccount":
            rights.setdefault(entry["metadata"]["name"], [])
            assert entry["automountServiceAccountToken"] is False
        if entry["kind"] == "RoleBinding":
            assert entry["roleRef"].keys() == {"apiGroup", "kind", "name"}
            assert entry["roleRef"]["kind"] == "Role"
            (subject,) = entry["subjects"]
            assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", "maestro")
            rights.setdefault(subject["name"], []).extend(find(objects, "Role", entry["roleRef"]["name"])["rules"])
    rolled = json.loads(find(objects, "ConfigMap", "maestro-model-server")["data"]["servers"]).values()
    names = tuple(sorted(server["deployment"] for server in rolled))
    deployer = [rule("apps", "deployments", "get", "patch", names=names), rule("", "pods", "list")]
    expected = {**RIGHTS, "deployer": deployer}
    assert rights == {f"maestro-{name}": rules for name, rules in expected.items()}
    assert not [entry["kind"] for entry in objects if entry["kind"].startswith("Cluster")]


def test_pods_have_the_identity_that_the_table_says_and_its_token_only_where_they_use_it(objects: list[Object]) -> None:
    for name, pod in pods(objects).items():
        expected = next((account for account, names in IDENTITIES.items() if name in names), "default")
        assert pod["spec"].get("serviceAccountName", "default") == expected, name
        assert pod["spec"]["automountServiceAccountToken"] is False, name
    holders = {
        name
        for name, pod, container in each(objects)
        for mount in container.get("volumeMounts", ())
        for volume in pod["spec"].get("volumes", ())
        if mount["name"] == volume["name"] and "serviceAccountToken" in json.dumps(volume)
    }
    # Who runs tasks makes their pods.
    workers = {f"{name} celery" for name in pods(objects) if name.startswith("airflow-worker")}
    airflow = {*(workers or {"airflow-scheduler scheduler"}), "airflow-triggerer triggerer", "airflow-test test"}
    assert holders == {*airflow, "pod-states pod-states"}


def test_a_task_has_the_token_of_the_identity_that_it_names_and_no_other() -> None:
    spec = task_pod(maestro("default"), identity="deployer")["spec"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("maestro-deployer", True)
    assert set(platform(maestro("default")).identities) == {"deployer"}


# What a pod is told of Secrets

ROOT_OF_S3 = {"AWS_ACCESS_KEY_ID": "minio/root-user", "AWS_SECRET_ACCESS_KEY": "minio/root-password"}
FEATURES = {"MAESTRO_REDIS_PASSWORD": "redis/features-password"}
QUEUE = {"MAESTRO_REDIS_PASSWORD": "redis/queue-password"}
BROKER = {"MAESTRO_REDIS_PASSWORD": "redis/celery-password"}
REGISTRY = {"MAESTRO_FEAST_REGISTRY_PASSWORD": "postgresql/feast-password"}
TRAINER = {"SENSOR_TRAINER_TOKEN": "sensor-trainer/token"}
TRAINER_OF_TASKS = {"MAESTRO_SENSOR_TRAINER_TOKEN": "sensor-trainer/token"}
CHANNELS = {
    "MAESTRO_SLACK_WEBHOOK_URL": "slack/url",
    **{f"MAESTRO_MAIL_{key.upper()}": f"mail/{key}" for key in ("from", "to", "username", "password")},
}
ADMIN = {"MAESTRO_ADMIN_PASSWORD": "airflow/admin-password"}
READER = {"MAESTRO_AIRFLOW_PASSWORD": "airflow/read-only-password"}
OF_SETUP = ADMIN | {"MAESTRO_READ_ONLY_PASSWORD": "airflow/read-only-password"}


def s3(user: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": f"minio-{user}/access-key",
        "AWS_SECRET_ACCESS_KEY": f"minio-{user}/secret-key",
    }


def database(name: str) -> dict[str, str]:
    return {"PGPASSWORD": f"postgresql/{name}-password"}


AIRFLOW = {"AIRFLOW__CORE__FERNET_KEY": "airflow/fernet-key", **database("airflow")}
LOGS = {"AIRFLOW__API__SECRET_KEY": "airflow/api-secret-key", **s3("airflow")}
TOKENS = {"AIRFLOW__API_AUTH__JWT_SECRET": "airflow/jwt-secret"}
DATABASES = ("airflow", "mlflow", "feast", "sensors", "ledger")
LEDGER = {"MAESTRO_LEDGER_PASSWORD": "postgresql/ledger-password"}
MLFLOW_WRITER = {"MLFLOW_TRACKING_PASSWORD": "mlflow/writer-password"}
MLFLOW_READER = {"MLFLOW_TRACKING_PASSWORD": "mlflow/reader-password"}
SECRETS: dict[str, dict[str, str]] = {
    "airflow-api-server api-server": AIRFLOW | LOGS | TOKENS,
    "airflow-api-server release-gate": database("airflow"),
    "airflow-dag-processor dag-processor": AIRFLOW | CHANNELS,
    "airflow-dag-processor release-gate": database("airflow"),
    "airflow-dag-processor dags-gate": database("airflow"),
    "airflow-worker dags-gate": database("airflow"),
    "airflow-worker-large dags-gate": database("airflow"),
    "airflow-dags dags": database("airflow"),
    "airflow-dags release-gate": database("airflow"),
    "airflow-scheduler release-gate": database("airflow"),
    "airflow-scheduler scheduler": AIRFLOW | LOGS | TOKENS | CHANNELS | BROKER,
    "airflow-retention retention": AIRFLOW,
    "airflow-setup setup": AIRFLOW | OF_SETUP,
    "airflow-test test": AIRFLOW | s3("airflow") | CHANNELS | ADMIN,
    "airflow-triggerer release-gate": database("airflow"),
    "airflow-triggerer triggerer": AIRFLOW | LOGS | CHANNELS,
    **{f"airflow-worker{name} celery": database("airflow") | BROKER | LOGS | CHANNELS for name in ("", "-large")},
    **{f"airflow-worker{name} release-gate": database("airflow") for name in ("", "-large")},
    "command command": s3("features") | REGISTRY,
    "feast feast": s3("feast") | REGISTRY | FEATURES,
    "feast release-gate": database("feast"),
    "feast-apply apply": s3("feast") | REGISTRY | FEATURES | MLFLOW_READER | database("feast"),
    "minio minio": {"MINIO_ROOT_USER": "minio/root-user", "MINIO_ROOT_PASSWORD": "minio/root-password"},
    "minio-buckets buckets": ROOT_OF_S3,
    "minio-buckets users": ROOT_OF_S3,
    "minio-test test": ROOT_OF_S3,
    "mlflow mlflow": s3("mlflow")
    | database("mlflow")
    | {f"TRACKING_{user.upper()}_PASSWORD": f"mlflow/{user}-password" for user in ("writer", "reader")},
    "mlflow release-gate": database("mlflow"),
    "mlflow-migrate migrate": database("mlflow"),
    "mlflow-retention retention": database("mlflow") | MLFLOW_WRITER,
    "mlflow-test test": MLFLOW_WRITER,
    "retention retention": s3("tasks") | MLFLOW_READER,
    "model-server model-server": MLFLOW_READER,
    "model-server-trial model-server": MLFLOW_READER,
    "model-server-clicks model-server": MLFLOW_READER | FEATURES | s3("serving"),
    "postgresql postgresql": {
        f"{name.upper()}_PASSWORD": f"postgresql/{name}-password"
        for name in ("postgres", "monitoring", "pooler", *DATABASES)
    },
    "postgresql-pooler pooler": database("pooler"),
    "postgresql-backup backup": database("postgres"),
    "postgresql-stanza backup": database("postgres"),
    "postgresql-exporter postgresql-exporter": {"DATA_SOURCE_PASS": "postgresql/monitoring-password"},
    **{f"postgresql-test {name}": database(name) for name in DATABASES},
    **{f"postgresql-test pooled-{name}": database(name) for name in ("airflow", "feast", "mlflow")},
    "redis-exporter redis-exporter": {"REDIS_PASSWORD": "redis/monitoring-password"},
    "redis redis": {
        "REDISCLI_AUTH": "redis/redis-password",
        **{
            f"{user.upper()}_PASSWORD": f"redis/{user}-password"
            for user in ("features", "queue", "celery", "monitoring")
        },
    },
    "redis-test test": FEATURES,
    "sensor-trainer api": database("sensors") | QUEUE | MLFLOW_READER | TRAINER,
    "sensor-trainer release-gate": database("sensors"),
    "sensor-trainer-migrate migrate": database("sensors"),
    "sensor-trainer-test test": TRAINER,
    "sensor-trainer-worker release-gate": database("sensors"),
    "sensor-trainer-worker worker": database("sensors") | QUEUE | MLFLOW_WRITER | LEDGER,
    # Of one that would open all there is.
    "task base": s3("features") | REGISTRY | FEATURES | MLFLOW_WRITER | LEDGER | TRAINER_OF_TASKS | CHANNELS | READER,
}


def test_containers_are_told_of_secrets_what_the_table_says_and_no_more() -> None:
    told = {}
    for name, _, container in each(maestro("everything")):
        references = {
            key: f"{source['name'].removeprefix('maestro-')}/{source['key']}"
            for key, value in environment(container).items()
            if isinstance(value, dict) and (source := value.get("secretKeyRef"))
        }
        if references:
            told[name] = references
    assert told == SECRETS


def test_a_password_of_a_database_is_that_of_the_user_in_its_address(objects: list[Object]) -> None:
    for name, _, container in each(objects):
        told = environment(container)
        if address := told.get("DATABASE_URL"):
            user, database = re.fullmatch(r"postgresql://(\w+)@[\w.-]+:\d+/(\w+)", address).groups()
            assert user == database
            assert told["PGPASSWORD"]["secretKeyRef"]["key"] == f"{user}-password", name


# Where pods run, and where their images come from

PLACED = {
    "priorityClassName": "high",
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
}
MEASURES = re.compile(r"statsd|pushgateway|prometheus|alertmanager|(postgresql|redis)-exporter|pod-states")
ANYWHERE = re.compile(r"(?!airflow).*-test|command|retention")


def test_every_pod_runs_where_values_say_and_pulls_as_they_say() -> None:
    schemas = {key: json.loads((ROOT / "charts" / folder(key) / "values.schema.json").read_text()) for key in CHARTS}
    placed = {key: {f: v for f, v in PLACED.items() if f in schema["properties"]} for key, schema in schemas.items()}
    tasks = {
        field: PLACED[field] for field in schemas["airflow"]["properties"]["taskPods"]["properties"] if field in PLACED
    }
    placed["airflow"]["taskPods"] = tasks
    pulled = {"images": {"pullPolicy": "Always", "pullSecrets": ["registry"]}}
    rendered = render("maestro", {**placed, "global": pulled})
    objects = [*rendered, task_pod(rendered)]
    for name, pod in pods(objects).items():
        fields = {field: pod["spec"][field] for field in PLACED if field in pod["spec"]}
        called = "monitoring" if MEASURES.fullmatch(name) else name.replace("-", "")
        key = next((key for key in CHARTS if called.startswith(key.lower())), "taskPods")
        expected = (
            tasks if key == "taskPods" else {field: placed[key][field] for field in PLACED if field in placed[key]}
        )
        assert fields == ({} if ANYWHERE.fullmatch(name) else expected), name
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}], name
    for name, _, container in each(objects):
        assert container["imagePullPolicy"] == "Always", name


# How pods come and go

ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
RECREATE = {"type": "Recreate"}
# The strategy of each Deployment, the seconds that a pod has to end, and those of them in which it takes the requests
# that still come, where a Service leads to it.
ROLLOUTS: dict[str, tuple[Object, int, int]] = {
    "airflow-api-server": (ROLLING, 60, 5),
    "airflow-dag-processor": (ROLLING, 30, 0),
    "airflow-scheduler": (ROLLING, 120, 0),
    "airflow-triggerer": (ROLLING, 60, 0),
    "feast": (ROLLING, 30, 5),
    "mlflow": (ROLLING, 30, 5),
    "model-server": (ROLLING, 40, 10),
    "sensor-trainer": (ROLLING, 30, 5),
    "sensor-trainer-worker": (ROLLING, 120, 0),
    "pod-states": (ROLLING, 30, 0),
    "postgresql-exporter": (ROLLING, 30, 0),
    "pushgateway": (RECREATE, 30, 0),
    "redis-exporter": (ROLLING, 30, 0),
    "statsd": (RECREATE, 30, 0),
}


def rollout(deployment: Object) -> tuple[Object, int, int]:
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    strategy = {"type": "RollingUpdate", **deployment["spec"]["strategy"]}
    drain = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    return strategy, spec.get("terminationGracePeriodSeconds", 30), drain


def test_deployments_roll_as_the_table_says() -> None:
    deployments = {e["metadata"]["name"]: e for e in maestro("default") if e["kind"] == "Deployment"}
    assert {name.removeprefix("maestro-"): rollout(entry) for name, entry in deployments.items()} == ROLLOUTS


def test_with_the_api_server_in_its_pod_only_one_scheduler_runs_at_a_time() -> None:
    scheduler = find(maestro("minikube"), "Deployment", "maestro-airflow-scheduler")
    assert rollout(scheduler) == (RECREATE, 120, 0)
    (api_server,) = (c for c in containers(scheduler["spec"]["template"]["spec"]) if c["name"] == "api-server")
    assert "lifecycle" not in api_server, "it outlives the scheduler anyway"


@pytest.mark.parametrize(
    ("name", "grace"), [("postgresql", 120), ("redis", 60), ("minio", 30), ("prometheus", 120), ("alertmanager", 30)]
)
def test_a_store_has_one_pod_which_an_upgrade_replaces_even_where_it_never_became_ready(name: str, grace: int) -> None:
    spec = find(maestro("default"), "StatefulSet", f"maestro-{name}")["spec"]
    assert (spec["replicas"], spec["podManagementPolicy"]) == (1, "Parallel")
    assert "updateStrategy" not in spec
    assert spec["template"]["spec"].get("terminationGracePeriodSeconds", 30) == grace


def test_a_budget_lets_one_pod_go_and_any_that_is_not_ready() -> None:
    budgets = [entry for entry in maestro("everything") if entry["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == 14
    for budget in budgets:
        spec = {key: value for key, value in budget["spec"].items() if key != "selector"}
        assert spec == {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"}, budget["metadata"]["name"]


# Jobs: how often a pod that fails is followed by another, and whether its container is started again in its place.

JOBS = {
    "airflow-setup": (10, "OnFailure"),
    "feast-apply": (10, "Never"),
    "minio-buckets": (10, "OnFailure"),
    "mlflow-migrate": (10, "OnFailure"),
    "sensor-trainer-migrate": (10, "OnFailure"),
}


def test_a_job_is_tried_until_what_it_needs_is_there_and_stays_for_its_log(objects: list[Object]) -> None:
    jobs = {re.sub(r"^maestro-|-\w{8}$", "", e["metadata"]["name"]): e["spec"] for e in objects if e["kind"] == "Job"}
    found = {name: (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) for name, job in jobs.items()}
    of_some = {name: (10, "OnFailure") for name in ("airflow-dags", "postgresql-stanza") if name in found}
    assert found == JOBS | of_some
    for name, job in jobs.items():
        # A Job that is gone would be made anew by the next upgrade; one that ends early would leave pods waiting.
        assert job.keys() <= {"backoffLimit", "template", "podFailurePolicy"}, name


def test_what_runs_by_the_clock_runs_once_at_a_time_and_cannot_hang_for_good(objects: list[Object]) -> None:
    for entry in (entry for entry in objects if entry["kind"] == "CronJob"):
        spec = entry["spec"]
        assert (spec["timeZone"], spec["concurrencyPolicy"]) == ("UTC", "Forbid")
        assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 86400


def test_a_job_that_a_person_asks_for_ends_soon_and_goes_with_the_release() -> None:
    job = command_job(maestro("default"), "features", "build")
    spec = {key: value for key, value in job["spec"].items() if key != "template"}
    refused = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [EXIT_REFUSED, EXIT_SKIPPED]}}
    assert spec == {
        "backoffLimit": 3,
        "activeDeadlineSeconds": 600,
        "ttlSecondsAfterFinished": 3600,
        "podFailurePolicy": {"rules": [refused]},
    }
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("ConfigMap", "maestro-command")


# What `helm test` runs


def test_every_chart_has_a_pod_that_helm_test_runs_once_and_clears_away(objects: list[Object]) -> None:
    tests = {entry["metadata"]["labels"]["app.kubernetes.io/name"]: entry for entry in objects if is_test(entry)}
    assert tests.keys() == set(CHARTS)
    for entry in tests.values():
        assert entry["metadata"]["annotations"] == {
            "helm.sh/hook": "test",
            "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
        }
        assert entry["spec"]["restartPolicy"] == "Never"


def is_test(entry: Object) -> bool:
    return entry["kind"] == "Pod" and "helm.sh/hook" in entry["metadata"].get("annotations", {})


def test_the_scripts_of_helm_test_are_run_as_they_are_and_told_what_they_read(objects: list[Object]) -> None:
    scripts = {path.parts[-3]: path.read_text() for path in (ROOT / "charts").glob("*/files/check-*.py")}
    run = set()
    for entry in filter(is_test, objects):
        for container in entry["spec"]["containers"]:
            if container["args"][:2] == ["python", "-c"]:
                chart = folder(entry["metadata"]["labels"]["app.kubernetes.io/name"])
                run.add(chart)
                (script,) = container["args"][2:]
                assert script.strip() == scripts[chart].strip()
                assert "$(" not in script, "Kubernetes would replace it"
                assert set(re.findall(r"os\.environ\[['\"](\w+)['\"]\]", script)) <= environment(container).keys()
    assert run == scripts.keys()
