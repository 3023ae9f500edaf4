"""DAG runs: how many succeed, which DAG fails and since when, which run is late, and which is slower than its like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median, quantiles
from typing import Any

from mlops.health.findings import Incident, minute, moment, span
from mlops.stores.airflow import address

REPEATED = 2  # runs in a row that failed; of a single one Airflow's callbacks tell at once
LATE = timedelta(minutes=10)  # after which a run that is due should be there, and one that is queued should run
_ENOUGH = 8  # durations that a judgement needs
_APART = 3.0  # interquartile ranges above the third quartile: Tukey's outer fence (Exploratory Data Analysis, 1977)
_AT_LEAST = 1.5  # times the median: short runs that are all alike have a fence that is too near
_SHORTEST = 60.0  # seconds above the median below which nobody minds


@dataclass(frozen=True)
class Run:
    """A DAG run. version: of its DAG, as Airflow counts them."""

    dag_id: str
    run_id: str
    state: str
    due: datetime
    queued: datetime | None
    start: datetime | None
    end: datetime | None
    version: int | None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Run:
        versions = [int(each["version_number"]) for each in entry.get("dag_versions") or ()]
        return cls(
            entry["dag_id"],
            entry["dag_run_id"],
            entry["state"],
            datetime.fromisoformat(entry["run_after"]),
            moment(entry["queued_at"]),
            moment(entry["start_date"]),
            moment(entry["end_date"]),
            max(versions, default=None),
        )

    @property
    def ended(self) -> bool:
        return self.state in ("success", "failed")

    def seconds(self, now: datetime) -> float | None:
        """Seconds for which it ran or has run; None of one that has not begun."""
        return None if self.start is None else ((self.end or now) - self.start).total_seconds()

    @property
    def link(self) -> tuple[str, str]:
        return (self.run_id, address(self.dag_id, self.run_id))


@dataclass(frozen=True)
class Record:
    """What is known of a DAG.

    recent: its runs of the window, and all that have not ended, the newest first. successes: its newest runs that
    succeeded, of whatever time, the newest first; None where that was not seen. failed: how many runs failed since the
    last success, and the first of them; None where that was not asked for or not seen. next_due: when the next run is
    to be made; None without a schedule, or of a DAG that is paused.
    """

    dag_id: str
    recent: Sequence[Run]
    successes: Sequence[Run] | None
    failed: tuple[int, Run] | None = None
    next_due: datetime | None = None

    @property
    def newest(self) -> Run | None:
        """The run that ended last."""
        return max((run for run in self.recent if run.ended), key=lambda run: run.end or run.due, default=None)

    @property
    def fails(self) -> bool:
        return self.newest is not None and self.newest.state == "failed"

    def rate(self) -> float | None:
        """The share of the window's runs that succeeded, of those that ended."""
        ended = [run.state == "success" for run in self.recent if run.ended]
        return sum(ended) / len(ended) if ended else None

    def usual(self, run: Run) -> list[float]:
        """Seconds of the runs that succeeded before this one."""
        before = [each for each in self.successes or () if each.run_id != run.run_id and each.due < run.due]
        return [seconds for each in before if (seconds := each.seconds(each.due)) is not None]


def fence(durations: Sequence[float]) -> float | None:
    """The duration in seconds beyond which a run is not like these; None where they are too few to say."""
    if len(durations) < _ENOUGH:
        return None
    first, _, third = quantiles(durations, n=4, method="inclusive")
    middle = median(durations)
    return max(third + _APART * (third - first), _AT_LEAST * middle, middle + _SHORTEST)


def incidents(records: Sequence[Record], now: datetime) -> list[Incident]:
    """All that is wrong with the runs of these DAGs."""
    found = [of(record, now) for record in records for of in (_failing, _late, _slow)]
    return [each for each in found if each is not None]


def slow_run(record: Record, now: datetime) -> Run | None:
    """The newest run, of those that run and the one that succeeded last, where it is slower than its own history."""
    succeeded = [run for run in record.recent if run.state == "success"]
    for run in [*(run for run in record.recent if run.state == "running"), *succeeded[:1]]:
        seconds, limit = run.seconds(now), fence(record.usual(run))
        if seconds is not None and limit is not None and seconds > limit:
            return run
    return None


def _failing(record: Record, now: datetime) -> Incident | None:
    newest = record.newest
    if newest is None or not record.fails:
        return None
    count, first = record.failed or _seen_failing(record)
    if count < REPEATED:
        return None
    last = next(iter(record.successes or ()), None)
    good = f"the last one that succeeded was due at {minute(last.due)}" if last else "none has succeeded"
    if record.successes is None:
        good = "when one succeeded last is not known"
    return Incident(
        "failing",
        record.dag_id,
        f"{count} runs in a row failed; {good}",
        first.due.isoformat(),
        versions(first.version, last.version if last else None),
        (("newest failed run", newest.link[1]), ("first failed run", first.link[1])),
    )


def _seen_failing(record: Record) -> tuple[int, Run]:
    """How many of the window's newest runs failed, and the first of them."""
    failed = []
    for run in sorted((run for run in record.recent if run.ended), key=lambda run: run.due, reverse=True):
        if run.state != "failed":
            break
        failed.append(run)
    return (len(failed), failed[-1]) if failed else (0, record.recent[0])


def versions(first: int | None, last: int | None) -> str | None:
    """In words, since which version of a DAG something fails, and which one it succeeded with."""
    if first is None:
        return None
    if last is None:
        return f"version {first} of the DAG"
    return f"version {first} of the DAG, as before" if last == first else f"version {first} of the DAG, after {last}"


def _late(record: Record, now: datetime) -> Incident | None:
    for run in record.recent:
        if run.state == "queued" and run.queued is not None and now - run.queued > LATE:
            waits = span((now - run.queued).total_seconds())
            text = f"a run has been queued for {waits} and has not begun"
            return Incident("late", record.dag_id, text, run.queued.isoformat(), None, (run.link,))
    if record.next_due is None or now - record.next_due <= LATE:
        return None
    text = f"a run was due {span((now - record.next_due).total_seconds())} ago and is not there"
    running = next((run for run in record.recent if run.state == "running"), None)
    if running is not None:
        text += f": the one before it has run for {span(running.seconds(now) or 0)}"
    links = (running.link,) if running else (("the DAG", address(record.dag_id)),)
    return Incident("late", record.dag_id, text, record.next_due.isoformat(), None, links)


def _slow(record: Record, now: datetime) -> Incident | None:
    run = slow_run(record, now)
    if run is None:
        return None
    usual = record.usual(run)
    text = (
        f"a run {'has run' if run.end is None else 'took'} {span(run.seconds(now) or 0)}; of the {len(usual)} before "
        f"it that succeeded half took less than {span(median(usual))}, and more than {span(fence(usual) or 0)} is "
        "unlike them"
    )
    return Incident("slow", record.dag_id, text, run.start.isoformat() if run.start else None, None, (run.link,))


def details(records: Sequence[Record], now: datetime) -> list[dict[str, Any]]:
    """A row for each DAG: what the report shows of all of them, also of those that are well."""
    return [_row(record, now) for record in records]


def _row(record: Record, now: datetime) -> dict[str, Any]:
    newest, last = record.newest, next(iter(record.successes or ()), None)
    usual = record.usual(newest) if newest else []
    counts = {state: sum(run.state == state for run in record.recent) for state in ("success", "failed", "running")}
    return {
        "dag": record.dag_id,
        **counts,
        "queued": sum(run.state == "queued" for run in record.recent),
        "success_rate": record.rate(),
        "last_success": last and last.due.isoformat(),
        "newest": newest and {"state": newest.state, "seconds": newest.seconds(now), "link": newest.link[1]},
        "median_seconds": median(usual) if usual else None,
        "slow_from_seconds": fence(usual),
    }
