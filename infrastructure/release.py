"""The installed platform seen from outside the cluster: services by port-forward, passwords, Airflow's API."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar

import requests

T = TypeVar("T")

RELEASE = os.environ.get("RELEASE", "maestro")
NAMESPACE = os.environ.get("NAMESPACE", "maestro")
LOG_SECONDS = 30
# How a worker's part of a log ends when it has handed the task over to the triggerer.
HANDED_OVER = "Pausing task as DEFERRED. \n::endgroup::"
# The port of each Service that answers HTTP.
SERVICES = {
    "airflow-api-server": 8080,
    "mlflow": 5000,
    "minio": 9000,
    "model-server": 8080,
    "feast": 6566,
    "sensor-trainer": 8000,
}


class NotInstalled(Exception):
    """Something the platform should have is not in the cluster. The message says what and what to do."""


def kubectl(*arguments: str, check: bool = True) -> str:
    """The output of a kubectl command in the platform's namespace; raises NotInstalled with its error."""
    result = subprocess.run(["kubectl", "--namespace", NAMESPACE, *arguments], capture_output=True, text=True)
    if check and result.returncode:
        raise NotInstalled(f"kubectl {' '.join(arguments)}: {result.stderr.strip()} (install with 'make install')")
    return result.stdout


def object_name(component: str) -> str:
    return f"{RELEASE}-{component}"


def secret(component: str, key: str) -> str:
    """One value of the Secret of a component."""
    data = json.loads(kubectl("get", "secret", object_name(component), "-o", "json"))["data"]
    return base64.b64decode(data[key]).decode()


def wait_until(condition: Callable[[], T], seconds: float, what: str, every: float = 0.5) -> T:
    """The first true value of the condition; raises TimeoutError that names what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)


def succeeded(job: str, seconds: float, what: str) -> bool:
    """Waits for the end of the Kubernetes Job `job`; whether it is complete and not failed."""

    def ended() -> set[str]:
        conditions = json.loads(kubectl("get", job, "-o", "json"))["status"].get("conditions", [])
        return {condition["type"] for condition in conditions if condition["status"] == "True"} & {"Complete", "Failed"}

    return "Complete" in wait_until(ended, seconds, what)


@contextmanager
def port_forward(component: str, port: int | None = None) -> Iterator[str]:
    """Forward a Service's port to a free one of this machine; yields `http://127.0.0.1:<port>`."""
    remote = port or SERVICES[component]
    command = [
        "kubectl",
        "--namespace",
        NAMESPACE,
        "port-forward",
        f"service/{object_name(component)}",
        f":{remote}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    try:
        line = process.stdout.readline()
        found = re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", line)
        if not found:
            raise NotInstalled(f"cannot reach service {object_name(component)}: {line.strip() or 'kubectl ended'}")
        # kubectl tells of every connection, and after some thousands stands still where nobody reads it.
        Thread(target=deque, args=(process.stdout, 0), daemon=True).start()
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.terminate()
        process.wait()


def session() -> requests.Session:
    """One that makes a connection for each request: of one that its server has closed a port-forward tells too late."""
    made = requests.Session()
    made.headers["Connection"] = "close"
    return made


class Airflow:
    """Airflow's REST API as the admin user."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = session()
        self.login()

    def login(self) -> None:
        answer = requests.post(
            f"{self.url}/auth/token",
            json={"username": "admin", "password": secret("airflow", "admin-password")},
            timeout=30,
        )
        answer.raise_for_status()
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """The decoded answer of `/api/v2<path>`; raises requests.HTTPError with the server's own words."""
        answer = self.session.request(method, f"{self.url}/api/v2{path}", timeout=60, **arguments)
        if not answer.ok:
            raise requests.HTTPError(f"{method} {path}: {answer.status_code} {answer.text[:500]}", response=answer)
        return answer.json() if answer.content else None

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a DAG run now; returns its id."""
        run: dict[str, str] = self.call(
            "POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": dict(conf or {})}
        )
        return run["dag_run_id"]

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
        return run

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run, in the order they started."""
        tasks: list[dict[str, Any]] = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")[
            "task_instances"
        ]
        return sorted(tasks, key=lambda task: (task["start_date"] or "9", task["task_id"]))

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task returned, or None."""
        try:
            entry = self.call(
                "GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
            )
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code == 404:
                return None
            raise
        value = entry["value"]
        return json.loads(value) if isinstance(value, str) and value[:1] in "{[" else value

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> str:
        """The whole log of one try that has ended, a line an event.

        The triggerer stores its part, with the pod's output, a moment after the task has ended: it is waited for.
        """
        deadline = time.monotonic() + LOG_SECONDS
        while (log := self._stored_log(dag_id, run_id, task_id, try_number)).endswith(HANDED_OVER):
            if time.monotonic() > deadline:
                return f"{log}\n(the triggerer's part of this log is missing)"
            time.sleep(0.5)
        return log

    def _stored_log(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> str:
        events: list[str] = []
        token: str | None = None
        while True:
            path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
            answer = self.call(
                "GET",
                path,
                params={"full_content": "true", **({"token": token} if token else {})},
                headers={"Accept": "application/json"},
            )
            events += [event if isinstance(event, str) else str(event.get("event", "")) for event in answer["content"]]
            if not answer.get("continuation_token") or answer["continuation_token"] == token:
                return "\n".join(events)
            token = answer["continuation_token"]
