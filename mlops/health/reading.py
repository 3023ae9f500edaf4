"""What a check asks of Airflow and Prometheus: as much of it as they say in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from mlops.health import components, failures, runs
from mlops.health.failures import Failed, Past
from mlops.health.findings import Incident, span
from mlops.health.runs import Record, Run
from mlops.result import Failure
from mlops.stores.airflow import ALL, Airflow, Entry, Page, address
from mlops.stores.prometheus import Prometheus, Sample

_HISTORY = 50  # runs that succeeded, with which a DAG's newest is compared

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class Look:
    """What could not be looked at: a service that is slow or away costs what it was asked for, and not the rest.

    deadline: in seconds of time.monotonic(), after which nothing is asked for any more.
    """

    deadline: float
    unseen: list[str] = field(default_factory=list)
    _late: bool = False

    def at(self, what: str, ask: Callable[[], T]) -> T | None:
        """What the service says; None, with the cause among the unseen, where it does not."""
        if time.monotonic() > self.deadline:
            if not self._late:
                self.unseen.append(f"the time is up; from here on nothing was asked for: {what}, and what follows it")
            self._late = True
            return None
        try:
            return ask()
        except Failure as failure:
            log.warning("%s: %s", what, failure)
            self.unseen.append(f"{what}: {failure}")
            return None

    def all(self, what: str, ask: Callable[[int], Page], most: int) -> Sequence[Entry]:
        """The entries of a list from the first on, `most` of them; ask: a page, by its first entry's number."""
        found: list[Entry] = []
        while page := self.at(f"{what} after the first {len(found)}" if found else what, partial(ask, len(found))):
            found += page.entries
            if len(found) >= page.total or not page.entries:
                break
            if len(found) >= most:
                self.unseen.append(f"{what}: {page.total} in all, of which the first {len(found)} were looked at")
                break
        return found


def pages(ask: Callable[..., Page], *place: str, query: Mapping[str, Any]) -> Callable[[int], Page]:
    return lambda offset: ask(*place, {**query, "offset": offset})


def record(look: Look, airflow: Airflow, dag: Entry, recent: Sequence[Run], now: datetime) -> Record:
    dag_id = dag["dag_id"]
    newest_first = sorted(recent, key=lambda run: run.due, reverse=True)
    if not newest_first and dag["is_paused"]:
        return Record(dag_id, [], [])
    page = look.at(
        f"earlier runs of {dag_id}",
        lambda: airflow.runs(dag_id, {"state": "success", "order_by": "-run_after", "limit": _HISTORY}),
    )
    successes = None if page is None else [Run.of(entry) for entry in page.entries]
    due = None if dag["is_paused"] or not dag["next_dagrun_run_after"] else dag["next_dagrun_run_after"]
    record = Record(dag_id, newest_first, successes, next_due=due and datetime.fromisoformat(due))
    if not record.fails or successes is None:
        return record
    after = {"run_after_gt": successes[0].due.isoformat()} if successes else {}
    failed = look.at(
        f"failed runs of {dag_id}",
        lambda: airflow.runs(dag_id, {"state": "failed", "order_by": "run_after", "limit": 1, **after}),
    )
    first = None if failed is None or not failed.entries else (failed.total, Run.of(failed.entries[0]))
    return Record(dag_id, newest_first, successes, first, record.next_due)


def with_slowest_task(
    look: Look, airflow: Airflow, slow: Incident, records: Sequence[Record], now: datetime
) -> Incident:
    """The incident with the task that took most of the time, where that is to be seen."""
    run = next(runs.slow_run(record, now) for record in records if record.dag_id == slow.subject)
    if run is None:
        return slow
    page = look.at(
        f"the tasks of the slow run of {slow.subject}",
        lambda: airflow.task_instances(run.dag_id, run.run_id, {"order_by": "-duration"}),
    )
    timed = [entry for entry in page.entries if entry["duration"]] if page else []
    if not timed:
        return slow
    longest = max(timed, key=lambda entry: float(entry["duration"]))
    return replace(
        slow,
        text=f"{slow.text}; longest was its task {longest['task_id']}, {span(longest['duration'])}",
        links=(*slow.links, ("log of its longest task", address(run.dag_id, run.run_id, longest))),
    )


def failed(look: Look, airflow: Airflow, entry: Entry) -> Failed:
    name = f"{entry['dag_id']}.{entry['task_id']} in {entry['dag_run_id']}"
    error = look.at(f"the error of {name}", lambda: airflow.xcom(entry, "failure"))
    pod = look.at(f"the pod of {name}", lambda: airflow.xcom(entry, "pod")) if error else None
    if error is None:  # what failed before there was a pod, and what is no pod
        events = look.at(f"the log of {name}", lambda: airflow.events(entry))
        error = None if events is None else failures.last_words(events)
    return Failed.of(entry, None if error is None else str(error), pod)


def past(look: Look, airflow: Airflow, dag_id: str, task_id: str) -> Past:
    name = f"{dag_id}.{task_id}"

    def newest(state: str, order: str, **more: str) -> Page:
        return airflow.task_instances(
            dag_id, ALL, {"task_id": task_id, "state": state, "order_by": order, "limit": 1, **more}
        )

    success = look.at(f"the last success of {name}", lambda: newest("success", "-end_date"))
    if success is None:
        return Past(seen=False)
    last = success.entries[0] if success.entries else None
    after = {"end_date_gt": str(last["end_date"])} if last else {}
    first = look.at(f"the first failure of {name}", lambda: newest("failed", "end_date", **after))
    began = first.entries[0]["end_date"] if first and first.entries else None
    return Past(
        seen=True,
        success=datetime.fromisoformat(last["end_date"]) if last else None,
        success_version=(last.get("dag_version") or {}).get("version_number") if last else None,
        first_failure=began and datetime.fromisoformat(began),
    )


def starved(look: Look, airflow: Airflow, pool: Entry, now: datetime) -> list[Incident]:
    query = {"pool": pool["name"], "state": ["scheduled", "queued"]}
    waiting = look.at(f"what waits for the pool {pool['name']}", lambda: airflow.task_instances(ALL, ALL, query))
    found = components.starved(pool, waiting.entries, now) if waiting else None
    return [found] if found else []


def of_prometheus(look: Look, prometheus: Prometheus, window_hours: float) -> dict[str, Any]:
    """What only Prometheus knows: which alerts fire, and how long components were silent and pools full before."""

    def ask(what: str, expression: str) -> list[Sample]:
        return [] if away else look.at(what, lambda: prometheus.query(expression)) or []

    firing = look.at("the alerts of Prometheus", lambda: prometheus.query('ALERTS{alertstate="firing"}'))
    away = firing is None
    # A Prometheus that was just started has no whole minute behind it: then what is so now.
    window = f"[{max(1, round(window_hours * 60))}m:1m]"
    beat = "time() - max by (job_type) (airflow_db_heartbeat_timestamp_seconds)"
    silence = ask("past silences of components", f"max_over_time(({beat}){window}) or {beat}")
    by_job = {sample.labels.get("job_type"): sample.value for sample in silence}
    longest = "max by (pool) (airflow_db_pool_longest_wait_seconds)"
    wait = ask("past waits for pools", f"max_over_time(({longest}){window}) or {longest}")
    began = ask("since when alerts fire", "ALERTS_FOR_STATE")
    return {
        "prometheus": not away,
        "alerts": components.firing(firing or [], began),
        "longest_silence": {name: by_job.get(job) for name, (_, job) in components.COMPONENTS.items()},
        "longest_wait": {sample.labels.get("pool", ""): sample.value for sample in wait},
    }
