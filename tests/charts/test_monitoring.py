"""charts/monitoring: which metrics the exporter maps, when it restarts, and the check against a stand-in."""

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

from tests.charts.conftest import ROOT, find, render

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
