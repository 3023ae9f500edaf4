"""Which problems people were told of: each when it begins, when it gets worse, and when it is over.

A problem is of a kind and of a subject, such as a column of a dataset or a DAG. Its entries are numbered objects, and
the last one says how it stands. Of several runs that see the same change, the one tells it that writes the next number.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from mlops.keys import slug

if TYPE_CHECKING:
    from mlops.notify.channels import Delivery
    from mlops.stores.object_store import ObjectStore

log = logging.getLogger(__name__)

# A run that has claimed a change and not told it by then has died: its deadline is over.
_CLAIM_HELD = timedelta(minutes=15)
_WORSE = 1.5  # times the value that was told last

What = Literal["began", "worse", "over"]


@dataclass(frozen=True)
class Problem:
    """Something that people should know.

    value, threshold: in the unit that `text` names; None of a problem that is there or not, and gets no worse.
    """

    kind: str
    subject: str
    text: str
    value: float | None = None
    threshold: float | None = None

    def __str__(self) -> str:
        if self.value is None or self.threshold is None:
            return self.text
        return f"{self.text} (value {self.value:.4g}, threshold {self.threshold:.4g})"

    @property
    def size(self) -> float:
        return abs(self.value or 0.0)


@dataclass(frozen=True)
class Change:
    """What is to be told of a problem. before: the value told last, at the moment `since`; None of one that begins."""

    what: What
    problem: Problem
    before: float | None = None
    since: str | None = None

    def line(self, place: str, report: str) -> str:
        """All that a reader needs who sees nothing else. place: what the problem is one of."""
        match self.what:
            case "began":
                return f"{place}: {self.problem}. Report: {report}"
            case "worse":
                return (
                    f"{place}: {self.problem}. Report: {report} It is worse: {self.before or 0:.4g} was told at "
                    f"{self.since}."
                )
        return f"{place}: over. It was told at {self.since}: {self.problem.text}. Report: {report}"


@dataclass(frozen=True)
class Notified:
    """changes: those that somebody was told of now. lost: why a channel did not take them, by its name."""

    changes: tuple[Change, ...]
    lost: Mapping[str, str]


@dataclass(frozen=True)
class _Entry:
    """number: of the problem's changes. alerts: how many it joins in one. run, at: who claimed to tell it, and when.

    told: whether it did.
    """

    number: int
    what: What
    problem: Problem
    alerts: int
    window: str
    run: str
    at: str
    told: bool

    def encode(self) -> bytes:
        """Under the names of the time when all problems were of columns: an earlier release can read it as well."""
        fields = asdict(self)
        problem = fields.pop("problem")
        fields["alert"] = {"column": problem.pop("subject"), **problem}
        return json.dumps(fields, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, content: bytes) -> _Entry:
        fields: dict[str, Any] = json.loads(content)
        problem = fields.pop("alert")
        return cls(**fields, problem=Problem(subject=problem.pop("column"), **problem))


def notify_changes(
    store: ObjectStore,
    problems: Sequence[Problem],
    send: Callable[[Sequence[Change]], Delivery],
    *,
    folder: str,
    judged: Collection[str],
    window: str,
    run: str,
    now: datetime,
) -> Notified:
    """Sends what has changed since people were last told, all at once.

    folder: where the entries of these problems lie. judged: the kinds of problems that this run looked for. A problem
    of another kind goes on, whatever it may be like. window: what the run looked at, noted with each change.
    What no channel takes stays to be told, by this run at once or by another one later.
    """
    entries, found = _last_entries(store, folder), defaultdict[str, list[Problem]](list)
    for problem in problems:
        found[_place(folder, problem)].append(problem)
    claimed: list[tuple[str, _Entry, Change]] = []
    for place in sorted({*entries, *found}):
        last = entries.get(place)
        told = last if last is None or last.told else _told_before(store, place, last)
        change = _change(told, found[place], judged)
        if change is None:
            continue
        number = 1 if told is None else told.number + 1
        at = now.isoformat(timespec="seconds")
        entry = _Entry(number, change.what, change.problem, len(found[place]), window, run, at, told=False)
        if _claim(store, place, entry, now):
            claimed.append((place, entry, change))
    if not claimed:
        return Notified((), {})
    changes = tuple(change for _, _, change in claimed)
    delivery = send(changes)
    if not delivery.told:
        log.error("nobody was told of %d changes: a later run tells them", len(changes))
        return Notified((), delivery.lost)
    for place, entry, _ in claimed:
        store.write_bytes(_key(place, entry.number), replace(entry, told=True).encode())
    return Notified(changes, delivery.lost)


def _change(told: _Entry | None, problems: Sequence[Problem], judged: Collection[str]) -> Change | None:
    """What there is to tell of a problem, by what was told last and what is found now."""
    if told is None or told.what == "over":
        return Change("began", _joined(problems)) if problems else None
    if not problems:
        return Change("over", told.problem, told.problem.value, told.at) if told.problem.kind in judged else None
    problem, before = _joined(problems), told.problem.size
    worse = len(problems) > told.alerts or (problem.size > before and problem.size >= _WORSE * before)
    return Change("worse", problem, told.problem.value, told.at) if worse else None


def _joined(problems: Sequence[Problem]) -> Problem:
    """The problem of the largest value, with the texts of all: of one column several checks may fail."""
    largest = max(problems, key=lambda problem: problem.size)
    return replace(largest, text="; ".join(problem.text for problem in problems))


def _claim(store: ObjectStore, place: str, entry: _Entry, now: datetime) -> bool:
    """Whether the change is this run's to tell: nobody has claimed it, or who did has not told it."""
    key = _key(place, entry.number)
    if store.write_new(key, entry.encode()):
        return True
    held = _Entry.decode(store.read_bytes(key))
    if held.told:
        return False
    if held.run != entry.run and now - datetime.fromisoformat(held.at) < _CLAIM_HELD:
        return False
    store.write_bytes(key, entry.encode())
    return True


def _last_entries(store: ObjectStore, folder: str) -> Mapping[str, _Entry]:
    """The last entry of each problem, by its place."""
    last = {key.rpartition("/")[0]: key for key in store.keys(f"{folder}/")}  # in ascending order
    return {place: _Entry.decode(store.read_bytes(key)) for place, key in last.items()}


def _told_before(store: ObjectStore, place: str, claimed: _Entry) -> _Entry | None:
    """The entry before one that was claimed and not told; None where it is the first."""
    if claimed.number == 1:
        return None
    return _Entry.decode(store.read_bytes(_key(place, claimed.number - 1)))


def _place(folder: str, problem: Problem) -> str:
    return f"{folder}/{problem.kind}/{slug(problem.subject)}"


def _key(place: str, number: int) -> str:
    return f"{place}/{number:06}.json"
