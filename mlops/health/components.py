"""Airflow's own processes, its pools and DAG files, and what Prometheus knows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mlops.health.findings import Incident, minute, moment, span
from mlops.stores.airflow import Entry
from mlops.stores.prometheus import Sample

SILENT = 90.0  # seconds without a heartbeat, as in charts/monitoring/files/rules/airflow.yaml
STARVED = 600.0  # seconds for which a task may wait for a slot of a full pool, as there

# Each as Airflow's API names it, what people call it, and its job in Airflow's database.
COMPONENTS = {
    "scheduler": ("the scheduler", "SchedulerJob"),
    "triggerer": ("the triggerer", "TriggererJob"),
    "dag_processor": ("the dag-processor", "DagProcessorJob"),
}
_MEANS = {
    "scheduler": "no run is started and no task is queued",
    "triggerer": "no task that waits for its pod ends",
    "dag_processor": "changed DAG files are not seen",
}


def silent(health: Entry, now: datetime) -> list[Incident]:
    """The components whose heartbeat is old or missing. health: of Airflow's API."""
    found = []
    if health.get("metadatabase", {}).get("status") != "healthy":
        found.append(Incident("component", "metadatabase", "Airflow's database does not answer Airflow"))
    for name, (called, _) in COMPONENTS.items():
        about = health.get(name) or {}
        beat = moment(about.get(f"latest_{name}_heartbeat"))
        if beat is None:
            found.append(Incident("component", name, f"{called} has never given a sign of life: {_MEANS[name]}"))
        elif (age := (now - beat).total_seconds()) > SILENT:
            text = f"{called} has given no sign of life for {span(age)}: {_MEANS[name]}"
            found.append(Incident("component", name, text, beat.isoformat()))
    return found


def heartbeats(health: Entry) -> dict[str, str | None]:
    """The newest heartbeat of each component."""
    return {name: (health.get(name) or {}).get(f"latest_{name}_heartbeat") for name in COMPONENTS}


def is_full(pool: Entry) -> bool:
    """Whether a pool has no slot left, and tasks wait for one."""
    waiting = pool["scheduled_slots"] + pool["queued_slots"]
    return bool(pool["slots"] >= 0 and pool["open_slots"] <= 0 and waiting > 0)


def starved(pool: Entry, waiting: Sequence[Entry], now: datetime) -> Incident | None:
    """What there is to say of a full pool. waiting: task instances that wait for it."""
    since = [at for task in waiting if (at := moment(task["scheduled_when"] or task["queued_when"]))]
    if not since or (now - min(since)).total_seconds() <= STARVED:
        return None
    wait = span((now - min(since)).total_seconds())
    text = (
        f"all {pool['slots']} slots are taken, {pool['scheduled_slots'] + pool['queued_slots']} tasks wait for one, "
        f"the first for {wait}: give it more slots in airflow.pools, or end what hangs"
    )
    link = f"pools?search={pool['name']}"
    return Incident("pool", str(pool["name"]), text, min(since).isoformat(), None, (("pools", link),))


def unread(errors: Sequence[Entry]) -> list[Incident]:
    """DAG files that cannot be read."""
    return [
        Incident(
            "dag-files",
            str(error["filename"]),
            f"the file cannot be read: {_last_line(error['stack_trace'])}",
            error["timestamp"],
            error.get("bundle_name") and f"bundle {error['bundle_name']}",
            (("DAG import errors", "dags"),),
        )
        for error in errors
    ]


def firing(alerts: Sequence[Sample], since: Sequence[Sample]) -> list[dict[str, Any]]:
    """The alerts of Prometheus, the critical ones first. since: ALERTS_FOR_STATE, the Unix time at which each began."""
    began = {_identity(sample.labels): sample.value for sample in since}
    listed = [
        {
            "alert": sample.labels.get("alertname", "?"),
            "severity": sample.labels.get("severity", ""),
            "of": ", ".join(
                f"{name} {value}" for name, value in sorted(_identity(sample.labels)) if name not in _OWN_LABELS
            ),
            "since": _iso(began.get(_identity(sample.labels))),
        }
        for sample in alerts
    ]
    return sorted(listed, key=lambda alert: (alert["severity"] != "critical", alert["alert"], alert["of"]))


_OWN_LABELS = {"alertname", "severity", "part"}


def _identity(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in labels.items() if name not in ("__name__", "alertstate"))


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else minute(datetime.fromtimestamp(seconds, UTC))


def _last_line(trace: str) -> str:
    return next((line.strip() for line in reversed(trace.splitlines()) if line.strip()), "no cause is told")
