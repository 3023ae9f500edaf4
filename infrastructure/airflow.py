"""Airflow's REST API as the admin user, from outside the cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import requests

from infrastructure.services import admin, session

LOG_SECONDS = 30
# How a worker's part of a log ends when it has handed the task over to the triggerer.
HANDED_OVER = "Pausing task as DEFERRED. \n::endgroup::"


class Airflow:
    """Airflow's REST API as the admin user."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = session()
        self.login()

    def login(self) -> None:
        username, password = admin()
        asked = {"username": username, "password": password}
        answer = requests.post(f"{self.url}/auth/token", json=asked, timeout=30)
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
