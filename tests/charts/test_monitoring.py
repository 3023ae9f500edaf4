"""charts/monitoring: what is there by which value, what is asked for metrics, what is mapped, and the check."""

import hashlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.charts.conftest import ROOT, Object, Refused, containers, environment, find, render, template
from tests.charts.profiles import maestro, pods

AIRFLOW = Path(next(iter(importlib.util.find_spec("airflow").submodule_search_locations)))
MAPPING = ROOT / "charts/monitoring/files/statsd-mapping.yaml"
CHECK = ROOT / "charts/monitoring/files/check-exporter.py"


def mapping() -> Any:
    return yaml.safe_load(find(render("monitoring"), "ConfigMap", "maestro-statsd")["data"]["mapping.yaml"])


def test_every_mapping_names_a_metric_that_airflow_emits() -> None:
    registry = yaml.safe_load((AIRFLOW / "_shared/observability/metrics/metrics_template.yaml").read_text())
    emitted = {"airflow." + re.sub(r"\{\w+\}", "x", metric["name"]) for metric in registry["metrics"]}
    for entry in mapping()["mappings"]:
        pattern = re.escape(entry["match"]).replace(r"\*", r"[^.]+")
        assert [name for name in emitted if re.fullmatch(pattern, name)], entry["match"]


def test_the_exporter_restarts_when_its_mapping_changes() -> None:
    assert mapping() == yaml.safe_load(MAPPING.read_text())
    template = find(render("monitoring"), "Deployment", "maestro-statsd")["spec"]["template"]
    assert template["metadata"]["annotations"]["checksum/mapping"] == hashlib.sha256(MAPPING.read_bytes()).hexdigest()


# What is there

WORKLOADS = ("Deployment", "StatefulSet")
EXPORTERS = {"postgresql-exporter", "redis-exporter", "pod-states"}
ALL = {"statsd", "pushgateway", "prometheus", "alertmanager", *EXPORTERS}
OPERATOR = ("--api-versions", "monitoring.coreos.com/v1")


def workloads(objects: list[Object]) -> set[str]:
    return {entry["metadata"]["name"].removeprefix("maestro-") for entry in objects if entry["kind"] in WORKLOADS}


@pytest.mark.parametrize(
    ("values", "there"),
    [
        ({}, ALL),
        ({"prometheus": {"enabled": False}}, {"statsd", "pushgateway"}),
        ({"alertmanager": {"enabled": False}}, ALL - {"alertmanager"}),
        ({"pushgateway": {"enabled": False}}, ALL - {"pushgateway"}),
        ({"postgresqlExporter": {"enabled": False}}, ALL - {"postgresql-exporter"}),
        ({"redisExporter": {"enabled": False}}, ALL - {"redis-exporter"}),
        ({"podStates": {"enabled": False}}, ALL - {"pod-states"}),
    ],
)
def test_each_part_is_switched_by_one_value_and_what_is_not_there_is_not_asked(
    values: dict[str, Any], there: set[str]
) -> None:
    objects = render("monitoring", values)
    assert workloads(objects) == there
    others = {"mlflow", "feast", "minio", "model-server", "sensor-trainer"}
    asked = there | others if "prometheus" in there else set()
    services = {entry["metadata"]["name"] for entry in objects if entry["kind"] == "Service"}
    assert {name for name in services if name.endswith("-metrics")} == {f"maestro-{name}-metrics" for name in asked}
    if asked:
        config = yaml.safe_load(find(objects, "ConfigMap", "maestro-prometheus")["data"]["prometheus.yaml"])
        assert {job["job_name"] for job in config["scrape_configs"]} == asked


def test_prometheus_asks_each_pod_at_a_port_that_it_opens() -> None:
    objects = maestro("default")
    config = yaml.safe_load(find(objects, "ConfigMap", "maestro-prometheus")["data"]["prometheus.yaml"])
    for job in config["scrape_configs"]:
        (asked,) = job["dns_sd_configs"]
        (name,) = asked["names"]
        spec = find(objects, "Service", name)["spec"]
        assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True), "each pod, ready or not"
        opened = {
            port["containerPort"]
            for container in containers(pods(objects)[job["job_name"]]["spec"])
            for port in container.get("ports", ())
        }
        assert asked["port"] in opened, name
        assert [port["port"] for port in spec["ports"]] == [asked["port"]]


def test_what_speaks_for_others_keeps_their_labels() -> None:
    config = yaml.safe_load(find(render("monitoring"), "ConfigMap", "maestro-prometheus")["data"]["prometheus.yaml"])
    kept = {job["job_name"] for job in config["scrape_configs"] if job.get("honor_labels")}
    assert kept == {"pushgateway", "pod-states"}


def test_a_component_without_metrics_is_asked_no_more_where_values_say_so() -> None:
    objects = render("monitoring", {"targets": {"mlflow": None, "own": {"port": 80, "path": "/m"}}})
    names = {entry["metadata"]["name"] for entry in objects if entry["kind"] == "Service"}
    assert "maestro-mlflow-metrics" not in names
    assert "maestro-own-metrics" in names


def test_with_the_operator_its_kinds_stand_for_a_prometheus_of_ones_own() -> None:
    values = {"operator": {"enabled": True, "labels": {"release": "stack"}}}
    objects = [
        one for one in yaml.safe_load_all(template("monitoring", values, "maestro", "maestro", *OPERATOR)) if one
    ]
    assert workloads(objects) == ALL - {"prometheus", "alertmanager"}
    monitors = [entry for entry in objects if entry["kind"] == "ServiceMonitor"]
    services = [entry for entry in objects if entry["kind"] == "Service"]
    assert len(monitors) == 10
    for monitor in monitors:
        assert monitor["metadata"]["labels"]["release"] == "stack"
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = (one for one in services if wanted <= one["metadata"]["labels"].items())
        assert [port["name"] for port in service["spec"]["ports"]] == [monitor["spec"]["endpoints"][0]["port"]]
        assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]], "the label `job` of the rules"
    (rule,) = (entry for entry in objects if entry["kind"] == "PrometheusRule")
    files = find(render("monitoring"), "ConfigMap", "maestro-prometheus-rules")["data"].values()
    assert rule["spec"]["groups"] == [group for text in files for group in yaml.safe_load(text)["groups"]]


def test_the_operators_kinds_are_not_asked_of_a_cluster_that_has_none() -> None:
    with pytest.raises(Refused, match="install the Prometheus operator first"):
        render("monitoring", {"operator": {"enabled": True}})


@pytest.mark.parametrize(
    ("name", "part"), [("prometheus", "config"), ("prometheus", "rules"), ("alertmanager", "config")]
)
def test_a_changed_configuration_replaces_the_pod_that_reads_it(name: str, part: str) -> None:
    changed = {
        "prometheus": {"externalLabels": {"a": "b"}},
        "alertmanager": {"receivers": [{"name": "own"}]},
        "rules": {"groups": [{"name": "own", "rules": []}]},
    }
    sums = [
        find(render("monitoring", values), "StatefulSet", f"maestro-{name}")["spec"]["template"]["metadata"][
            "annotations"
        ]
        for values in ({}, {"rules": changed["rules"]} if part == "rules" else {name: changed[name]})
    ]
    assert {key for key in sums[0] if sums[0][key] != sums[1][key]} == {f"checksum/{part}"}


def test_the_exporters_of_stores_elsewhere_ask_them_there() -> None:
    external = {"enabled": True, "host": "db.example.com"}
    stores = {store: {"external": external, "existingSecret": store} for store in ("postgresql", "redis")}
    objects = render("monitoring", {"global": stores, "postgresqlExporter": {"sslmode": "require"}})
    told: dict[str, Any] = {}
    for name in ("postgresql-exporter", "redis-exporter"):
        spec = find(objects, "Deployment", f"maestro-{name}")["spec"]["template"]["spec"]
        told |= environment(containers(spec)[0])
    assert told["DATA_SOURCE_URI"].startswith("db.example.com:5432/airflow?sslmode=require&")
    assert told["REDIS_ADDR"] == "redis://db.example.com:6379"
    assert told["DATA_SOURCE_PASS"]["secretKeyRef"] == {"name": "postgresql", "key": "monitoring-password"}


def test_secrets_for_receivers_and_remote_stores_are_files() -> None:
    values = {"prometheus": {"secrets": ["remote"]}, "alertmanager": {"secrets": ["night"]}}
    objects = render("monitoring", {**values, "global": {"notifications": {"slackWebhookSecret": "slack"}}})
    found = {
        mount["mountPath"]
        for name in ("prometheus", "alertmanager")
        for container in containers(find(objects, "StatefulSet", f"maestro-{name}")["spec"]["template"]["spec"])
        for mount in container["volumeMounts"]
    }
    assert {"/etc/prometheus-secrets/remote", "/etc/alertmanager-secrets/night", "/etc/alertmanager-webhook"} <= found


# The check that `helm test` runs


def test_what_the_check_sends_is_a_metric_that_the_mapping_drops() -> None:
    (sent,) = re.findall(r'sendto\(b"([\w.]+):', CHECK.read_text())
    dropped = [entry["match"].replace("*", r"\w+") for entry in mapping()["mappings"] if entry.get("action") == "drop"]
    assert any(re.fullmatch(pattern, sent) for pattern in dropped)


@contextmanager
def exporting(text: str, *, listens: bool = True) -> Iterator[dict[str, str]]:
    """A server that shows this text with the number of packets in it; yields where it is. listens: whether to count."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        arrived = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with suppress(BlockingIOError):
                    arrived.append(receiver.recv(1024))
                self.send_response(200 if self.path == "/metrics" else 404)
                self.end_headers()
                self.wfile.write(text.format(len(arrived) if listens else 0).encode())

            def log_message(self, *_: Any) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            ports = {"STATSD_PORT": receiver.getsockname()[1], "METRICS_PORT": server.server_port}
            yield {"STATSD_HOST": "127.0.0.1", **{name: str(port) for name, port in ports.items()}}
            server.shutdown()


# As Go writes a large number.
PACKETS = "# TYPE statsd_exporter_udp_packets_total counter\nstatsd_exporter_udp_packets_total 1.00000{}e+06\n"


@pytest.mark.parametrize(
    ("text", "listens", "fault"),
    [
        (PACKETS, True, ""),
        (PACKETS, False, "takes no UDP: compare global.services.statsd"),
        ("up 1\n", True, "does not say how many packets arrived"),
    ],
)
def test_the_check_passes_on_an_exporter_that_takes_packets_and_on_no_other(
    text: str, listens: bool, fault: str
) -> None:
    with exporting(text, listens=listens) as told:
        environment = {**os.environ, **told, "PATIENCE": "30" if not fault else "1"}
        result = subprocess.run([sys.executable, CHECK], env=environment, capture_output=True, text=True)
    assert fault in result.stderr
    assert bool(result.returncode) == bool(fault), result.stderr
