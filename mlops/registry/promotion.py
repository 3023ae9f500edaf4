"""Which version of a model is in production: changed by one process at a time, and each change written down.

A change has five steps, and a process may die after any of them:

1. The version is told of the entry to come, by a tag: `announced`.
2. The ledger has the entry. Before, the old version is in production; from here on it is the new one that is to be.
3. The alias `previous` names the version that is replaced.
4. The alias `production` names the new one.
5. The tag says `applied`.

Whoever changes the model next carries out what is left of it and says so. What the ledger and MLflow say of an entry
differs where one of them was forged: an entry that nobody announced, or one that was altered, is carried out by nobody.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlops.config import RunIdentity
from mlops.registry.aliases import PREVIOUS, PRODUCTION, production
from mlops.registry.record import Record
from mlops.result import JSON, Failure, Refused
from mlops.stores.ledger import Entry

if TYPE_CHECKING:
    from mlops.stores.ledger import Book, Ledger, Verb
    from mlops.stores.tracking import Tracking

NOTE = "maestro.ledger."  # of a version's tags, with the number and the digest of an entry behind it
ANNOUNCED, APPLIED = "announced", "applied"
DISOWNED = "disowned"  # of an adoption's evidence: the digests of entries that nobody announced

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reason:
    """why: in words; evidence: what spoke for it; who: asked for it, the task where nobody else is named.

    request: the same for each try of what is to be done once; where there is none, each is another one.
    """

    why: str
    evidence: Mapping[str, JSON] = field(default_factory=dict)
    who: str | None = None
    request: str | None = None


class Production:
    """The version of one model that is in production, for who alone may change it."""

    def __init__(self, tracking: Tracking, book: Book, model: str) -> None:
        self._tracking, self._book, self._model = tracking, book, model

    @property
    def version(self) -> str | None:
        return production(self._tracking, self._model)

    def promote(self, version: str, reason: Reason) -> str | None:
        """Makes the version the production one; hands back the one that was before. To repeat it changes nothing."""
        replaced = self.version
        if self.done(reason.request, version) or replaced == version:
            return self._tracking.aliased(self._model, PREVIOUS)
        self._change("promote", version, reason, replaced)
        return replaced

    def before(self) -> str:
        """The version to go back to. Raises Failure where there is none."""
        changes = _changes(self._book.entries())
        version = changes[-1].from_version if changes else self._tracking.aliased(self._model, PREVIOUS)
        if version is None or version == self.version:
            raise Failure(
                f"model {self._model!r} has no previous version to go back to: promote the one that is wanted with "
                "'registry promote'"
            )
        return version

    def roll_back(self, reason: Reason) -> Entry:
        """Goes back to the version before. To repeat it for the same request changes nothing."""
        done = self.done(reason.request)
        return done or self._change("rollback", self.before(), reason, self.version)

    def done(self, request: str | None, version: str | None = None) -> Entry | None:
        """The entry that the request made; None where it made none.

        Raises Refused where another one came after it, or where it put another version into production than this one.
        """
        entries = self._book.entries()
        made = next((entry for entry in entries if entry.request == request), None)
        if made is not None and made != entries[-1]:
            raise Refused(
                f"{_title(made)} was made by this request, and {_title(entries[-1])} came after it: nothing is done, "
                "ask anew for what is wanted now"
            )
        if made is not None and version not in (None, made.to_version):
            raise Refused(f"{_title(made)} was made by this request: name a new one for version {version}")
        return made

    def decided(self) -> str | None:
        """The version that the ledger has put into production, whether the alias has followed or not."""
        entries = self._book.entries()
        return entries[-1].to_version if entries else None

    def mend(self) -> None:
        """Carries out what the process left undone that changed the model last, and says so.

        A model that has no entry yet gets one of what is in production. Raises Refused where the ledger and MLflow
        contradict each other in a way that no process leaves behind.
        """
        entries = self._book.entries()
        if not entries:
            if self.version is not None:
                self.adopt(Reason("it was in production before there was a ledger", request="the first entry"))
            return
        last, found = entries[-1], self.version
        note = _note(last, self._tracking.tagged_versions(self._model))
        if note is None:
            raise Refused(
                f"{_title(last)} was announced by nobody: it is forged, and so is not carried out, or MLflow has lost "
                f"version {last.subject} or what it was told: {_REMEDY}, which disowns the entry too"
            )
        if note == APPLIED and found == last.to_version:
            return
        if note == APPLIED or found not in (last.from_version, last.to_version):
            raise Refused(
                f"the alias {PRODUCTION!r} of {self._model!r} names version {found}, and {_title(last)} says "
                f"{last.to_version}: {_REMEDY}"
            )
        self._apply(last)
        log.warning("%s had been left half done: it is carried out now", _title(last))

    def adopt(self, reason: Reason) -> Entry | None:
        """Writes down which version the alias names, where the ledger says another one; None where it says so too.

        It disowns the entries that nobody announced: what they say counts no more. Raises Refused where no version is
        left that could be told of it.
        """
        entries, found, tags = self._book.entries(), self.version, self._tracking.tagged_versions(self._model)
        announced = [entry for entry in entries if _note(entry, tags) is not None]
        passed_over = _disowned(announced)
        known = [entry for entry in announced if entry.digest not in passed_over]
        unknown = [entry for entry in entries if entry not in announced and entry.digest not in passed_over]
        said = known[-1].to_version if known else None
        if said == found and not unknown:
            return None
        if said is None and found is None:
            raise Refused(
                f"no version of {self._model!r} is or was in production that MLflow knows of: give one of them the "
                f"alias {PRODUCTION!r} first"
            )
        for entry in unknown:
            log.warning("%s was announced by nobody: it is disowned", _title(entry))
        disowned = {DISOWNED: [entry.digest for entry in unknown]} if unknown else {}
        return self._change("adopt", found, replace(reason, evidence={**reason.evidence, **disowned}), said)

    def _change(self, verb: Verb, version: str | None, reason: Reason, before: str | None) -> Entry:
        entries = self._book.entries()
        entry = Entry(
            self._model,
            number=len(entries) + 1,
            verb=verb,
            who=reason.who or _who(),
            at=datetime.now(UTC),
            from_version=before,
            to_version=version,
            why=reason.why,
            evidence=reason.evidence,
            request=reason.request or uuid.uuid4().hex,
            before=entries[-1].digest if entries else "",
        )
        self._note(entry, ANNOUNCED)
        self._book.append(entry)
        self._apply(entry)
        return entry

    def _apply(self, entry: Entry) -> None:
        """Each step of it may have been done before. An entry that adopts tells of `production` as it is."""
        if entry.from_version is not None and entry.from_version != entry.to_version:
            self._tracking.set_alias(self._model, PREVIOUS, entry.from_version)
        if entry.verb != "adopt" and entry.to_version is not None:
            self._book.entries()  # which fails where the lock was lost, and somebody else may be at it by now
            self._tracking.set_alias(self._model, PRODUCTION, entry.to_version)
        self._note(entry, APPLIED)

    def _note(self, entry: Entry, said: str) -> None:
        self._tracking.set_version_tag(self._model, entry.subject, _key(entry), said)


_REMEDY = (
    "see who did it, then have 'registry adopt' write down what is in production, after giving the alias to the "
    "version that is to be"
)


@contextmanager
def changing(tracking: Tracking, ledger: Ledger, model: str) -> Iterator[Production]:
    """Until the block ends nobody else changes which version of the model is in production.

    What was left half done is carried out first. Raises Busy where somebody is changing it, Refused as `mend` does.
    """
    with ledger.held(model) as book:
        found = Production(tracking, book, model)
        found.mend()
        yield found


def adopt(tracking: Tracking, ledger: Ledger, model: str, reason: Reason) -> Entry | None:
    """As `Production.adopt`, whatever the ledger says now."""
    with ledger.held(model) as book:
        return Production(tracking, book, model).adopt(reason)


def evidence(tracking: Tracking, model: str, version: str) -> dict[str, JSON]:
    """What speaks for a version: its run, and what the gate measured."""
    return Record.read(tracking, tracking.made_by(model, version)).evidence


def faults(tracking: Tracking, entries: list[Entry], model: str) -> list[str]:
    """In what the entries of a model, MLflow's tags and the aliases contradict each other; empty where in nothing.

    An entry that was disowned stays in the chain, and what it says is passed over.
    """
    tags = tracking.tagged_versions(model)
    before, wrong, disowned = "", list[str](), _disowned(entries)
    for number, entry in enumerate(entries, 1):
        if entry.number != number:
            return [*wrong, f"entry {number} of {model} is not there, and entry {entry.number} is"]
        if entry.before != before:
            wrong.append(f"{_title(entry)} does not follow the entry before it: one of the two was altered")
        if entry.digest not in disowned and _note(entry, tags) is None:
            wrong.append(
                f"{_title(entry)} was announced by nobody, or altered: version {entry.subject} knows nothing of it"
            )
        before = entry.digest
    known = {_key(entry) for entry in entries}
    wrong += [
        f"version {version} of {model} was told of entry {key.removeprefix(NOTE)}, which is not in the ledger"
        for version, own in sorted(tags.items(), key=lambda pair: int(pair[0]))
        for key, said in own.items()
        if key.startswith(NOTE) and said == APPLIED and key not in known
    ]
    return wrong + _wrong_aliases(tracking, entries, model, tags)


def _wrong_aliases(
    tracking: Tracking, entries: list[Entry], model: str, tags: Mapping[str, Mapping[str, str]]
) -> list[str]:
    found = production(tracking, model)
    if not entries:
        return []
    last = entries[-1]
    if _note(last, tags) == ANNOUNCED:
        return [f"{_title(last)} is under way, or was left half done: the next change of {model} carries it out"]
    wrong = []
    if found != last.to_version:
        wrong.append(
            f"the alias {PRODUCTION!r} of {model} names version {found}, and {_title(last)} says {last.to_version}"
        )
    changes, previous = _changes(entries), tracking.aliased(model, PREVIOUS)
    before = changes[-1].from_version if changes else None
    if before in tags and previous != before:  # a version that was deleted has no alias any more
        wrong.append(f"the alias {PREVIOUS!r} of {model} names version {previous}, and the ledger says {before}")
    return wrong


def _changes(entries: Sequence[Entry]) -> list[Entry]:
    """Those that brought another version, but for one that begins the ledger with what was there before."""
    disowned = _disowned(entries)
    return [
        entry
        for entry in entries
        if entry.digest not in disowned
        and entry.from_version != entry.to_version
        and (entry.verb != "adopt" or entry.from_version is not None)
    ]


def _disowned(entries: Sequence[Entry]) -> set[str]:
    """The digests that adoptions name which no later one disowns."""
    found = set[str]()
    for entry in reversed(entries):
        named = entry.evidence.get(DISOWNED)
        if entry.verb == "adopt" and entry.digest not in found and isinstance(named, list):
            found.update(map(str, named))
    return found


def _note(entry: Entry, tags: Mapping[str, Mapping[str, str]]) -> str | None:
    """What its version was told of the entry; None where nothing, or where there is no such version any more."""
    return tags.get(entry.subject, {}).get(_key(entry))


def _key(entry: Entry) -> str:
    return f"{NOTE}{entry.number}.{entry.digest}"


def _title(entry: Entry) -> str:
    change = f"{entry.verb} {entry.from_version or 'none'} -> {entry.to_version or 'none'}"
    return f"entry {entry.number} of {entry.model} ({change})"


def _who() -> str:
    task = RunIdentity.if_told()
    return f"task {task.run_key}" if task else "somebody at a command line"
