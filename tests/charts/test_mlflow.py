"""charts/mlflow: who may call the server, when it starts, and its scripts against a real MLflow and PostgreSQL."""

import base64
import configparser
import importlib
import os
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from mlflow import MlflowClient
from mlflow.cli import cli
from mlflow.server.security_utils import is_allowed_host_header

from tests.charts.conftest import ROOT, Object, Refused, environment, find, render
from tests.servers import MLFLOW_PLUGIN

FILES = ROOT / "charts/mlflow/files"


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the image has on Python's path."""
    monkeypatch.syspath_prepend(MLFLOW_PLUGIN)


def deployment(objects: list[Object]) -> Object:
    return find(objects, "Deployment", "maestro-mlflow")["spec"]


def server(values: dict[str, Any] | None = None) -> Object:
    (container,) = deployment(render("mlflow", values))["template"]["spec"]["containers"]
    return container


def migration(objects: list[Object]) -> Object:
    (job,) = (entry for entry in objects if entry["kind"] == "Job")
    return job


def revisions(values: dict[str, Any]) -> tuple[str, str]:
    """The revision that the Job marks, and the one that pods wait for."""
    objects = render("mlflow", values)
    (job,) = migration(objects)["spec"]["template"]["spec"]["containers"]
    (gate,) = deployment(objects)["template"]["spec"]["initContainers"]
    assert gate["args"][:3] == ["release-gate", "wait", "mlflow"]
    return job["args"][-1], gate["args"][3]


# Who may call it


@pytest.mark.parametrize(
    "host",
    [
        "maestro-mlflow:5000",
        "maestro-mlflow",
        "maestro-mlflow.maestro:5000",
        "maestro-mlflow.maestro.svc:5000",
        "maestro-mlflow.maestro.svc.cluster.local:5000",
        "127.0.0.1:40123",
        "localhost:5000",
        "10.1.2.3:5000",
        "mlflow.example.com",
    ],
)
def test_the_server_answers_to_its_names(host: str) -> None:
    assert is_allowed_host_header(allowed_hosts(), host)


@pytest.mark.parametrize(
    "host", ["evil.example", "maestro-mlflow.evil.example", "maestro-mlflow.maestro.svc.evil.example:5000", "10.9.9.9"]
)
def test_the_server_answers_to_no_other_name(host: str) -> None:
    assert not is_allowed_host_header(allowed_hosts(), host)


def allowed_hosts() -> list[str]:
    """As the container reads them in a pod with the address 10.1.2.3."""
    container = server({"allowedHosts": ["mlflow.example.com"]})
    names = [entry["name"] for entry in container["env"]]
    assert names.index("POD_IP") < names.index("MLFLOW_SERVER_ALLOWED_HOSTS"), "Kubernetes replaces what stands before"
    return environment(container)["MLFLOW_SERVER_ALLOWED_HOSTS"].replace("$(POD_IP)", "10.1.2.3").split(",")


# What it is told


def test_the_server_is_started_with_options_that_mlflow_knows() -> None:
    program, command, *options = server({"workers": 3})["args"]
    assert program == "mlflow"
    parsed = cli.commands[command].make_context(command, options, resilient_parsing=True).params
    assert parsed["workers"] == "3"
    assert parsed["artifacts_destination"] == "s3://mlflow"
    assert parsed["serve_artifacts"]


def test_no_password_is_in_an_address_or_an_argument() -> None:
    container = server()
    told = environment(container)
    assert told["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg2://mlflow@maestro-postgresql:5432/mlflow"
    assert told["PGPASSWORD"]["secretKeyRef"] == {"name": "maestro-postgresql", "key": "mlflow-password"}
    assert not [argument for argument in container["args"] if "$(" in argument]


def test_a_database_that_nobody_creates_is_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match=r'database "mlflow" is not in global\.postgresql\.databases'):
        render("mlflow", {"global": {"postgresql": {"databases": ["airflow"]}}})


def test_without_metrics_none_are_kept_or_looked_for() -> None:
    objects = render("mlflow", {"metrics": {"enabled": False}})
    assert "annotations" not in deployment(objects)["template"]["metadata"]
    (container,) = deployment(objects)["template"]["spec"]["containers"]
    assert not [argument for argument in container["args"] if "prometheus" in argument]


@pytest.mark.parametrize(("replicas", "budgets"), [(1, 0), (2, 1)])
def test_more_than_one_pod_gets_a_disruption_budget(replicas: int, budgets: int) -> None:
    objects = render("mlflow", {"replicas": replicas})
    found = [entry for entry in objects if entry["kind"] == "PodDisruptionBudget"]
    assert len(found) == budgets
    for budget in found:
        labels = deployment(objects)["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


# Its users

TOLD = {"writer": "TRACKING_WRITER_PASSWORD", "reader": "TRACKING_READER_PASSWORD"}


def test_the_server_runs_behind_the_application_that_asks_for_passwords() -> None:
    (name,) = [argument.partition("=")[2] for argument in server()["args"] if argument.startswith("--app-name=")]
    (points,) = (ROOT / "images/mlflow").glob("*.dist-info/entry_points.txt")
    found = configparser.ConfigParser()
    found.read(points)
    module, _, function = found["mlflow.app"][name].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert "--enable-workspaces" not in server()["args"], "their routes are open, since MLflow then refuses them"


def test_each_user_has_a_random_password_in_a_secret_that_is_kept() -> None:
    secret = find(render("mlflow"), "Secret", "maestro-mlflow")
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    passwords = [base64.b64decode(secret["data"][f"{user}-password"]) for user in TOLD]
    assert len(set(passwords)) == 2 and all(len(password) == 32 for password in passwords)
    told = environment(server())
    for user, variable in TOLD.items():
        assert told[variable]["secretKeyRef"] == {"name": "maestro-mlflow", "key": f"{user}-password"}


def test_an_existing_secret_takes_the_place_of_ours_for_the_server_and_its_clients() -> None:
    values = {"global": {"mlflow": {"existingSecret": "ours"}}}
    objects = render("mlflow", values)
    assert not [entry for entry in objects if entry["kind"] == "Secret"]
    told = environment(server(values))
    assert {told[variable]["secretKeyRef"]["name"] for variable in TOLD.values()} == {"ours"}
    (pod,) = [entry for entry in objects if entry["kind"] == "Pod"]
    (test,) = pod["spec"]["containers"]
    assert environment(test)["MLFLOW_TRACKING_PASSWORD"]["secretKeyRef"]["name"] == "ours"
    service = find(objects, "Service", "maestro-mlflow")["metadata"]["annotations"]
    assert service == {"maestro/secret-name": "ours", "maestro/username": "writer"}


# Migration


def test_pods_wait_for_what_the_job_marks() -> None:
    marked, awaited = revisions({})
    assert marked == awaited


@pytest.mark.parametrize(
    ("values", "another"),
    [
        ({"global": {"images": {"tags": {"mlflow": "2"}}}}, True),
        ({"global": {"services": {"postgresql": {"name": "other"}}}}, True),
        ({"global": {"images": {"tags": {"task": "2"}}}}, False),
        ({"replicas": 2, "workers": 2}, False),
    ],
)
def test_only_another_mlflow_or_database_is_migrated_again(values: dict[str, Any], another: bool) -> None:
    assert (revisions(values) != revisions({})) is another
    name = migration(render("mlflow", values))["metadata"]["name"]
    assert (name != migration(render("mlflow"))["metadata"]["name"]) is another


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with `release-gate`, as the image has it, and `mlflow`."""
    python = Path(sys.executable)
    (tmp_path / "mlflow").symlink_to(python.with_name("mlflow"))
    gate = tmp_path / "release-gate"
    gate.write_text(f'#!/bin/sh\nexec {python} {ROOT}/images/base/release_gate.py "$@"\n')
    gate.chmod(0o755)
    return tmp_path


def migrate(programs: Path, address: str, revision: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, FILES / "migrate.py", revision],
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "DATABASE_URL": address,
            "MLFLOW_BACKEND_STORE_URI": address.replace("postgresql:", "postgresql+psycopg2:"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        capture_output=True,
        text=True,
    )


def test_the_migration_fills_an_empty_database_may_be_repeated_and_marks_its_revision(
    postgresql: str, programs: Path
) -> None:
    name = f"mlflow_{uuid.uuid4().hex}"
    with closing(psycopg2.connect(f"{postgresql}/postgres")) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
    for revision in ("one", "two"):
        result = migrate(programs, f"{postgresql}/{name}", revision)
        assert result.returncode == 0, result.stderr
    with closing(psycopg2.connect(f"{postgresql}/{name}")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT component, revision FROM release_gate ORDER BY revision")
        assert cursor.fetchall() == [("mlflow", "one"), ("mlflow", "two")]
        cursor.execute("SELECT to_regclass('experiments') IS NOT NULL")
        assert cursor.fetchone() == (True,)


def test_a_migration_that_fails_marks_nothing(postgresql: str, programs: Path) -> None:
    (programs / "mlflow").unlink()
    (programs / "mlflow").write_text("#!/bin/sh\nexit 1\n")
    (programs / "mlflow").chmod(0o755)
    name = f"mlflow_{uuid.uuid4().hex}"
    with closing(psycopg2.connect(f"{postgresql}/postgres")) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
    assert migrate(programs, f"{postgresql}/{name}", "one").returncode != 0
    with closing(psycopg2.connect(f"{postgresql}/{name}")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('release_gate')")
        assert cursor.fetchone() == (None,)


# The check that `helm test` runs


def test_the_check_passes_on_a_server_that_works_may_be_repeated_and_leaves_no_run(
    mlflow_uri: str, tmp_path: Path
) -> None:
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, FILES / "check-tracking.py"],
            env={**os.environ, "MLFLOW_TRACKING_URI": mlflow_uri, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
    client = MlflowClient(mlflow_uri)
    experiment = client.get_experiment_by_name("helm-test")
    assert experiment is not None
    assert client.search_runs([experiment.experiment_id]) == []
