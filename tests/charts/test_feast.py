"""charts/feast: what the server is told, what it waits for, how many there are, and the check against a server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from mlops.cli import parser
from mlops.result import EXIT_REFUSED
from tests.charts.conftest import ROOT, Object, Refused, environment, find, render

FIXED = {"autoscaling": {"enabled": False}}


def deployment(objects: list[Object]) -> Object:
    return find(objects, "Deployment", "maestro-feast")["spec"]


def server(objects: list[Object]) -> Object:
    (container,) = deployment(objects)["template"]["spec"]["containers"]
    return container


def apply_job(objects: list[Object]) -> Object:
    (job,) = (entry for entry in objects if entry["kind"] == "Job")
    return job


def apply_container(objects: list[Object]) -> Object:
    (container,) = apply_job(objects)["spec"]["template"]["spec"]["containers"]
    return container


def kinds(objects: list[Object]) -> list[str]:
    return [entry["kind"] for entry in objects]


# The server


def test_pods_run_a_command_that_there_is_on_the_ports_that_they_show() -> None:
    container = server(render("feast"))
    assert container["args"][:3] == ["python", "-m", "mlops"]
    options = parser().parse_args(container["args"][3:])
    assert (options.group, options.command) == ("features", "serve")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": options.port, "metrics": options.metrics_port}


def test_the_stores_are_where_values_say_and_their_passwords_in_no_address() -> None:
    shared = {
        "postgresql": {"external": {"enabled": True, "host": "db", "port": 6432}, "existingSecret": "db-keys"},
        "redis": {"external": {"enabled": True, "host": "cache", "port": 7000}, "existingSecret": "cache-keys"},
    }
    told = environment(server(render("feast", {"global": shared})))
    assert told["MAESTRO_FEAST_REGISTRY"] == "postgresql+psycopg2://feast@db:6432/feast"
    assert told["MAESTRO_FEAST_REGISTRY_PASSWORD"]["secretKeyRef"] == {"name": "db-keys", "key": "feast-password"}
    assert (told["MAESTRO_REDIS_HOST"], told["MAESTRO_REDIS_PORT"]) == ("cache", "7000")
    assert told["MAESTRO_REDIS_PASSWORD"]["secretKeyRef"] == {"name": "cache-keys", "key": "redis-password"}


def test_a_database_that_nobody_creates_is_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match=r'database "feast" is not in global\.postgresql\.databases'):
        render("feast", {"global": {"postgresql": {"databases": ["airflow"]}}})


def test_without_metrics_none_are_served_or_looked_for() -> None:
    objects = render("feast", {"metrics": {"enabled": False}})
    assert "annotations" not in deployment(objects)["template"]["metadata"]
    assert not [argument for argument in server(objects)["args"] if "metrics" in argument]
    assert [port["name"] for port in server(objects)["ports"]] == ["http"]


def test_prometheus_finds_the_metrics() -> None:
    annotations = deployment(render("feast"))["template"]["metadata"]["annotations"]
    ports = {port["name"]: str(port["containerPort"]) for port in server(render("feast"))["ports"]}
    assert annotations["prometheus.io/port"] == ports["metrics"]


# How many there are


def test_a_pod_is_ready_before_another_ends() -> None:
    spec = deployment(render("feast"))
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_where_the_number_of_pods_is_scaled_an_upgrade_does_not_set_it() -> None:
    objects = render("feast", {"autoscaling": {"minReplicas": 3, "maxReplicas": 9}})
    assert "replicas" not in deployment(objects)
    scaler = find(objects, "HorizontalPodAutoscaler", "maestro-feast")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 9)
    assert scaler["scaleTargetRef"]["name"] == "maestro-feast"
    assert "cpu" in server(objects)["resources"]["requests"], "the utilization is of what is requested"


def test_without_scaling_there_are_as_many_pods_as_values_ask() -> None:
    objects = render("feast", {**FIXED, "replicas": 3})
    assert deployment(objects)["replicas"] == 3
    assert "HorizontalPodAutoscaler" not in kinds(objects)


@pytest.mark.parametrize(
    ("values", "budgets"),
    [
        ({**FIXED, "replicas": 1}, 0),
        ({**FIXED, "replicas": 2}, 1),
        ({"autoscaling": {"minReplicas": 1}, "replicas": 2}, 0),
        ({"autoscaling": {"minReplicas": 2}}, 1),
    ],
)
def test_more_than_one_pod_gets_a_disruption_budget(values: dict[str, Any], budgets: int) -> None:
    objects = render("feast", values)
    found = [entry for entry in objects if entry["kind"] == "PodDisruptionBudget"]
    assert len(found) == budgets
    for budget in found:
        labels = deployment(objects)["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_a_range_that_is_empty_is_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match="set minReplicas to at most maxReplicas"):
        render("feast", {"autoscaling": {"minReplicas": 7}})


# The Job that applies the definitions


def revisions(values: dict[str, Any] | None = None) -> tuple[str, str]:
    """The revision that the Job marks, and the one that pods wait for."""
    objects = render("feast", values)
    shell, flags, script = apply_container(objects)["args"]
    assert (shell, flags) == ("sh", "-euc")
    apply, mark = script.splitlines()
    assert apply.split()[:3] == ["python", "-m", "mlops"]
    options = parser().parse_args(apply.split()[3:])
    assert (options.group, options.command) == ("features", "apply")
    assert mark.split()[:3] == ["release-gate", "mark", "feast"]
    (gate,) = deployment(objects)["template"]["spec"]["initContainers"]
    assert gate["args"][:3] == ["release-gate", "wait", "feast"]
    assert environment(gate)["DATABASE_URL"] == environment(apply_container(objects))["DATABASE_URL"]
    return mark.split()[3], gate["args"][3]


def test_pods_wait_for_what_the_job_marks() -> None:
    marked, awaited = revisions()
    assert marked == awaited


@pytest.mark.parametrize(
    "shared",
    [
        {"images": {"tags": {"feast": "2"}}},
        {"services": {"postgresql": {"name": "other"}}},
        {"buckets": {"feast": "other"}},
        {"s3": {"external": {"enabled": True, "endpoint": "https://s3.example.com"}, "existingSecret": "keys"}},
    ],
)
def test_other_definitions_another_registry_or_another_store_are_applied_by_a_job_of_their_own(
    shared: dict[str, Any],
) -> None:
    assert revisions({"global": shared}) != revisions()
    name = apply_job(render("feast", {"global": shared}))["metadata"]["name"]
    assert name != apply_job(render("feast"))["metadata"]["name"]


@pytest.mark.parametrize("values", [{"resources": {"limits": {"memory": "2Gi"}}}, {**FIXED, "replicas": 2}])
def test_what_only_the_server_has_makes_no_new_job(values: dict[str, Any]) -> None:
    assert revisions(values) == revisions()
    assert apply_job(render("feast", values)) == apply_job(render("feast"))


def test_a_refusal_ends_the_job_and_any_other_failure_is_tried_again() -> None:
    spec = apply_job(render("feast"))["spec"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [EXIT_REFUSED]}}
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "Kubernetes wants it with such a policy"
    assert spec["backoffLimit"] >= 5


def test_a_refusal_marks_nothing_and_its_exit_code_is_the_containers(tmp_path: Any) -> None:
    for name, code in (("python", EXIT_REFUSED), ("release-gate", 0)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho $0 >>{tmp_path}/log\nexit {code}\n")
        program.chmod(0o755)
    arguments = apply_container(render("feast"))["args"]
    result = subprocess.run(arguments, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert result.returncode == EXIT_REFUSED
    assert (tmp_path / "log").read_text().splitlines() == [f"{tmp_path}/python"]


# The check that `helm test` runs


@contextmanager
def answering(health: int, lookup: int, text: str) -> Iterator[str]:
    """A server that answers so to /health and to a request for features."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(health if self.path == "/health" else 404, "")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(lookup, text.format(**body))

        def answer(self, status: int, body: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.mark.parametrize(
    ("health", "lookup", "text", "code"),
    [
        (200, 404, "there is no feature service {feature_service}", 0),
        (503, 404, "there is no feature service {feature_service}", 1),
        (200, 500, "the database is away", 1),
        (200, 404, "Not Found", 1),
        (200, 200, "{{}}", 1),
    ],
)
def test_the_check_passes_on_a_server_that_reads_its_registry_and_on_no_other(
    health: int, lookup: int, text: str, code: int
) -> None:
    with answering(health, lookup, text) as url:
        result = subprocess.run(
            [sys.executable, ROOT / "charts/feast/files/check-server.py"],
            env={**os.environ, "FEAST_URL": url},
            capture_output=True,
        )
    assert result.returncode == code, result.stderr
