"""Tasks that failed, and what their failures have in common: the task, the error, the node, the task before them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlops.health.findings import Incident, minute
from mlops.health.runs import versions
from mlops.stores.airflow import Entry, address

REPEATED = 2  # failures of a task; of a single one Airflow's callbacks tell at once
_SHOWN = 300  # characters of an error in a line of text
# What two occurrences of one error differ in: numbers, times, hexadecimal ids. A digit of a name is a part of it.
_PARTICULAR = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}(-[0-9a-f]+)*\b|(?<![A-Za-z])\d[\d.,:_+-]*(T[\d.:+-]+Z?)?", re.I)


@dataclass(frozen=True)
class Failed:
    """A task instance that failed for good. error, node, image: None where nobody knows."""

    dag_id: str
    task_id: str
    run_id: str
    end: datetime
    error: str | None
    node: str | None
    image: str | None
    version: int | None
    link: str

    @classmethod
    def of(cls, entry: Entry, error: str | None, pod: Any) -> Failed:
        """entry: the task instance. pod: what the platform left of its pod, a map, or nothing."""
        where: Mapping[str, Any] = pod if isinstance(pod, dict) else {}
        version = entry.get("dag_version") or {}
        return cls(
            entry["dag_id"],
            entry["task_id"],
            entry["dag_run_id"],
            datetime.fromisoformat(entry["end_date"]),
            error,
            where.get("node"),
            where.get("image"),
            version.get("version_number"),
            address(entry["dag_id"], entry["dag_run_id"], entry),
        )


@dataclass(frozen=True)
class Past:
    """What is known of a task before the window: its last success, and its first failure after that.

    seen: whether it was possible to ask.
    """

    seen: bool
    success: datetime | None = None
    success_version: int | None = None
    first_failure: datetime | None = None


@dataclass(frozen=True)
class Pattern:
    """Failures of one task by one error, the newest first. after: the tasks that it comes straight after.

    held_back: task instances behind it that could not run.
    """

    failures: Sequence[Failed]
    past: Past
    after: tuple[str, ...]
    held_back: int

    @property
    def newest(self) -> Failed:
        return self.failures[0]

    @property
    def task(self) -> tuple[str, str]:
        return self.newest.dag_id, self.newest.task_id

    @property
    def nodes(self) -> Counter[str]:
        return Counter(failed.node for failed in self.failures if failed.node)

    @property
    def goes_on(self) -> bool:
        """Whether the task has not succeeded since."""
        return self.past.success is None or self.past.success < self.newest.end

    @property
    def since(self) -> datetime:
        first = self.past.first_failure if self.goes_on else None
        return min(self.failures[-1].end, first or self.failures[-1].end)


def last_words(events: Iterable[Entry]) -> str | None:
    """The error in a task's log: the exception that ended it, else the last event of level error."""
    found = None
    for event in events:
        if details := event.get("error_detail"):
            found = f"{details[-1].get('exc_type')}: {details[-1].get('exc_value')}"
        elif str(event.get("level")) in ("error", "critical"):
            found = str(event.get("event"))
    return found


def fingerprint(error: str | None) -> str:
    """What two occurrences of one error have in common."""
    return _PARTICULAR.sub("#", " ".join((error or "unknown").split()))[:_SHOWN]


def patterns(
    failures: Sequence[Failed],
    past: Mapping[tuple[str, str], Past],
    upstream: Mapping[str, Mapping[str, set[str]]],
    held_back: Mapping[tuple[str, str], int],
) -> list[Pattern]:
    """Failures of the same task by the same error; what goes on first, then the most frequent.

    past: by DAG and task. upstream: by DAG and task. held_back: by DAG and run.
    """
    same = defaultdict[tuple[str, str, str], list[Failed]](list)
    for failed in sorted(failures, key=lambda failed: failed.end, reverse=True):
        same[failed.dag_id, failed.task_id, fingerprint(failed.error)].append(failed)
    found = [
        Pattern(
            group,
            past.get((dag, task), Past(seen=False)),
            tuple(sorted(upstream.get(dag, {}).get(task, ()))),
            sum(held_back.get((dag, run), 0) for run in {failed.run_id for failed in group}),
        )
        for (dag, task, _), group in same.items()
    ]
    return sorted(found, key=lambda pattern: (not pattern.goes_on, -len(pattern.failures), pattern.task))


def common(found: Sequence[Pattern]) -> list[dict[str, Any]]:
    """What failures of different tasks have in common: the error, the node, or the task before them."""
    by = defaultdict[tuple[str, str], list[Pattern]](list)
    for pattern in found:
        if pattern.newest.error:
            by["error", fingerprint(pattern.newest.error)].append(pattern)
        for node in pattern.nodes:
            by["node", node].append(pattern)
        for task in pattern.after:
            by["upstream", f"{pattern.newest.dag_id}.{task}"].append(pattern)
    shared = [(what, which, {pattern.task for pattern in group}, group) for (what, which), group in by.items()]
    return [
        {
            "what": what,
            "which": which,
            "tasks": sorted(".".join(task) for task in tasks),
            "failures": sum(pattern.nodes[which] if what == "node" else len(pattern.failures) for pattern in group),
        }
        for what, which, tasks, group in sorted(shared, key=lambda each: -len(each[2]))
        if len(tasks) > 1
    ]


def incidents(found: Sequence[Pattern]) -> list[Incident]:
    """The patterns that repeat and go on, each an incident of its DAG."""
    return [_incident(each) for each in found if each.goes_on and len(each.failures) >= REPEATED]


def _incident(pattern: Pattern) -> Incident:
    newest, count = pattern.newest, len(pattern.failures)
    text = f"task {newest.task_id} failed {count} times with the same error{_where(pattern)}: {_shown(newest.error)}"
    if success := pattern.past.success:
        text += f" (it succeeded last at {minute(success)})"
    elif pattern.past.seen:
        text += " (it has never succeeded)"
    first = pattern.failures[-1]
    version = versions(first.version, pattern.past.success_version)
    if first.image:
        version = ", ".join(part for part in (version, f"image {first.image.rpartition('/')[2]}") if part)
    links = (("log of the newest failure", newest.link), ("log of the first", first.link))
    return Incident("failing", newest.dag_id, text, pattern.since.isoformat(), version, links)


def _where(pattern: Pattern) -> str:
    nodes = pattern.nodes
    if len(nodes) == 1 and nodes.total() == len(pattern.failures):
        return f", each time on node {next(iter(nodes))}"
    return f", on the nodes {', '.join(sorted(nodes))}" if len(nodes) > 1 else ""


def _shown(error: str | None) -> str:
    line = " ".join((error or "nobody knows its error, see its log").split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def details(found: Sequence[Pattern]) -> list[dict[str, Any]]:
    """What the report shows of each pattern, whether it goes on or not."""
    return [
        {
            "dag": pattern.newest.dag_id,
            "task": pattern.newest.task_id,
            "failures": len(pattern.failures),
            "goes_on": pattern.goes_on,
            "error": pattern.newest.error,
            "since": pattern.since.isoformat(),
            "last": pattern.newest.end.isoformat(),
            "nodes": dict(pattern.nodes),
            "after": list(pattern.after),
            "held_back": pattern.held_back,
            "link": pattern.newest.link,
        }
        for pattern in found
    ]
