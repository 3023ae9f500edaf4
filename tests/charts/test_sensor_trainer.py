"""charts/sensor-trainer: what its pods run and are told, what they wait for, how many there are, and the check."""

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from mlops import datasets
from mlops.cli import parser
from mlops.config import DatabaseSettings, SensorApiSettings, SensorWorkerSettings
from tests.charts.conftest import ROOT, Object, Refused, containers, environment, find, pod_specs, render, render_anew
from tests.charts.profiles import task_pod
from tests.conftest import answers, free_ports, running
from tests.processes import eventually
from tests.servers import MLflow

API = "maestro-sensor-trainer"
WORKER = "maestro-sensor-trainer-worker"
COMPONENT = "app.kubernetes.io/component"
FIXED = {"enabled": False}
EXTERNAL = {
    "postgresql": {"external": {"enabled": True, "host": "db", "port": 6432}, "existingSecret": "db-keys"},
    "redis": {"external": {"enabled": True, "host": "cache", "port": 7000}, "existingSecret": "cache-keys"},
    "sensorTrainer": {"existingSecret": "ours"},
}


def trainer(values: dict[str, Any] | None = None, **shared: Any) -> list[Object]:
    return render("sensor-trainer", {**(values or {}), **({"global": shared} if shared else {})})


def deployment(name: str, objects: list[Object]) -> Object:
    return find(objects, "Deployment", name)["spec"]


def container(name: str, objects: list[Object]) -> Object:
    """The container of one of the two Deployments."""
    (found,) = deployment(name, objects)["template"]["spec"]["containers"]
    return found


def migration(objects: list[Object]) -> Object:
    (job,) = (entry for entry in objects if entry["kind"] == "Job")
    return job


def migrating(objects: list[Object]) -> Object:
    (found,) = migration(objects)["spec"]["template"]["spec"]["containers"]
    return found


def every(objects: list[Object]) -> list[Object]:
    return [container(API, objects), container(WORKER, objects), migrating(objects)]


# What they run


@pytest.mark.parametrize(("name", "command"), [(API, "serve"), (WORKER, "work")])
def test_pods_run_a_command_that_there_is(name: str, command: str) -> None:
    arguments = container(name, trainer())["args"]
    assert arguments[:3] == ["python", "-m", "mlops"]
    options = parser().parse_args(arguments[3:])
    assert (options.group, options.command) == ("sensor-trainer", command)


def test_the_api_listens_on_the_port_that_it_shows_and_that_prometheus_is_told() -> None:
    objects = trainer(services={"sensorTrainer": {"name": "trainer", "port": 80}})
    (port,) = container(API, objects)["ports"]
    assert parser().parse_args(container(API, objects)["args"][3:]).port == port["containerPort"]
    annotations = deployment(API, objects)["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    (served,) = find(objects, "Service", "trainer")["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (80, port["name"])


def test_the_api_takes_readings_while_something_that_it_needs_for_other_requests_is_away() -> None:
    probes = {name: container(API, trainer())[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {probe["httpGet"]["path"] for probe in probes.values()} == {"/health"}
    assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 300


def test_the_pods_have_the_same_image_and_no_token_of_the_cluster() -> None:
    specs = [spec for _, spec in pod_specs(trainer())]
    assert {entry["image"] for spec in specs for entry in containers(spec)} == {
        "localhost/maestro/sensor-trainer:latest"
    }
    assert not [spec for spec in specs if spec["automountServiceAccountToken"]]


# What they are told


def test_pods_are_told_each_setting_that_the_api_and_the_worker_read() -> None:
    objects = trainer()
    for name, settings in ((API, SensorApiSettings), (WORKER, SensorWorkerSettings)):
        told = environment(container(name, objects))
        assert settings.keys() - {"MAESTRO_REDIS_CA"} <= told.keys(), "the last where Redis speaks TLS alone"
        settings.from_environment({key: str(value) for key, value in told.items()})


def test_the_migration_is_told_of_its_database() -> None:
    told = environment(migrating(trainer()))
    settings = DatabaseSettings.from_environment({key: str(value) for key, value in told.items()})
    assert settings.url == "postgresql://sensors@maestro-postgresql:5432/sensors"


def test_defaults_of_the_values_are_those_of_the_settings() -> None:
    told = {key: str(value) for key, value in environment(container(API, trainer())).items()}
    without = {key: value for key, value in told.items() if not key.startswith("SENSOR_")}
    of_values = SensorApiSettings.from_environment(told)
    of_code = SensorApiSettings.from_environment({**without, "SENSOR_TRAINER_TOKEN": told["SENSOR_TRAINER_TOKEN"]})
    assert of_values == of_code


def test_numbers_and_names_are_written_as_python_reads_them() -> None:
    values = {"minimumNewReadings": 1_000_000, "trainingDays": 3, "retentionDays": 0, "sensors": ["one", "two"]}
    told = environment(container(WORKER, trainer(values)))
    assert (told["SENSOR_MINIMUM_NEW_READINGS"], told["SENSOR_TRAINING_DAYS"]) == ("1000000", "3")
    assert told["SENSOR_RETENTION_DAYS"] == "0"
    assert told["SENSOR_NAMES"] == "one,two"


def test_the_dataset_is_one_that_there_is() -> None:
    assert environment(container(API, trainer()))["SENSOR_DATASET"] in datasets.names()


@pytest.mark.parametrize(
    "values", [{"sensors": []}, {"sensors": ["a,b"]}, {"dataset": "no such"}, {"trainingDays": 0}], ids=str
)
def test_values_that_nothing_can_be_done_with_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=f"/{next(iter(values))}"):
        trainer(values)


def test_readings_are_not_removed_before_a_model_is_trained_on_them() -> None:
    with pytest.raises(Refused, match="retentionDays is 10 and trainingDays is 30: keep readings at least as long"):
        trainer({"retentionDays": 10})
    assert environment(container(API, trainer({"retentionDays": 30})))["SENSOR_RETENTION_DAYS"] == "30"


def test_the_stores_are_where_values_say_and_no_password_is_in_an_address_or_an_argument() -> None:
    objects = trainer(**EXTERNAL)
    for told in map(environment, every(objects)):
        assert told["DATABASE_URL"] == "postgresql://sensors@db:6432/sensors"
        assert told["PGPASSWORD"]["secretKeyRef"] == {"name": "db-keys", "key": "sensors-password"}
    for told in (environment(container(name, objects)) for name in (API, WORKER)):
        assert (told["MAESTRO_REDIS_HOST"], told["MAESTRO_REDIS_PORT"]) == ("cache", "7000")
        assert told["MAESTRO_REDIS_PASSWORD"]["secretKeyRef"] == {"name": "cache-keys", "key": "redis-password"}
    token = environment(container(API, objects))["SENSOR_TRAINER_TOKEN"]["secretKeyRef"]
    assert token == {"name": "ours", "key": "token"}
    assert not [argument for entry in every(trainer()) for argument in entry["args"] if "$(" in argument]


def test_a_database_that_nobody_creates_is_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match=r'database "sensors" is not in global\.postgresql\.databases'):
        trainer(postgresql={"databases": ["airflow"]})


# The token


def test_the_token_is_random_and_stays_when_the_release_goes() -> None:
    one, two = (find(render_anew("sensor-trainer"), "Secret", API) for _ in range(2))
    assert len(base64.b64decode(one["data"]["token"])) == 32
    assert one["data"]["token"] != two["data"]["token"]
    assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_an_existing_secret_takes_the_place_of_the_charts_own() -> None:
    assert not [entry for entry in trainer(**EXTERNAL) if entry["kind"] == "Secret"]


def task_environment(objects: list[Object]) -> dict[str, Any]:
    (base,) = task_pod(objects, needs=["sensor-trainer"])["spec"]["containers"]
    return environment(base)


def test_task_pods_bear_the_token_that_the_api_asks_for_to_where_it_listens() -> None:
    shared = {"services": {"sensorTrainer": {"name": "other", "port": 81}}, "sensorTrainer": {"existingSecret": "ours"}}
    for values in ({}, {"global": shared}):
        objects = render("maestro", values)
        told, asked = task_environment(objects), environment(container(API, objects))["SENSOR_TRAINER_TOKEN"]
        told_of = told["MAESTRO_SENSOR_TRAINER_TOKEN"]["secretKeyRef"]
        assert {key: told_of[key] for key in ("name", "key")} == asked["secretKeyRef"]
        (service,) = (
            entry
            for entry in objects
            if entry["kind"] == "Service" and entry["metadata"]["labels"][COMPONENT] == "sensor-trainer"
        )
        address = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
        assert told["MAESTRO_SENSOR_TRAINER_URL"] == address


def test_a_platform_without_the_trainer_starts_its_task_pods_all_the_same() -> None:
    told = task_environment(render("maestro", {"sensorTrainer": {"enabled": False}}))
    assert told["MAESTRO_SENSOR_TRAINER_TOKEN"]["secretKeyRef"]["optional"] is True


def test_what_has_no_use_for_the_token_is_not_told_it() -> None:
    bearers = {
        where.rpartition("/")[2]
        for where, spec in pod_specs(render("maestro"))
        for entry in spec["containers"]
        if environment(entry).keys() & {"SENSOR_TRAINER_TOKEN", "MAESTRO_SENSOR_TRAINER_TOKEN"}
    }
    assert bearers == {API, f"{API}-test"}, "besides the pods of tasks that ask it"


# How many there are


@pytest.mark.parametrize("name", [API, WORKER])
def test_a_pod_is_there_before_another_ends(name: str) -> None:
    assert deployment(name, trainer())["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


@pytest.mark.parametrize(("name", "path"), [(API, ()), (WORKER, ("worker",))])
def test_where_the_number_of_pods_is_scaled_an_upgrade_does_not_set_it(name: str, path: tuple[str, ...]) -> None:
    objects = trainer(below(path, {"autoscaling": {"minReplicas": 3, "maxReplicas": 9}}))
    assert "replicas" not in deployment(name, objects)
    scaler = find(objects, "HorizontalPodAutoscaler", name)["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 9)
    assert scaler["scaleTargetRef"]["name"] == name


@pytest.mark.parametrize(("name", "path"), [(API, ()), (WORKER, ("worker",))])
def test_without_scaling_there_are_as_many_pods_as_values_ask(name: str, path: tuple[str, ...]) -> None:
    objects = trainer(below(path, {"autoscaling": FIXED, "replicas": 4}))
    assert deployment(name, objects)["replicas"] == 4
    scalers = {entry["metadata"]["name"] for entry in objects if entry["kind"] == "HorizontalPodAutoscaler"}
    assert scalers == {API, WORKER} - {name}


def below(path: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
    return {path[0]: values} if path else values


def test_the_api_is_scaled_by_the_cpu_that_its_pods_request() -> None:
    objects = trainer({"autoscaling": {"targetCPUUtilizationPercentage": 55}})
    (metric,) = find(objects, "HorizontalPodAutoscaler", API)["spec"]["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 55}}
    assert "cpu" in container(API, objects)["resources"]["requests"]


def test_workers_are_scaled_by_a_queue_length_that_the_api_shows() -> None:
    scaling = {"targetJobsWaiting": 2, "metricSelector": {"release": "maestro"}}
    objects = trainer({"worker": {"autoscaling": scaling}})
    (metric,) = find(objects, "HorizontalPodAutoscaler", WORKER)["spec"]["metrics"]
    assert metric["external"]["metric"]["selector"]["matchLabels"] == {"release": "maestro"}
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "2"}
    shown = "".join(path.read_text() for path in (ROOT / "mlops/sensor_trainer").rglob("*.py"))
    assert f'"{metric["external"]["metric"]["name"]}"' in shown


def test_with_keda_a_scaled_object_takes_the_place_of_the_workers_autoscaler() -> None:
    scaling = {"keda": True, "minReplicas": 2, "maxReplicas": 5, "targetJobsWaiting": 3}
    objects = trainer({"worker": {"autoscaling": scaling}})
    assert [entry["metadata"]["name"] for entry in objects if entry["kind"] == "HorizontalPodAutoscaler"] == [API]
    assert "replicas" not in deployment(WORKER, objects)
    scaler = find(objects, "ScaledObject", WORKER)["spec"]
    assert scaler["scaleTargetRef"] == {"name": WORKER}
    assert (scaler["minReplicaCount"], scaler["maxReplicaCount"]) == (2, 5)
    (trigger,) = scaler["triggers"]
    address = urlsplit(trigger["metadata"]["url"])
    service = find(objects, "Service", API)
    assert address.hostname == f"{API}.maestro", "with its namespace"
    assert address.port in [port["port"] for port in service["spec"]["ports"]]
    assert (address.path, trigger["metadata"]["targetValue"]) == ("/metrics", "3")
    assert f'"{trigger["metadata"]["valueLocation"]}"' in (ROOT / "mlops/sensor_trainer/api/metrics.py").read_text()


@pytest.mark.parametrize("values", [{"keda": True}, {"keda": True, "enabled": False}], ids=str)
def test_keda_is_asked_for_nothing_unless_it_is_to_scale(values: dict[str, Any]) -> None:
    objects = trainer({"worker": {"autoscaling": values}})
    assert bool([entry for entry in objects if entry["kind"] == "ScaledObject"]) == values.get("enabled", True)


@pytest.mark.parametrize(
    ("values", "budgets"),
    [
        ({"autoscaling": FIXED, "worker": {"autoscaling": FIXED}}, set()),
        ({}, {API}),
        ({"autoscaling": FIXED, "replicas": 2}, {API}),
        ({"autoscaling": {"minReplicas": 1}, "replicas": 2}, set()),
        ({"autoscaling": FIXED, "worker": {"autoscaling": {"minReplicas": 2}}}, {WORKER}),
    ],
    ids=str,
)
def test_more_than_one_pod_gets_a_disruption_budget(values: dict[str, Any], budgets: set[str]) -> None:
    objects = trainer(values)
    found = {entry["metadata"]["name"]: entry for entry in objects if entry["kind"] == "PodDisruptionBudget"}
    assert found.keys() == budgets
    for name, budget in found.items():
        labels = deployment(name, objects)["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"autoscaling": {"minReplicas": 7}}, r": autoscaling\.minReplicas is 7"),
        ({"worker": {"autoscaling": {"minReplicas": 7}}}, r": worker\.autoscaling\.minReplicas is 7"),
        ({"worker": {"autoscaling": {"minReplicas": 7, "keda": True}}}, r": worker\.autoscaling\.minReplicas is 7"),
    ],
    ids=["api", "worker", "keda"],
)
def test_a_range_that_is_empty_is_refused_with_the_remedy(values: dict[str, Any], where: str) -> None:
    with pytest.raises(Refused, match=where + ".*set minReplicas to at most maxReplicas"):
        trainer(values)


# The Job that brings the tables up to date


def revisions(values: dict[str, Any] | None = None) -> tuple[str, str]:
    """The revision that the Job marks, and the one that the pods wait for."""
    objects = render("sensor-trainer", values)
    shell, flags, script = migrating(objects)["args"]
    assert (shell, flags) == ("sh", "-euc")
    migrate, mark = script.splitlines()
    assert migrate.split()[:3] == ["python", "-m", "mlops"]
    options = parser().parse_args(migrate.split()[3:])
    assert (options.group, options.command) == ("sensor-trainer", "migrate")
    assert mark.split()[:3] == ["release-gate", "mark", "sensor-trainer"]
    awaited = set()
    for name in (API, WORKER):
        (gate,) = deployment(name, objects)["template"]["spec"]["initContainers"]
        assert gate["args"][:3] == ["release-gate", "wait", "sensor-trainer"]
        assert environment(gate)["DATABASE_URL"] == environment(migrating(objects))["DATABASE_URL"]
        awaited.add(gate["args"][3])
    (revision,) = awaited
    return mark.split()[3], revision


def test_pods_wait_for_what_the_job_marks() -> None:
    marked, awaited = revisions()
    assert marked == awaited


@pytest.mark.parametrize(
    ("values", "another"),
    [
        ({"global": {"images": {"tags": {"sensor-trainer": "2"}}}}, True),
        ({"global": {"services": {"postgresql": {"name": "other"}}}}, True),
        ({"global": {"images": {"tags": {"task": "2"}}}}, False),
        ({"minimumNewReadings": 1, "sensors": ["other"], "resources": {"limits": {"memory": "3Gi"}}}, False),
    ],
    ids=["image", "database", "another image", "what pods are told"],
)
def test_only_another_image_or_database_is_migrated_again(values: dict[str, Any], another: bool) -> None:
    assert (revisions(values) != revisions()) is another
    names = [migration(render("sensor-trainer", each))["metadata"]["name"] for each in (values, {})]
    assert (names[0] != names[1]) is another


def test_a_migration_that_fails_marks_nothing_and_is_tried_again(tmp_path: Path) -> None:
    for name, code in (("python", 1), ("release-gate", 0)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho $0 >>{tmp_path}/log\nexit {code}\n")
        program.chmod(0o755)
    arguments = migrating(trainer())["args"]
    result = subprocess.run(arguments, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert result.returncode == 1
    assert (tmp_path / "log").read_text().splitlines() == [f"{tmp_path}/python"]
    spec = migration(trainer())["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "OnFailure"
    assert spec["backoffLimit"] >= 5


# The check that `helm test` runs


@contextmanager
def answering(ready: int, token: str, lookup: int, text: str) -> Iterator[str]:
    """A trainer that answers so to /ready, and to a request for a job that bears the token; "" asks for none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/ready":
                self.answer(ready, "{}")
            elif token and self.headers["Authorization"] != f"Bearer {token}":
                self.answer(401, "{}")
            else:
                self.answer(lookup, text.format(job=self.path.rpartition("/")[2]))

        def answer(self, status: int, body: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


NO_JOB = "there is no job {job}"


@pytest.mark.parametrize(
    ("ready", "token", "lookup", "text", "said"),
    [
        (200, "right", 404, NO_JOB, ""),
        (503, "right", 404, NO_JOB, "/ready: 503"),
        (200, "other", 404, NO_JOB, "cannot look a job up with the Secret's token: 401"),
        (200, "", 404, NO_JOB, "a request without a token is answered"),
        (200, "right", 503, "PostgreSQL is away", "cannot look a job up with the Secret's token: 503"),
        (200, "right", 404, "Not Found", "cannot look a job up with the Secret's token: 404 Not Found"),
    ],
)
def test_the_check_passes_on_a_trainer_that_is_ready_and_asks_for_the_token_and_on_no_other(
    ready: int, token: str, lookup: int, text: str, said: str
) -> None:
    with answering(ready, token, lookup, text) as url:
        result = check(url, "right")
    assert result.returncode == bool(said), result.stderr
    assert said in result.stderr


def check(url: str, token: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / "charts/sensor-trainer/files/check-trainer.py"],
        env={**os.environ, "SENSOR_TRAINER_URL": url, "SENSOR_TRAINER_TOKEN": token},
        capture_output=True,
        text=True,
    )


# What the chart says, done with the real servers


@pytest.fixture(scope="module")
def stores(postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The chart's values for a PostgreSQL with an empty database `sensors`, and for a Redis."""
    with psycopg.connect(f"{postgresql}/postgres", autocommit=True) as connection:
        connection.execute("CREATE ROLE sensors LOGIN")
        connection.execute("CREATE DATABASE sensors OWNER sensors")
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--requirepass", "s", "--save", ""]
    with running([*command, "--dir", str(folder)], folder / "log", lambda: answers_at_all(port)):
        yield {
            "postgresql": external(int(postgresql.rpartition(":")[2])),
            "redis": external(port),
        }


def external(port: int) -> dict[str, Any]:
    return {"external": {"enabled": True, "host": "127.0.0.1", "port": port}, "existingSecret": "keys"}


def answers_at_all(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with `python` and `release-gate`, as the image has them."""
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "release-gate").write_text(
        f'#!/bin/sh\nexec {sys.executable} {ROOT}/images/base/release_gate.py "$@"\n'
    )
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    return tmp_path


def test_the_release_gate_opens_when_the_tables_are_there_and_the_api_passes_the_check(
    stores: dict[str, Any], mlflow_uri: str, programs: Path
) -> None:
    objects = trainer(**stores)

    def told(entry: Object) -> dict[str, str]:
        """The environment of a container, with the addresses and secrets of here."""
        given = {name: value if isinstance(value, str) else "s" for name, value in environment(entry).items()}
        here = {"MLFLOW_TRACKING_URI": mlflow_uri, **MLflow.reader, "PATH": f"{programs}:{os.environ['PATH']}"}
        return {**os.environ, **given, **here}

    (gate,) = deployment(API, objects)["template"]["spec"]["initContainers"]
    wait = [*gate["args"][:-1], "0"]
    assert subprocess.run(wait, env=told(gate), cwd=ROOT, capture_output=True).returncode == 1
    migrate = migrating(objects)
    for _ in range(2):
        result = subprocess.run(migrate["args"], env=told(migrate), cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    assert subprocess.run(wait, env=told(gate), cwd=ROOT, capture_output=True).returncode == 0

    api = container(API, objects)
    (port,) = free_ports(1)
    serve = [*api["args"][:-1], f"--port={port}"]
    url = f"http://127.0.0.1:{port}"
    with running(serve, programs / "log", lambda: answers(f"{url}/health"), {**told(api), "PYTHONPATH": str(ROOT)}):
        # On a busy machine what it needs may answer later than within the two seconds.
        eventually(lambda: check(url, "s").returncode == 0)
        assert check(url, "wrong").returncode == 1
