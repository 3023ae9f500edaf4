"""Whatever several workers, clients and sweeps do to the jobs, in whatever order: what the jobs promise holds."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from mlops.config import DatabaseSettings
from mlops.sensor_trainer.store import jobs as of_jobs
from mlops.sensor_trainer.store.database import open_pool
from mlops.sensor_trainer.store.jobs import ATTEMPTS, AnotherRuns, Attempt, Cancelled, Jobs, KeyReused, Superseded
from tests.conftest import eventually
from tests.unit.sensor_servers import migrated_database

LEASE = 15.0  # seconds; no step takes as long
OPEN = ("queued", "running")
MODELS = ("one", "two")
# Looks at the jobs, and has time stand still but for what is lost, however long the steps take.
_LOOK = """
update sensors.training_jobs set
    heartbeat = case when heartbeat > now() - interval '30 min' then now() else heartbeat end,
    handed_over = case when handed_over > now() - interval '30 min' then now() else handed_over end
returning id, state, attempt, cancel_requested, finished is not null
"""


@dataclass
class Expected:
    """What is to be true of a job."""

    id: UUID
    model: str
    request: int
    state: str = "queued"
    attempt: int = 0
    cancel_requested: bool = False
    lost: bool = False  # its worker has said nothing for an hour
    told: bool = False  # a worker was told of it, a moment ago
    published: list[int] = field(default_factory=list)  # the attempts that did so

    def give_up(self) -> None:
        """What becomes of it when its worker is lost."""
        ended = "cancelled" if self.cancel_requested else "failed" if self.attempt >= ATTEMPTS else None
        self.state, self.lost, self.told = ended or "queued", False, False


class JobStates(RuleBasedStateMachine):
    """Each rule is a step of a client, a worker or the sweep, and knows what it is to be told."""

    keys, attempts = Bundle("keys"), Bundle("attempts")

    def __init__(self, database: psycopg.Connection[Any], jobs: Jobs) -> None:
        super().__init__()
        self.database, self.jobs = database, jobs
        self.expected: dict[str, Expected] = {}
        database.execute("truncate sensors.training_jobs")

    @initialize(target=keys)
    def first(self) -> Any:
        return multiple("a", "b", "c", "d")

    def of(self, attempt: Attempt) -> Expected:
        return next(each for each in self.expected.values() if each.id == attempt.job.id)

    def holds(self, attempt: Attempt) -> bool:
        """Whether the job is this attempt's."""
        job = self.of(attempt)
        return job.state == "running" and job.attempt == attempt.job.attempt

    def set_back(self, job: Expected, column: str) -> None:
        back = f"update sensors.training_jobs set {column} = now() - interval '1 hour' where id = %s"  # noqa: S608
        self.database.execute(back, (job.id,))

    @rule(key=keys, model=st.sampled_from(MODELS), request=st.integers(0, 1))
    def submit(self, key: str, model: str, request: int) -> None:
        same = self.expected.get(key)
        others = [job.id for job in self.expected.values() if job.model == model and job.state in OPEN]
        try:
            job, is_new = self.jobs.submit(model, key, {"n": request})
        except KeyReused as reused:
            assert same
            assert reused.job.id == same.id
            assert (same.model, same.request) != (model, request)
        except AnotherRuns as other:
            assert not same
            assert [other.job.id] == others
        else:
            assert is_new == (same is None)
            if same:
                assert (job.id, job.state) == (same.id, same.state)
                assert (same.model, same.request) == (model, request)
            else:
                assert not others
                self.expected[key] = Expected(job.id, model, request)

    @rule(target=attempts, key=keys)
    def claim(self, key: str) -> Any:
        job = self.expected.get(key)
        if job is None:
            return multiple()
        attempt = self.jobs.claim(job.id)
        waits = job.state == "queued" or (job.state == "running" and job.lost)
        assert (attempt is not None) == (waits and not job.cancel_requested and job.attempt < ATTEMPTS)
        if attempt is None:
            return multiple()
        job.state, job.attempt, job.lost = "running", job.attempt + 1, False
        assert attempt.job.attempt == job.attempt
        return attempt

    @rule(key=keys)
    def cancel(self, key: str) -> None:
        if job := self.expected.get(key):
            if job.state in OPEN:
                job.cancel_requested = True
                job.state = "cancelled" if job.state == "queued" else job.state
            told = self.jobs.request_cancel(job.id)
            assert told is not None
            assert told.state == job.state

    @rule(key=keys)
    def lose_the_worker(self, key: str) -> None:
        job = self.expected.get(key)
        if job and job.state == "running":
            self.set_back(job, "heartbeat")
            job.lost = True

    @rule(key=keys)
    def lose_what_was_told(self, key: str) -> None:
        job = self.expected.get(key)
        if job and job.told:
            self.set_back(job, "handed_over")
            job.told = False

    @rule(tells=st.booleans())
    def sweep(self, tells: bool) -> None:
        for job in self.expected.values():
            if job.lost:
                job.give_up()
        waiting = [job for job in self.expected.values() if job.state == "queued" and not job.told]
        assert set(self.jobs.to_hand_over()) == {job.id for job in waiting}
        for job in waiting if tells else ():
            self.jobs.handed_over(job.id)
            job.told = True

    def says(self, attempt: Attempt, *, cancellable: bool) -> type[Exception] | None:
        """What an attempt that says something hears, and what becomes of its job by that."""
        job = self.of(attempt)
        if not self.holds(attempt):
            return Superseded
        job.lost = False
        if cancellable and job.cancel_requested:
            job.state = "cancelled"
            return Cancelled
        return None

    @rule(attempt=attempts)
    def report(self, attempt: Attempt) -> None:
        verdict = self.says(attempt, cancellable=True)
        with pytest.raises(verdict) if verdict else nullcontext():
            attempt.report("fitting", 0.5)

    @rule(attempt=attempts)
    def beat(self, attempt: Attempt) -> None:
        verdict = self.says(attempt, cancellable=False)
        assert attempt.beat(self.database) == (verdict is None)

    @rule(attempt=attempts, succeeds=st.booleans())
    def publish(self, attempt: Attempt, succeeds: bool) -> None:
        """Nobody can take the job away meanwhile, or make that it is not published."""
        job = self.of(attempt)
        verdict = self.says(attempt, cancellable=True)
        with pytest.raises(verdict) if verdict else nullcontext(), attempt.finishing() as ending:
            job.published.append(attempt.job.attempt)
            assert self.jobs.claim(job.id) is None
            told = self.jobs.request_cancel(job.id)
            assert told is not None
            assert told.state == "running"
            assert job.id not in self.jobs.to_hand_over()
            if succeeds:
                ending.succeed({"newest_reading": 1})
            else:
                ending.skip("too few", {})
        if verdict is None:
            job.state = "succeeded" if succeeds else "skipped"
            for other in self.expected.values():
                if other.lost:
                    other.give_up()

    @rule(attempt=attempts)
    def die_while_publishing(self, attempt: Attempt) -> None:
        """The job stays as it was, with its lease; what was published is found again by the next attempt."""
        job, before = self.of(attempt), self.of(attempt).lost
        verdict = self.says(attempt, cancellable=True)
        with pytest.raises(verdict or ZeroDivisionError), attempt.finishing():
            raise ZeroDivisionError
        if verdict is None:
            job.lost = before

    @rule(attempt=attempts)
    def fail(self, attempt: Attempt) -> None:
        verdict = self.says(attempt, cancellable=False)
        with pytest.raises(verdict) if verdict else nullcontext():
            attempt.fail("no")
        if verdict is None:
            self.of(attempt).state = "failed"

    @rule(attempt=attempts)
    def give_back(self, attempt: Attempt) -> None:
        verdict = self.says(attempt, cancellable=False)
        with pytest.raises(verdict) if verdict else nullcontext():
            attempt.give_back("MLflow is away")
        if verdict is None:
            job = self.of(attempt)
            job.give_up()
            job.told = job.state == "queued"

    @invariant()
    def jobs_are_as_expected(self) -> None:
        expected = {
            job.id: (job.state, job.attempt, job.cancel_requested, job.state not in OPEN)
            for job in self.expected.values()
        }
        assert {row[0]: row[1:] for row in self.database.execute(_LOOK)} == expected

    @invariant()
    def what_the_jobs_promise_holds(self) -> None:
        for model in MODELS:
            assert [job.model == model and job.state in OPEN for job in self.expected.values()].count(True) <= 1
        for job in self.expected.values():
            assert len(job.published) == (job.state in ("succeeded", "skipped"))
            assert job.attempt <= ATTEMPTS
            assert job.state != "queued" or not job.cancel_requested, "nobody would begin it, or end it"

    def teardown(self) -> None:
        assert self.jobs.counts() == Counter(job.state for job in self.expected.values())


@pytest.fixture
def database(postgresql, monkeypatch):
    """The URL of a database whose server has been there for longer than a lease."""
    monkeypatch.setattr(of_jobs, "LEASE", LEASE)
    monkeypatch.setattr(of_jobs, "_PATIENCE", "1ms")
    url = migrated_database(postgresql)
    with psycopg.connect(url, autocommit=True) as connection:
        up = "select now() - pg_postmaster_start_time() > make_interval(secs => %s)"
        eventually(lambda: connection.execute(up, (LEASE,)).fetchone()[0], 2 * LEASE)
        yield url, connection


def test_the_jobs_keep_their_promises_in_whatever_order_things_happen(database):
    url, connection = database
    with open_pool(DatabaseSettings(url), size=3) as pool:
        run_state_machine_as_test(lambda: JobStates(connection, Jobs(pool)))
