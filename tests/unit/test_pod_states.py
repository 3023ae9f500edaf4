"""pod-states of the image `monitoring`, beside a stand-in for the API server."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT, load_module

pod_states = load_module(ROOT / "images/monitoring/pod_states.py")

TASK = {
    "metadata": {"namespace": "maestro", "name": "task", "creationTimestamp": "1970-01-01T00:01:00Z"},
    "spec": {"containers": [{"name": "base", "resources": {"limits": {"memory": "1Gi", "cpu": "250m"}}}]},
    "status": {
        "phase": "Failed",
        "containerStatuses": [
            {
                "name": "base",
                "ready": False,
                "restartCount": 0,
                "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
            }
        ],
    },
}
SERVICE = {
    "metadata": {"namespace": "maestro", "name": 'a"service', "creationTimestamp": "1970-01-01T00:02:00Z"},
    "spec": {"containers": [{"name": "c"}]},
    "status": {
        "phase": "Running",
        "initContainerStatuses": [{"name": "i", "ready": True, "restartCount": 0, "state": {}}],
        "containerStatuses": [
            {
                "name": "c",
                "ready": False,
                "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"reason": "OOMKilled", "finishedAt": "1970-01-01T00:03:00Z"}},
            }
        ],
    },
}
PLANNED = {"metadata": {"namespace": "maestro", "name": "new"}, "spec": {"containers": [{"name": "c"}]}, "status": {}}
CLAIM = {
    "metadata": {"namespace": "maestro", "name": "data-maestro-postgresql-0"},
    "status": {"capacity": {"storage": "2Gi"}},
}
USAGE = {
    "metadata": {"namespace": "maestro", "name": "task"},
    "containers": [{"name": "base", "usage": {"memory": "1536Ki", "cpu": "3n"}}],
}
PODS = "/api/v1/namespaces/maestro/pods"
MEMORY = "/apis/metrics.k8s.io/v1beta1/namespaces/maestro/pods"
CLUSTER: dict[str, Any] = {
    PODS: [TASK, SERVICE, PLANNED],
    "/api/v1/namespaces/maestro/persistentvolumeclaims": [CLAIM],
    MEMORY: [USAGE],
}


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    with server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def api_server(answers: dict[str, Any]) -> ThreadingHTTPServer:
    """Lists that it gives whom it knows, or the number of an error in their place."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0], 404)
            known = self.headers["Authorization"] == "Bearer of-the-pod"
            status = 401 if not known else found if isinstance(found, int) else 200
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"items": found}).encode())

        def log_message(self, *_: Any) -> None: ...

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextmanager
def shown(folder: Path, answers: dict[str, Any]) -> Iterator[str]:
    """The address of pod-states beside this cluster."""
    (folder / "namespace").write_text("maestro")
    (folder / "token").write_text("of-the-pod\n")
    with (
        serving(api_server(answers)) as url,
        serving(pod_states.server(0, pod_states.Kubernetes(url, folder))) as address,
    ):
        yield address


def samples(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{address}/metrics", timeout=240) as answer:
        text = answer.read().decode()
    return {
        f"{sample.name} {' '.join(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_is_wrong_with_a_pod_is_shown_by_the_names_of_kube_state_metrics(tmp_path: Path) -> None:
    with shown(tmp_path, CLUSTER) as address:
        found = samples(address)
    expected = {
        "kube_pod_status_phase maestro task Failed": 1,
        "kube_pod_status_phase maestro task Pending": 0,
        "kube_pod_created maestro task": 60,
        "kube_pod_container_resource_limits maestro task base memory byte": 2**30,
        "kube_pod_container_resource_limits maestro task base cpu core": 0.25,
        "kube_pod_container_status_terminated_reason maestro task base OOMKilled": 1,
        'kube_pod_container_status_waiting_reason maestro a"service c CrashLoopBackOff': 1,
        'kube_pod_container_status_last_terminated_reason maestro a"service c OOMKilled': 1,
        'kube_pod_container_status_last_terminated_timestamp maestro a"service c': 180,
        'kube_pod_container_status_restarts_total maestro a"service c': 3,
        'kube_pod_container_status_ready maestro a"service i': 1,
        "kube_persistentvolumeclaim_resource_requests_storage_bytes maestro data-maestro-postgresql-0": 2**31,
        "container_memory_working_set_bytes maestro task base": 1536 * 1024,
    }
    assert expected.items() <= found.items()


@pytest.mark.parametrize("status", [404, 503])
def test_a_cluster_without_metrics_server_has_no_memory_to_show(tmp_path: Path, status: int) -> None:
    with shown(tmp_path, CLUSTER | {MEMORY: status}) as address:
        names = {name.partition(" ")[0] for name in samples(address)}
    assert "kube_pod_status_phase" in names
    assert "container_memory_working_set_bytes" not in names


@pytest.mark.parametrize("changed", [{PODS: 403}, {MEMORY: 403}])
def test_what_it_may_not_ask_is_no_answer_and_the_cause_is_said(
    tmp_path: Path, changed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with shown(tmp_path, CLUSTER | changed) as address, pytest.raises(urllib.error.HTTPError, match="502") as raised:
        samples(address)
    assert "403" in raised.value.read().decode()
    assert "the API server does not say what pods there are" in capsys.readouterr().err


def test_it_is_well_while_the_api_server_is_not(tmp_path: Path) -> None:
    with shown(tmp_path, {}) as address, urllib.request.urlopen(f"{address}/health", timeout=240) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("250m", 0.25), ("1536Ki", 1536 * 1024), ("2Gi", 2**31), ("1.5M", 1.5e6), ("7n", 7e-9), ("1e3", 1000)],
)
def test_a_quantity_is_read_as_kubernetes_writes_it(text: str, number: float) -> None:
    assert pod_states.quantity(text) == pytest.approx(number)


def test_every_name_has_one_type() -> None:
    text = pod_states.text(pod_states.of_pod(TASK))
    assert len(re.findall("^# TYPE", text, re.MULTILINE)) == len(set(re.findall(r"^(\w+)\{", text, re.MULTILINE)))
