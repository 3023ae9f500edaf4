"""Airflow's REST API, for who only reads (https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from mlops.config import AirflowSettings
from mlops.result import Refused
from mlops.stores.http import Answer, HttpService, WrongAnswer, patiently, words

PAGE = 100  # entries of an answer; Airflow gives no more ([api] maximum_page_limit)
ALL = "~"  # in place of the id of a DAG or a run: all of them
_CREDENTIAL = "global.airflow.readOnlyUser.existingSecret"

Entry = Mapping[str, Any]
Query = Mapping[str, str | int | Sequence[str]]


class Page(NamedTuple):
    """Entries of a list, and how many it has in all."""

    entries: list[Entry]
    total: int


class Airflow:
    """timeout: seconds that one answer may take. patience: seconds for which a login is tried again.

    Each method raises what HttpService.ask raises.
    """

    def __init__(self, settings: AirflowSettings, timeout: float, patience: float) -> None:
        self._settings, self._timeout, self._patience = settings, timeout, patience
        self._service: HttpService | None = None

    def dags(self, offset: int = 0) -> Page:
        """The DAGs that files declare, paused ones too."""
        return self._page("/dags", "dags", {"exclude_stale": "true", "order_by": "dag_id", "offset": offset})

    def runs(self, dag_id: str, query: Query) -> Page:
        return self._page(f"/dags/{_in_path(dag_id)}/dagRuns", "dag_runs", query)

    def task_instances(self, dag_id: str, run_id: str, query: Query) -> Page:
        path = f"/dags/{_in_path(dag_id)}/dagRuns/{_in_path(run_id)}/taskInstances"
        return self._page(path, "task_instances", query)

    def upstream(self, dag_id: str) -> dict[str, set[str]]:
        """The tasks of a DAG, each with those that it comes straight after."""
        tasks = self._page(f"/dags/{_in_path(dag_id)}/tasks", "tasks", {}).entries
        before: dict[str, set[str]] = {task["task_id"]: set() for task in tasks}
        for task in tasks:
            for follower in task["downstream_task_ids"] or ():
                before.setdefault(follower, set()).add(task["task_id"])
        return before

    def xcom(self, task: Entry, key: str) -> Any:
        """What a task instance left under the key; None where it left nothing."""
        query = urlencode({"map_index": task["map_index"]})
        try:
            value = self._get(f"{_of(task)}/xcomEntries/{_in_path(key)}?{query}")["value"]
        except WrongAnswer as wrong:
            if wrong.status == 404:
                return None
            raise
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            return value

    def events(self, task: Entry) -> list[Entry]:
        """The log of the last try of a task instance, an entry an event."""
        query = urlencode({"map_index": task["map_index"], "full_content": "true"})
        content = self._get(f"{_of(task)}/logs/{task['try_number']}?{query}")["content"]
        return [event if isinstance(event, dict) else {"event": str(event)} for event in content]

    def pools(self) -> Page:
        return self._page("/pools", "pools", {"limit": PAGE})

    def import_errors(self) -> Page:
        """DAG files that cannot be read, with the cause."""
        return self._page("/importErrors", "import_errors", {"limit": PAGE})

    def health(self) -> Entry:
        """The status and the newest heartbeat of each of Airflow's components."""
        return self._get("/monitor/health")

    def _page(self, path: str, key: str, query: Query) -> Page:
        body = self._get(f"{path}?{urlencode({'limit': PAGE, **query}, doseq=True)}" if query else path)
        if not isinstance(body.get(key), list):
            raise self._logged_in().wrong(Answer(200, body), f"GET {path}", f"without {key}: {words(body)}")
        return Page(body[key], int(body.get("total_entries") or len(body[key])))

    def _get(self, path: str) -> Entry:
        service = self._logged_in()
        answer = service.ask("GET", f"/api/v2{path}")
        if not isinstance(answer.body, dict):
            raise service.wrong(answer, f"GET {path}", f"not a JSON object: {words(answer.body)}")
        return answer.body

    def _logged_in(self) -> HttpService:
        if self._service is None:
            token = patiently(self._token, self._patience)
            self._service = self._at(token)
        return self._service

    def _token(self) -> str:
        it = self._settings
        service = self._at(None)
        try:
            answer = service.ask(
                "POST", "/auth/token", {"username": it.username, "password": it.password}, expected=201
            )
        except WrongAnswer as wrong:
            if wrong.status != 401:
                raise
            raise Refused(
                f"Airflow does not let the user {it.username} in: run helm upgrade, whose Job airflow-setup gives the "
                f"user the password of the Secret {_CREDENTIAL}"
            ) from None
        token = answer.body.get("access_token") if isinstance(answer.body, dict) else None
        if not isinstance(token, str):
            raise service.wrong(answer, "POST /auth/token", "without a token")
        return token

    def _at(self, token: str | None) -> HttpService:
        return HttpService(
            *("Airflow", self._settings.url, "global.services.airflow"),
            token=token,
            credential=_CREDENTIAL,
            timeout=self._timeout,
            show=False,  # an answer may hold the token
        )


def address(dag_id: str, run_id: str | None = None, task: Entry | None = None) -> str:
    """Where people look at a DAG, at a run, at the log of a task instance's last try, below Airflow's own address."""
    place = f"dags/{_in_path(dag_id)}"
    if run_id is None:
        return place
    place += f"/runs/{_in_path(run_id)}"
    if task is None:
        return place
    mapped = f"/mapped/{task['map_index']}" if task["map_index"] >= 0 else ""
    return f"{place}/tasks/{_in_path(task['task_id'])}{mapped}?try_number={task['try_number']}"


def _of(task: Entry) -> str:
    return (
        f"/dags/{_in_path(task['dag_id'])}/dagRuns/{_in_path(task['dag_run_id'])}"
        f"/taskInstances/{_in_path(task['task_id'])}"
    )


def _in_path(name: str) -> str:
    return quote(name, safe="~")
