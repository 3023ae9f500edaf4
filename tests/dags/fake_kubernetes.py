"""The part of the Kubernetes API that the operator uses, over real HTTP, with logs, and faults and delays on demand.

It knows no kubelet: a test says what becomes of a pod. Nor does it know the server's own rules, of rights, admission,
uids, versions and graces: tests whose outcome those decide are in test_kubernetes.py, with a real API server. What a
whole cluster does is for tests/e2e to show.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

Pod = dict[str, Any]


def timestamp(seconds: float | None = None) -> str:
    """RFC 3339 in whole seconds, as the API writes times."""
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeKubernetes:
    """Pods of one namespace. Every method may be called from any thread."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.changed = threading.Condition(threading.RLock())
        self.pods: dict[str, Pod] = {}
        self.logs: dict[str, list[str]] = {}
        self.open_logs: set[str] = set()
        self.events: list[dict[str, Any]] = []  # the n-th has resource version n + 1
        self.refusals: list[tuple[str, int]] = []  # requests to come: (kind, status)
        self.requests: Counter[str] = Counter()
        self.deletions: list[tuple[str, dict[str, Any]]] = []  # names, each with what was asked for
        self.token = "first"
        self.generation = 0  # streams of an older one end
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kubernetes": self}))
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.break_streams()
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "test", "user": {"token": self.token}}],
        }

    # What a test does.

    def create(self, pod: Pod) -> Pod:
        with self.changed:
            metadata = pod["metadata"]
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": timestamp(), "namespace": self.namespace}
            pod.setdefault("status", {"phase": "Pending"})
            self.pods[metadata["name"]] = pod
            self.logs.setdefault(metadata["name"], [])
            self._tell("ADDED", pod)
            return pod

    def status(self, name: str, **fields: Any) -> None:
        with self.changed:
            self.pods[name]["status"] = {**self.pods[name]["status"], **fields}
            self._tell("MODIFIED", self.pods[name])

    def container(self, name: str, **state: Any) -> None:
        """Sets the state of the base container: container(name, running={...})."""
        self.status(name, containerStatuses=[{"name": "base", "state": state}])

    def run(self, name: str, *, log: list[str] | None = None) -> None:
        self.container(name, running={"startedAt": timestamp()})
        self.status(name, phase="Running")
        with self.changed:
            self.open_logs.add(name)
        self.say(name, *(log or []))

    def say(self, name: str, *lines: str) -> None:
        """Adds lines to the log, each a microsecond after the one before."""
        with self.changed:
            log = self.logs[name]
            start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=len(log))
            for offset, line in enumerate(lines):
                moment = (start + timedelta(microseconds=offset)).strftime("%Y-%m-%dT%H:%M:%S.%f")
                log.append(f"{moment}000Z {line}")
            self.changed.notify_all()

    def exit(self, name: str, code: int = 0, message: str = "", reason: str | None = None) -> None:
        """The container ends, and its log with it. The phase lags behind, as in a real cluster."""
        with self.changed:
            self.open_logs.discard(name)
            self.changed.notify_all()
        self.container(
            name,
            terminated={
                "exitCode": code,
                "reason": reason or ("Completed" if code == 0 else "Error"),
                "message": message,
                "startedAt": timestamp(),
                "finishedAt": timestamp(),
            },
        )

    def remove(self, name: str) -> None:
        with self.changed:
            pod = self.pods.pop(name)
            self.open_logs.discard(name)
            self._tell("DELETED", pod)

    def end_as_asked(self, name: str, code: int = 0) -> None:
        """All that an API server tells of a pod that is deleted and obeys, faster than anybody can look at it.

        The last object has the time of the kubelet's last request, as Kubernetes 1.35 writes it.
        """
        with self.changed:
            asked, metadata = time.time(), self.pods[name]["metadata"]
            metadata |= {"deletionTimestamp": timestamp(asked + 30), "deletionGracePeriodSeconds": 30}
            self._tell("MODIFIED", self.pods[name])
            self.exit(name, code)
            metadata |= {"deletionTimestamp": timestamp(asked + 2), "deletionGracePeriodSeconds": 0}
            self._tell("MODIFIED", self.pods[name])
            self.remove(name)

    def refuse(self, kind: str, status: int, times: int = 1) -> None:
        """Answers the next requests of a kind (create, read, list, watch, log, delete) with an error."""
        with self.changed:
            self.refusals += [(kind, status)] * times

    def break_streams(self) -> None:
        """Ends every open watch and log."""
        with self.changed:
            self.generation += 1
            self.changed.notify_all()

    def wait_for(self, condition: Any, timeout: float = 240.0) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout), "the API server did not come to the awaited state"

    def _tell(self, kind: str, pod: Pod) -> None:
        pod["metadata"]["resourceVersion"] = str(len(self.events) + 1)
        self.events.append({"type": kind, "object": json.loads(json.dumps(pod))})
        self.changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    kubernetes: FakeKubernetes
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        name, kind = self._parts(url.path)
        if kind == "log":
            self._serve("log", lambda: self._log(name, query))
        elif name:
            self._serve("read", lambda: self._pod(name))
        elif query.get("watch") == "true":
            self._serve("watch", lambda: self._watch(query))
        else:
            self._serve("list", lambda: self._list(query))

    def do_POST(self) -> None:
        pod = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._serve("create", lambda: self._create(pod))

    def do_DELETE(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        name, _ = self._parts(urlsplit(self.path).path)
        self._serve("delete", lambda: self._delete(name, asked))

    def _serve(self, kind: str, answer: Any) -> None:
        server = self.kubernetes
        with server.changed:
            server.requests[kind] += 1
            server.changed.notify_all()
            refused = next((refusal for refusal in server.refusals if refusal[0] == kind), None)
            if refused:
                server.refusals.remove(refused)
        if self.headers.get("Authorization") != f"Bearer {server.token}":
            self._error(401, "Unauthorized")
        elif refused:
            self._error(refused[1], "refused by the test")
        else:
            answer()

    def _create(self, pod: Pod) -> None:
        with self.kubernetes.changed:
            if pod["metadata"]["name"] in self.kubernetes.pods:
                self._error(409, "AlreadyExists")
            else:
                self._json(201, self.kubernetes.create(pod))

    def _pod(self, name: str) -> None:
        pod = self.kubernetes.pods.get(name)
        if pod is None:
            self._error(404, f'pods "{name}" not found')
        else:
            self._json(200, pod)

    def _list(self, query: dict[str, str]) -> None:
        with self.kubernetes.changed:
            items = [pod for pod in self.kubernetes.pods.values() if _selected(pod, query.get("labelSelector"))]
            version = str(len(self.kubernetes.events))
        self._json(200, {"kind": "PodList", "metadata": {"resourceVersion": version}, "items": items})

    def _delete(self, name: str, asked: dict[str, Any]) -> None:
        with self.kubernetes.changed:
            self.kubernetes.deletions.append((name, asked))
            if name not in self.kubernetes.pods:
                self._error(404, f'pods "{name}" not found')
                return
            pod = self.kubernetes.pods[name]
            self.kubernetes.remove(name)
        self._json(200, pod)

    def _watch(self, query: dict[str, str]) -> None:
        server, sent = self.kubernetes, int(query["resourceVersion"])
        generation = server.generation

        def events() -> Any:
            position = sent
            while True:
                with server.changed:
                    while len(server.events) == position and server.generation == generation:
                        server.changed.wait()
                    if server.generation != generation:
                        return
                    new = server.events[position:]
                    position = len(server.events)
                yield "".join(json.dumps(event) + "\n" for event in new)

        self._stream(events())

    def _log(self, name: str, query: dict[str, str]) -> None:
        server = self.kubernetes
        generation = server.generation
        if name not in server.pods:
            self._error(404, f'pods "{name}" not found')
            return
        since = query.get("sinceTime", "")[:19]

        def lines() -> Any:
            position = 0
            while True:
                with server.changed:
                    while follows() and len(server.logs[name]) == position:
                        server.changed.wait()
                    new = server.logs[name][position:]
                    position += len(new)
                    ended = not follows()
                yield "".join(f"{line}\n" for line in new if line[:19] >= since)
                if ended:
                    return

        def follows() -> bool:
            return query.get("follow") == "true" and name in server.open_logs and server.generation == generation

        self._stream(lines())

    def _stream(self, chunks: Any) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            if data := chunk.encode():
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _json(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, message: str) -> None:
        self._json(status, {"kind": "Status", "code": status, "message": message})

    def _parts(self, path: str) -> tuple[str, str]:
        """The pod's name and what is asked of it, of /api/v1/namespaces/N/pods/NAME/log."""
        parts = [*path.split("/")[6:], "", ""]
        return parts[0], parts[1]

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def handle(self) -> None:
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has heard enough


def _selected(pod: Pod, selector: str | None) -> bool:
    name, _, value = (selector or "").partition("=")
    labels = pod["metadata"].get("labels", {})
    return not selector or (name in labels and (not value or labels[name] == value))
