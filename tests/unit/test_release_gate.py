"""release-gate against a real PostgreSQL, as the migration Jobs and init containers of the charts call it."""

import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest

GATE = Path(__file__).parents[2] / "images/base/release_gate.py"


@pytest.fixture
def database(postgresql):
    """The URL of a database of its own."""
    name = f"gate_{uuid.uuid4().hex}"
    connection = psycopg2.connect(f"{postgresql}/postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    yield f"{postgresql}/{name}"
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    connection.close()


def start(url, *arguments):
    environment = {**os.environ, "DATABASE_URL": url, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, GATE, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def gate(url, *arguments):
    """Exit status, output and errors of one call."""
    process = start(url, *arguments)
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


def test_a_marked_revision_opens_the_gate_at_once(database):
    assert gate(database, "mark", "mlflow", "r1")[0] == 0
    assert gate(database, "wait", "mlflow", "r1", "--timeout", "0") == (0, "", "")


def test_another_component_or_revision_stays_closed_and_the_cause_is_said(database):
    gate(database, "mark", "mlflow", "r1")
    for component, revision in (("airflow", "r1"), ("mlflow", "r2")):
        code, _, errors = gate(database, "wait", component, revision, "--timeout", "0")
        assert code == 1
        assert f"{component} is not migrated to {revision} yet" in errors


def test_pods_of_the_release_before_still_pass_after_an_upgrade(database):
    gate(database, "mark", "airflow", "old")
    gate(database, "mark", "airflow", "new")
    assert gate(database, "wait", "airflow", "old", "--timeout", "0")[0] == 0


def test_a_repeated_mark_is_no_error(database):
    assert gate(database, "mark", "mlflow", "r1")[0] == 0
    assert gate(database, "mark", "mlflow", "r1")[0] == 0


def test_jobs_that_are_first_at_the_same_time_all_mark(database):
    revisions = [f"r{number}" for number in range(6)]
    with ThreadPoolExecutor(len(revisions)) as pool:
        codes = list(pool.map(lambda revision: gate(database, "mark", "mlflow", revision)[0], revisions))
    assert codes == [0] * len(revisions)


def test_a_pod_that_waits_goes_on_when_the_job_marks(database):
    waiting = start(database, "wait", "mlflow", "r1")
    # It has looked once, in a database without the table, when it says what it waits for.
    assert "not migrated to r1 yet" in waiting.stdout.readline()
    gate(database, "mark", "mlflow", "r1")
    assert waiting.wait(timeout=240) == 0


def test_a_database_that_is_away_is_waited_for_and_named_at_the_end():
    code, output, errors = gate("postgresql://nobody:secret@127.0.0.1:1/none", "wait", "mlflow", "r1", "--timeout", "1")
    assert code == 1
    assert "the database does not answer" in output
    assert "not within 1 s: the database does not answer" in errors
    assert "secret" not in output + errors


@pytest.mark.parametrize("url", ["", "postgresql+psycopg2://airflow:secret@host/airflow", "host=db password=secret"])
def test_an_address_that_libpq_cannot_read_is_refused_without_repeating_it(url):
    code, output, errors = gate(url, "mark", "mlflow", "r1")
    assert code == 1
    assert "DATABASE_URL" in errors
    assert "secret" not in output + errors


def test_marking_where_the_database_is_away_fails_so_that_the_job_is_tried_again():
    code, _, errors = gate("postgresql://nobody@127.0.0.1:1/none", "mark", "mlflow", "r1")
    assert code == 1
    assert "Traceback" not in errors
