"""So much of a Kubernetes API server, over real HTTP, as a rollout of one Deployment needs; and its model server.

A rollout takes a few reads of the Deployment. A version in `broken` never comes up: its pods crash or find no image.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.processes import in_background

NAMESPACE, NAME = "maestro", "maestro-model-server"
ANNOTATION = "maestro/model-version"
_READS_PER_ROLLOUT = 2

CRASHING = {
    "restartCount": 3,
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
    "lastState": {"terminated": {"exitCode": 1, "message": "model version 2 may run code when it is loaded"}},
}
NO_IMAGE = {
    "restartCount": 0,
    "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}},
    "lastState": {},
}
STARTING: dict[str, Any] = {"restartCount": 0, "state": {"running": {}}, "lastState": {}}


class Cluster:
    def __init__(self, model: str = "sensor-failure") -> None:
        self.model = model  # that the server serves
        self.version: str | None = None  # of the pod template
        self.versions: list[str | None] = []  # of all pod templates there were
        self.replicas = 2
        self.broken: dict[str, dict[str, Any]] = {}  # version -> what its container's status says
        self.overtaken_by: str | None = None  # a version that somebody else rolls out right after
        self.answers_requests = True
        self.requests = 0  # that the model server was sent
        self.denies = False
        self.generation = 1
        self._reads = _READS_PER_ROLLOUT

    def deployment(self) -> dict[str, Any]:
        self._reads += 1
        done = self._reads > _READS_PER_ROLLOUT and self.version not in self.broken
        annotations = {ANNOTATION: self.version} if self.version else {}
        container = {"name": "server", "env": [{"name": "MODEL_NAME", "value": self.model}]}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": NAME, "generation": self.generation},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": {"app": "model-server"}},
                "template": {"metadata": {"annotations": annotations}, "spec": {"containers": [container]}},
            },
            "status": {
                "observedGeneration": self.generation if self._reads > 1 else self.generation - 1,
                "replicas": self.replicas if done else self.replicas + 1,
                "updatedReplicas": self.replicas if done else 1,
                "availableReplicas": self.replicas,
            },
        }

    def patch(self, change: dict[str, Any]) -> dict[str, Any]:
        annotations = change["spec"]["template"]["metadata"]["annotations"]
        assert annotations["maestro/model-name"] == (self.model if annotations[ANNOTATION] else None)
        self.roll(annotations[ANNOTATION])
        return self.deployment()

    def roll(self, version: str | None) -> None:
        if version != self.version:
            self.version, self._reads = version, 0
            self.generation += 1
            self.versions.append(version)

    def pods(self) -> dict[str, Any]:
        """The old pod, which is well, and the new one."""
        return {
            "kind": "PodList",
            "apiVersion": "v1",
            "items": [self._pod("old", None), self._pod("new", self.version)],
        }

    def _pod(self, name: str, version: str | None) -> dict[str, Any]:
        status = {"name": "server", "image": "task", "imageID": "", "ready": False}
        return {
            "metadata": {"name": name, "annotations": {ANNOTATION: version} if version else {}},
            "spec": {"containers": [{"name": "server"}]},
            "status": {"phase": "Running", "containerStatuses": [status | self.broken.get(version or "", STARTING)]},
        }

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        deployment = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}"
        if path == "/invocations":
            self.requests += 1
            rows = json.loads(body)["dataframe_split"]["data"]
            return (200, {"predictions": [0] * len(rows)}) if self.answers_requests else (500, {"message": "broken"})
        if self.denies:
            return 403, {"kind": "Status", "reason": "Forbidden", "code": 403}
        if path == deployment:
            if method == "PATCH":
                patched = self.patch(json.loads(body))
                if self.overtaken_by:
                    self.roll(self.overtaken_by)
                return 200, patched
            return 200, self.deployment()
        if path == f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Dmodel-server":
            return 200, self.pods()
        return 404, {"kind": "Status", "reason": "NotFound", "code": 404}


@contextmanager
def serving(cluster: Cluster, kubeconfig: Path) -> Iterator[str]:
    """Serves the cluster at the yielded address and writes a kubeconfig that names it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = cluster.answer(self.command, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PATCH = do_POST = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": address}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "users": [{"name": "test", "user": {}}],
            }
        )
    )
    with in_background(server):
        yield address
