"""Which problems people were told of: each when it begins, when it gets worse, and when it is over.

A problem is a kind of alert of a column of a dataset. Its entries are numbered objects, and the last one says how it
stands. Of several runs that see the same change, the one tells it that writes the next number.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from mlops.data_quality.findings import Alert
from mlops.keys import slug

if TYPE_CHECKING:
    from mlops.stores.object_store import ObjectStore

# A run that has claimed a change and not told it by then has died: its deadline is over.
_CLAIM_HELD = timedelta(minutes=15)
_WORSE = 1.5  # times the value that was told last

What = Literal["began", "worse", "over"]


@dataclass(frozen=True)
class Change:
    """What is to be told of a problem. before: the value told last, at the moment `since`; None of one that begins."""

    what: What
    alert: Alert
    before: float | None = None
    since: str | None = None

    def line(self, dataset: str, report: str) -> str:
        """All that a reader needs who sees nothing else."""
        match self.what:
            case "began":
                return self.alert.line(dataset, report)
            case "worse":
                return f"{self.alert.line(dataset, report)} It is worse: {self.before:.4g} was told at {self.since}."
        return (
            f"{dataset}, column {self.alert.column}, {self.alert.kind}: over. It was told at {self.since}: "
            f"{self.alert.text}. Report: {report}"
        )


@dataclass(frozen=True)
class _Entry:
    """number: of the problem's changes. alerts: how many it joins in one. run, at: who claimed to tell it, and when.

    told: whether it did.
    """

    number: int
    what: What
    alert: Alert
    alerts: int
    window: str
    run: str
    at: str
    told: bool

    def encode(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def decode(cls, content: bytes) -> _Entry:
        fields = json.loads(content)
        return cls(**{**fields, "alert": Alert(**fields["alert"])})


def notify_changes(
    store: ObjectStore,
    alerts: Sequence[Alert],
    send: Callable[[Sequence[Change]], object],
    *,
    judged: Collection[str],
    dataset: str,
    window: str,
    run: str,
    now: datetime,
) -> list[Change]:
    """Sends what has changed since people were last told, all at once, and gives it back.

    judged: the kinds of alerts that this run looked for. A problem of another kind goes on, whatever it may be like.
    Whatever `send` raises is raised; the changes then stay to be told, by this run at once or by another one later.
    """
    entries, found = _last_entries(store, dataset), defaultdict[str, list[Alert]](list)
    for alert in alerts:
        found[_place(dataset, alert)].append(alert)
    claimed: list[tuple[str, _Entry, Change]] = []
    for place in sorted({*entries, *found}):
        last = entries.get(place)
        told = last if last is None or last.told else _told_before(store, place, last)
        change = _change(told, found[place], judged)
        if change is None:
            continue
        number = 1 if told is None else told.number + 1
        at = now.isoformat(timespec="seconds")
        entry = _Entry(number, change.what, change.alert, len(found[place]), window, run, at, told=False)
        if _claim(store, place, entry, now):
            claimed.append((place, entry, change))
    changes = [change for _, _, change in claimed]
    if changes:
        send(changes)
    for place, entry, _ in claimed:
        store.write_bytes(_key(place, entry.number), replace(entry, told=True).encode())
    return changes


def _change(told: _Entry | None, alerts: Sequence[Alert], judged: Collection[str]) -> Change | None:
    """What there is to tell of a problem, by what was told last and what is found now."""
    if told is None or told.what == "over":
        return Change("began", _joined(alerts)) if alerts else None
    if not alerts:
        return Change("over", told.alert, told.alert.value, told.at) if told.alert.kind in judged else None
    alert, before = _joined(alerts), abs(told.alert.value)
    worse = len(alerts) > told.alerts or (abs(alert.value) > before and abs(alert.value) >= _WORSE * before)
    return Change("worse", alert, told.alert.value, told.at) if worse else None


def _joined(alerts: Sequence[Alert]) -> Alert:
    """The alert of the largest value, with the texts of all: of one column several checks may fail."""
    largest = max(alerts, key=lambda alert: abs(alert.value))
    return replace(largest, text="; ".join(alert.text for alert in alerts))


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


def _last_entries(store: ObjectStore, dataset: str) -> Mapping[str, _Entry]:
    """The last entry of each problem, by its place."""
    last = {key.rpartition("/")[0]: key for key in store.keys(f"{_folder(dataset)}/")}  # in ascending order
    return {place: _Entry.decode(store.read_bytes(key)) for place, key in last.items()}


def _told_before(store: ObjectStore, place: str, claimed: _Entry) -> _Entry | None:
    """The entry before one that was claimed and not told; None where it is the first."""
    if claimed.number == 1:
        return None
    return _Entry.decode(store.read_bytes(_key(place, claimed.number - 1)))


def _folder(dataset: str) -> str:
    """Beside `alerts/`, where a release before kept what was told of each window."""
    return f"problems/{slug(dataset)}"


def _place(dataset: str, alert: Alert) -> str:
    return f"{_folder(dataset)}/{alert.kind}/{slug(alert.column)}"


def _key(place: str, number: int) -> str:
    return f"{place}/{number:06}.json"
