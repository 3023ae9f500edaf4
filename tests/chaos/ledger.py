"""What the tasks of `chaos_ledger` wrote of themselves, and what is wrong with it. Nothing here asks a cluster."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations

DAG = "chaos_ledger"
TASKS = ("first", "work_0", "work_1", "work_2", "last")
PREFIX = "chaos/"
# A pod may be there for so long after its task instance has ended.
GRACE = timedelta(seconds=60)
# States of a task instance after which nothing of it is to run. One that waits for its next try is none: that try ends
# the pod of the one before.
ENDED = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})


@dataclass(frozen=True)
class Attempt:
    """One try's pod, by what it wrote. began, ended: seconds since the epoch; None where it did not get so far."""

    began: float
    ended: float | None = None


@dataclass
class Row:
    """What was written of one task of one run.

    done: the attempts that the work was claimed by, one for each version of the object: of two it was done twice.
    """

    attempts: dict[str, Attempt] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Written:
    """A version of an object below PREFIX."""

    key: str
    content: bytes


Rows = Mapping[tuple[str, str], Row]


def rows(objects: Iterable[Written]) -> dict[tuple[str, str], Row]:
    """(run, task) -> what was written of it. Raises ValueError for an object that no task writes."""
    found: dict[tuple[str, str], Row] = defaultdict(Row)
    ends: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for written in objects:
        parts = written.key.removeprefix(PREFIX).split("/")
        if len(parts) < 3:
            raise ValueError(f"{written.key} is no entry of the ledger: remove it, or name another prefix")
        run, task, what = parts[0], parts[1], parts[2]
        entry = json.loads(written.content)
        match what:
            case "done":
                found[run, task].done.append(entry["attempt"])
            case "began":
                found[run, task].attempts[entry["attempt"]] = Attempt(entry["at"])
            case "ended":
                ends[run, task][entry["attempt"]] = entry["at"]
            case _:
                raise ValueError(f"{written.key} is no entry of the ledger: remove it, or name another prefix")
    for where, ended in ends.items():
        for name, at in ended.items():
            known = found[where].attempts.get(name)
            found[where].attempts[name] = Attempt(known.began if known else at, at)
    return dict(found)


def findings(states: Mapping[str, str], ledger: Rows, tasks: Sequence[str] = TASKS) -> list[str]:
    """What is wrong, a sentence each; nothing where all is well.

    states: run -> the state that it ended in, or `running` where it has not.
    """
    said: list[str] = []
    for run, state in sorted(states.items()):
        if state != "success":
            said.append(f"run {run} is {state}")
        for task in tasks:
            row = ledger.get((run, task), Row())
            said += [f"{task} of run {run} {fault}" for fault in _faults(row, state)]
    return said


def _faults(row: Row, state: str) -> Iterator[str]:
    if state == "success" and not row.done:
        yield "was not done, and its run says success"
    if len(row.done) > 1:
        yield f"was done {len(row.done)} times, by {', '.join(sorted(row.done))}"
    for name in row.done:
        if name not in row.attempts:
            yield f"was done by {name}, which never began"
    for (first, one), (second, other) in combinations(sorted(row.attempts.items(), key=lambda each: each[1].began), 2):
        # One that has not ended was ended by somebody, at a time that nobody wrote down.
        if one.ended is not None and other.began < one.ended:
            yield f"ran twice at the same time, as {first} and {second}"


def tried(ledger: Rows, runs: Collection[str]) -> int:
    """How many tries there were beyond the first of each task."""
    return sum(max(0, len(row.attempts) - 1) for (run, _task), row in ledger.items() if run in runs)


@dataclass(frozen=True)
class Instance:
    """A task instance as Airflow has it. ended: when, where it has."""

    state: str | None
    ended: datetime | None


@dataclass(frozen=True)
class TaskPod:
    """A pod of a task that has not ended."""

    name: str
    instance: tuple[str, str, str, int]  # DAG, run, task, map index


def orphans(
    pods: Iterable[TaskPod], instances: Mapping[tuple[str, str, str, int], Instance], now: datetime
) -> list[str]:
    """The pods that run although their task instance ended a minute ago or is not known, by name."""

    def left_over(instance: Instance | None) -> bool:
        if instance is None:
            return True
        return instance.state in ENDED and instance.ended is not None and now - instance.ended > GRACE

    return sorted(pod.name for pod in pods if left_over(instances.get(pod.instance)))
