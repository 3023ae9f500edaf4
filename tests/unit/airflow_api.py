"""Airflow's REST API as its reader sees it: runs and task instances that a test has placed, filtered as it is asked."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.unit.trainer_api import Api, Reply

NOW = datetime.now(UTC).replace(microsecond=0)
TOKEN = "a-token-of-airflow"
DEFAULTS = {"limit": ["50"], "offset": ["0"]}


def iso(at: datetime | None) -> str | None:
    return at and at.isoformat().replace("+00:00", "Z")


@dataclass
class AirflowApi:
    """password: of its only user. hangs: parts of paths whose answer does not come while the test runs."""

    api: Api
    password: str = "none"
    dags: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    task_instances: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    xcoms: dict[tuple[str, str, str, str], Any] = field(default_factory=dict)
    logs: dict[tuple[str, str, str], list[dict[str, Any]]] = field(default_factory=dict)
    pools: list[dict[str, Any]] = field(default_factory=list)
    import_errors: list[dict[str, Any]] = field(default_factory=list)
    beats: dict[str, datetime] = field(default_factory=lambda: dict.fromkeys(COMPONENTS, NOW))
    hangs: set[str] = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.api.answer = self.answer

    def dag(self, dag_id: str, *tasks: str, due: datetime | None = None, paused: bool = False) -> None:
        """A DAG of tasks in a row."""
        self.dags.append({"dag_id": dag_id, "is_paused": paused, "next_dagrun_run_after": iso(due)})
        self.tasks[dag_id] = {task: [follower] for task, follower in pairwise(tasks)}
        self.tasks[dag_id] |= {task: [] for task in tasks[-1:]}

    def run(
        self,
        dag_id: str,
        state: str,
        due: datetime,
        minutes: float | None = 5,
        version: int = 1,
        begun: bool = True,
    ) -> str:
        """A run that took so many minutes, or has run since it was due; its id."""
        run_id = f"scheduled__{due.isoformat()}"
        start = due if begun else None
        end = due + timedelta(minutes=minutes) if minutes is not None and state in ("success", "failed") else None
        self.runs.append(
            {
                "dag_id": dag_id,
                "dag_run_id": run_id,
                "state": state,
                "run_after": iso(due),
                "queued_at": iso(due),
                "start_date": iso(start),
                "end_date": iso(end),
                "dag_versions": [{"version_number": version}],
            }
        )
        return run_id

    def task(self, dag_id: str, run_id: str, task_id: str, state: str, end: datetime | None, **more: Any) -> None:
        """A task instance; cause, node and image are what the platform's operator leaves of a failed pod."""
        fields = {"map_index": -1, "try_number": 3, "duration": 60.0, "pool": "default_pool", "version": 1} | more
        cause, node, image = (fields.pop(name, None) for name in ("cause", "node", "image"))
        version = fields.pop("version")
        self.task_instances.append(
            {
                "dag_id": dag_id,
                "dag_run_id": run_id,
                "task_id": task_id,
                "state": state,
                "end_date": iso(end),
                "scheduled_when": iso(fields.pop("scheduled", None)),
                "queued_when": None,
                "dag_version": {"version_number": version},
                **fields,
            }
        )
        if cause is not None:
            self.xcoms[dag_id, run_id, task_id, "failure"] = cause
            self.xcoms[dag_id, run_id, task_id, "pod"] = {"name": "p", "node": node, "image": image}

    def pool(self, name: str, slots: int, taken: int, waiting: int = 0) -> None:
        self.pools.append(
            {
                "name": name,
                "slots": slots,
                "occupied_slots": taken,
                "open_slots": slots - taken,
                "scheduled_slots": waiting,
                "queued_slots": 0,
            }
        )

    def answer(self, method: str, path: str, body: Any) -> Reply:
        if any(part in path for part in self.hangs):
            self.ended.wait(60)
        if (method, path) == ("POST", "/auth/token"):
            known = body == {"username": "monitoring", "password": self.password}
            return (201, {"access_token": TOKEN}) if known else (401, {"detail": "Invalid credentials"})
        if method != "GET" or self.api.asked[-1][3].get("Authorization") != f"Bearer {TOKEN}":
            return 403, {"detail": "Forbidden"}
        parts = urlsplit(path)
        segments = [unquote(part) for part in parts.path.removeprefix("/api/v2/").split("/")]
        return self._answer(segments, DEFAULTS | parse_qs(parts.query))

    def _answer(self, segments: list[str], query: Mapping[str, list[str]]) -> Reply:
        match segments:
            case ["monitor", "health"]:
                beats = {name: {f"latest_{name}_heartbeat": iso(beat)} for name, beat in self.beats.items()}
                return 200, {"metadatabase": {"status": "healthy"}, **beats}
            case ["pools"]:
                return page("pools", self.pools, query)
            case ["importErrors"]:
                return page("import_errors", self.import_errors, query)
            case ["dags"]:
                return page("dags", self.dags, query)
            case ["dags", dag_id, "tasks"]:
                tasks = [{"task_id": t, "downstream_task_ids": after} for t, after in self.tasks[dag_id].items()]
                return 200, {"tasks": tasks, "total_entries": len(tasks)}
            case ["dags", dag_id, "dagRuns"]:
                return page("dag_runs", within(self.runs, dag_id), query)
            case ["dags", dag_id, "dagRuns", run_id, "taskInstances"]:
                return page("task_instances", within(self.task_instances, dag_id, run_id), query)
            case ["dags", dag_id, "dagRuns", run_id, "taskInstances", task_id, "xcomEntries", key]:
                value = self.xcoms.get((dag_id, run_id, task_id, key))
                return (404, {"detail": "not found"}) if value is None else (200, {"key": key, "value": value})
            case ["dags", dag_id, "dagRuns", run_id, "taskInstances", task_id, "logs", _]:
                return 200, {"content": self.logs.get((dag_id, run_id, task_id), []), "continuation_token": None}
        return 404, {"detail": f"no such path: {segments}"}


COMPONENTS = ("scheduler", "triggerer", "dag_processor")


def within(entries: list[dict[str, Any]], dag_id: str, run_id: str = "~") -> list[dict[str, Any]]:
    return [each for each in entries if dag_id in ("~", each["dag_id"]) and run_id in ("~", each["dag_run_id"])]


def page(key: str, entries: list[dict[str, Any]], query: Mapping[str, list[str]]) -> Reply:
    """The entries that are asked for, in the order that is asked for, at most a hundred."""
    found = entries
    for name, values in query.items():
        field_name, _, bound = name.rpartition("_")
        if bound in ("gte", "gt"):
            low = datetime.fromisoformat(values[0])
            found = [e for e in found if e[field_name] and after(datetime.fromisoformat(e[field_name]), low, bound)]
        elif name in ("state", "task_id", "pool"):
            found = [each for each in found if each[name] in values]
    for order in query.get("order_by", ()):
        field_name = order.removeprefix("-")
        found = sorted(found, key=lambda each: str(each[field_name] or ""), reverse=order.startswith("-"))
    first, limit = int(query["offset"][0]), min(100, int(query["limit"][0]))
    return 200, {key: found[first : first + limit], "total_entries": len(found)}


def after(at: datetime, low: datetime, bound: str) -> bool:
    return at >= low if bound == "gte" else at > low
