"""Waking Airflow's trigger runner."""

import asyncio
import inspect
from collections.abc import Iterator

import anyio
import pytest
from airflow.jobs import triggerer_job_runner

from mlops.airflow.internals import wakeup


class TriggerRunner:
    """Sleeps as Airflow's runner does, but so long that a busy machine cannot be what wakes it."""

    def __init__(self) -> None:
        self.stop = False
        self.rounds = 0
        self._stop_event: anyio.Event | None = None

    async def arun(self) -> None:
        stop_event = self._stop_event = anyio.Event()
        while not self.stop:
            self.rounds += 1
            with anyio.move_on_after(300):
                await stop_event.wait()


@pytest.fixture(autouse=True)
def no_runner_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(wakeup, "_runner", None)
    return


async def all_is_done() -> None:
    """Whatever is ready to run has run; a few turns of the loop are enough for what woke up to fall asleep again."""
    for _ in range(20):
        await asyncio.sleep(0)


def rounds_after_a_nudge() -> int:
    async def story() -> int:
        runner = TriggerRunner()
        task = asyncio.create_task(runner.arun())
        await all_is_done()
        assert runner.rounds == 1
        wakeup.wake()
        await all_is_done()
        rounds = runner.rounds
        runner.stop = True
        runner._stop_event.set()
        await asyncio.wait_for(task, 240)
        return rounds

    return asyncio.run(story())


def test_a_nudge_wakes_the_runner_once_and_leaves_it_able_to_stop() -> None:
    assert rounds_after_a_nudge() == 2


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAESTRO_TRIGGER_NUDGE", "0")
    assert rounds_after_a_nudge() == 1


def test_without_a_runner_or_with_another_one_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        wakeup.wake()

    asyncio.run(story())
    monkeypatch.setattr(wakeup, "_runner", object())
    asyncio.run(story())


def test_airflows_runner_is_still_built_that_way() -> None:
    """Should this fail after an upgrade, tasks end up to two seconds later until wakeup.py is adapted."""
    source = inspect.getsource(triggerer_job_runner.TriggerRunner.arun)
    assert "stop_event = self._stop_event = anyio.Event()" in source
    assert "move_on_after" in source
