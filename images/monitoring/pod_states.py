#!/usr/bin/env python3
"""Shows the states of a namespace's pods to Prometheus: `pod-states PORT`. Standard library only.

The names and labels are those of kube-state-metrics, and of cAdvisor for memory, so that rules and panels are the same
where a cluster has these. It asks the API server when it is asked itself: for the pods and the claims of volumes, and
metrics-server for memory, which a cluster need not have. It may list these and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = 8  # seconds; Prometheus waits for ten
PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
# Of a quantity of Kubernetes; without a suffix 1.
SUFFIXES = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
SUFFIXES |= {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)}
SUFFIXES |= {"n": 1e-9, "u": 1e-6}

Object = Mapping[str, Any]


class Sample(NamedTuple):
    """One line of the answer."""

    name: str
    labels: Mapping[str, str]
    value: float


class Kubernetes:
    """An API server, asked with the pod's own account, whose token the kubelet renews."""

    def __init__(self, url: str, account: Path = ACCOUNT) -> None:
        self._url, self._account = url, account
        self.namespace = (account / "namespace").read_text().strip()
        bundle = account / "ca.crt"
        self._trust = ssl.create_default_context(cafile=str(bundle)) if bundle.exists() else None

    @classmethod
    def from_environment(cls) -> Kubernetes:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}")

    def listed(self, group: str, resource: str) -> list[Object]:
        """All of a kind in the namespace, as the API server has it in memory."""
        url = f"{self._url}/{group}/namespaces/{self.namespace}/{resource}?resourceVersion=0"
        token = (self._account / "token").read_text().strip()
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=TIMEOUT, context=self._trust) as answer:
            items: list[Object] = json.load(answer)["items"]
        return items


def quantity(text: str) -> float:
    """A quantity of Kubernetes, such as 250m or 2Gi, as a number."""
    number, suffix = re.fullmatch(r"([0-9.eE+-]+?)([A-Za-z]*)", text).groups()  # type: ignore[union-attr]
    return float(number) * SUFFIXES.get(suffix, 1.0)


def of_pod(pod: Object) -> Iterator[Sample]:
    """What there is to say of one pod."""
    labels = _labels(pod)
    status = pod.get("status", {})
    for phase in PHASES:
        yield Sample("kube_pod_status_phase", {**labels, "phase": phase}, float(status.get("phase") == phase))
    if "creationTimestamp" in pod["metadata"]:
        yield Sample("kube_pod_created", labels, _seconds(pod["metadata"]["creationTimestamp"]))
    for container in pod["spec"]["containers"]:
        named = {**labels, "container": container["name"]}
        for resource, amount in container.get("resources", {}).get("limits", {}).items():
            unit = "byte" if resource == "memory" else "core" if resource == "cpu" else "integer"
            limit = {**named, "resource": resource.replace("/", "_"), "unit": unit}
            yield Sample("kube_pod_container_resource_limits", limit, quantity(str(amount)))
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        yield from of_container(container, {**labels, "container": container["name"]})


def of_container(status: Object, labels: Mapping[str, str]) -> Iterator[Sample]:
    yield Sample("kube_pod_container_status_restarts_total", labels, status["restartCount"])
    yield Sample("kube_pod_container_status_ready", labels, float(status["ready"]))
    state, last = status.get("state", {}), status.get("lastState", {}).get("terminated")
    if reason := state.get("waiting", {}).get("reason"):
        yield Sample("kube_pod_container_status_waiting_reason", {**labels, "reason": reason}, 1)
    if reason := state.get("terminated", {}).get("reason"):
        yield Sample("kube_pod_container_status_terminated_reason", {**labels, "reason": reason}, 1)
    if last:
        if reason := last.get("reason"):
            yield Sample("kube_pod_container_status_last_terminated_reason", {**labels, "reason": reason}, 1)
        if ended := last.get("finishedAt"):
            yield Sample("kube_pod_container_status_last_terminated_timestamp", labels, _seconds(ended))


def of_claim(claim: Object) -> Iterator[Sample]:
    labels = {"namespace": claim["metadata"]["namespace"], "persistentvolumeclaim": claim["metadata"]["name"]}
    if size := claim.get("status", {}).get("capacity", {}).get("storage"):
        yield Sample("kube_persistentvolumeclaim_resource_requests_storage_bytes", labels, quantity(size))


def of_usage(pod: Object) -> Iterator[Sample]:
    """What metrics-server says of a pod."""
    for container in pod["containers"]:
        labels = {**_labels(pod), "container": container["name"]}
        yield Sample("container_memory_working_set_bytes", labels, quantity(container["usage"]["memory"]))


def samples(kubernetes: Kubernetes) -> Iterator[Sample]:
    for pod in kubernetes.listed("api/v1", "pods"):
        yield from of_pod(pod)
    for claim in kubernetes.listed("api/v1", "persistentvolumeclaims"):
        yield from of_claim(claim)
    try:
        for pod in kubernetes.listed("apis/metrics.k8s.io/v1beta1", "pods"):
            yield from of_usage(pod)
    except urllib.error.HTTPError as error:
        # A cluster without metrics-server has no such kind, and one whose server is away answers 503.
        if error.code not in (404, 503):
            raise


def text(found: Iterable[Sample]) -> str:
    """In Prometheus' notation, all lines of a name together."""
    by_name: dict[str, list[str]] = {}
    for name, labels, value in found:
        written = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        by_name.setdefault(name, []).append(f"{name}{{{written}}} {value:.15g}\n")
    return "".join(
        f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}\n{''.join(lines)}"
        for name, lines in by_name.items()
    )


def _labels(pod: Object) -> dict[str, str]:
    return {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def server(port: int, kubernetes: Kubernetes) -> ThreadingHTTPServer:
    """Answers /metrics, with 502 and the cause where the API server does not, and /health with nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                status, body = (200, text(samples(kubernetes)) if self.path == "/metrics" else "")
            except OSError as error:
                status, body = 502, f"the API server does not say what pods there are: {error}\n"
                print(body, end="", file=sys.stderr, flush=True)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None: ...

    return ThreadingHTTPServer(("", port), Handler)


if __name__ == "__main__":
    server(int(sys.argv[1]), Kubernetes.from_environment()).serve_forever()
