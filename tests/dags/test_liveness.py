"""Whether a component's loop goes round, as the kubelet asks."""

import subprocess
import sys
from http.client import HTTPConnection

import pytest
from airflow.jobs.job import Job
from celery import signals

from mlops.airflow.internals import liveness
from mlops.airflow.internals.liveness import LIMIT, Beats, note_jobs, note_worker, serve
from tests.processes import free_ports


@pytest.fixture
def beats() -> Beats:
    return Beats(lambda: 0.0)


def asked(beats: Beats) -> int:
    server = serve(beats, 0)
    try:
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=240)
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        server.shutdown()
        server.server_close()


def test_a_loop_is_alive_from_its_first_beat_until_it_has_missed_many() -> None:
    seconds = 0.0
    beats = Beats(lambda: seconds)
    assert asked(beats) == 503, "it has not begun"
    beats.beat()
    assert asked(beats) == 200
    seconds = LIMIT
    assert asked(beats) == 200
    seconds = LIMIT + 1
    assert asked(beats) == 503


def test_a_database_that_is_away_is_not_the_components_fault(beats: Beats, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own has no tables, which Airflow takes as it takes one that is away."""
    monkeypatch.setattr(Job, "heartbeat", Job.heartbeat)
    note_jobs(beats)
    job = Job()
    job.heartbeat(heartbeat_callback=lambda session: None)
    assert job.heartbeat_failed
    assert asked(beats) == 200


def test_a_worker_beats_in_its_loop_and_is_alive_while_it_has_none(beats: Beats) -> None:
    """How it fares with a real broker: tests/contract/test_celery.py."""
    note_worker(beats)
    assert asked(beats) == 503, "it does not listen yet"
    signals.heartbeat_sent.send(sender=None)
    assert asked(beats) == 200


def test_who_rests_is_alive_however_long_it_takes_and_hangs_after_it_as_before() -> None:
    seconds = 0.0
    beats = Beats(lambda: seconds)
    beats.rest()
    seconds = 100 * LIMIT
    assert beats.alive()
    beats.beat()
    seconds += LIMIT + 1
    assert not beats.alive()


def test_nobody_asks_where_the_chart_names_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(liveness.PORT, raising=False)
    before = Job.heartbeat
    liveness.watch(note_jobs)
    assert Job.heartbeat is before


def test_the_processes_of_a_component_are_not_asked_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """They load the plugin too, where the port is taken."""
    (port,) = free_ports(1)
    monkeypatch.setenv(liveness.PORT, str(port))
    monkeypatch.setattr(Job, "heartbeat", Job.heartbeat)
    begun: list[int] = []
    monkeypatch.setattr(liveness, "serve", lambda _, port: begun.append(port))
    liveness.watch(note_jobs)
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(sorted(os.environ))"], capture_output=True, text=True
    )
    assert (begun, liveness.PORT in child.stdout) == ([port], False)
