"""The exporters of charts/monitoring beside real servers: Airflow's database as the user `monitoring` sees it."""

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mlops.airflow.administration.setup import MONITORED
from tests.charts.conftest import ROOT, containers, environment, find, render
from tests.conftest import answers, eventually, free_ports, running
from tests.servers import PASSWORD, PostgreSQL, Redis, airflow_environment

QUERIES = ROOT / "charts/monitoring/files/postgresql-queries.yaml"
EMITTED = yaml.safe_load((ROOT / "tests/charts/rules/emitted.yaml").read_text())
# Two of each: one that is well, and one that is not.
SEED = """
INSERT INTO dag_bundle (name) VALUES ('b');
INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, timetable_type, partition_mapper_info, max_active_tasks,
                 max_consecutive_failed_dag_runs, has_task_concurrency_limits, next_dagrun_create_after)
SELECT name, name = 'paused', name = 'stale', 'b', '', '{}', 1, 0, false, CASE name WHEN 'well' THEN now() END
  FROM unnest(ARRAY['well', 'ill', 'paused', 'stale']) AS name;
INSERT INTO dag_run (dag_id, run_id, state, run_type, run_after, end_date, clear_number)
VALUES ('well', '1', 'failed', 'scheduled', now() - interval '3 h', now() - interval '170 min', 0),
       ('well', '2', 'success', 'scheduled', now() - interval '2 h', now() - interval '100 min', 0),
       ('well', '3', 'running', 'scheduled', now() - interval '1 h', NULL, 0),
       ('ill', '1', 'success', 'manual', now() - interval '9 h', now() - interval '8 h', 0),
       ('ill', '2', 'failed', 'manual', now() - interval '7 h', now() - interval '6 h', 0),
       ('ill', '3', 'queued', 'manual', now(), NULL, 0),
       ('paused', '1', 'failed', 'manual', now(), now(), 0);
INSERT INTO task_instance (id, try_number, dag_id, task_id, run_id, state, pool, pool_slots, end_date, scheduled_dttm)
SELECT gen_random_uuid(), 1, dag_id, task_id, run_id, state, pool, slots, now() - ended, now() - scheduled
  FROM (VALUES ('ill', 'bad', '1', 'failed', 'p', 1, interval '3 h', NULL::interval),
               ('ill', 'bad', '2', 'failed', 'p', 1, interval '2 h', NULL),
               ('ill', 'mended', '1', 'failed', 'p', 1, interval '3 h', NULL),
               ('ill', 'mended', '2', 'success', 'p', 1, interval '2 h', NULL),
               ('ill', 'old', '1', 'failed', 'p', 1, interval '2 days', NULL),
               ('paused', 'bad', '1', 'failed', 'p', 1, interval '1 h', NULL),
               ('well', 'pod', '3', 'deferred', 'p', 2, NULL, interval '1 h'),
               ('well', 'pod', '2', 'deferred', 'other', 2, NULL, interval '1 h'),
               ('well', 'waits', '3', 'scheduled', 'p', 3, NULL, interval '20 min'),
               ('ill', 'waits', '3', 'queued', 'p', 1, NULL, interval '30 min')
       ) AS t (dag_id, task_id, run_id, state, pool, slots, ended, scheduled);
INSERT INTO slot_pool (pool, slots, include_deferred) VALUES ('p', 4, true), ('other', -1, false);
INSERT INTO job (job_type, state, latest_heartbeat)
VALUES ('SchedulerJob', 'failed', now() - interval '1 day'), ('SchedulerJob', 'running', now() - interval '5 s');
INSERT INTO callback (id, type, fetch_method, priority_weight, data, created_at, state)
VALUES ('00000000-0000-0000-0000-000000000001', 't', 'IMPORT_PATH', 1, '{}', now(), 'pending');
INSERT INTO deadline (id, created_at, last_updated_at, dagrun_id, deadline_time, missed, callback_id)
SELECT gen_random_uuid(), now(), now(), id, now() + CASE dag_id WHEN 'well' THEN 1 ELSE -1 END * interval '10 min',
       false, '00000000-0000-0000-0000-000000000001' FROM dag_run WHERE dag_id IN ('well', 'ill');
INSERT INTO asset (id, name, uri, "group", extra, created_at, updated_at)
VALUES (1, 'online-features', 'u', 'g', '{}', now(), now());
INSERT INTO asset_event (asset_id, extra, timestamp)
VALUES (1, '{}', now() - interval '2 h'), (1, '{}', now() - interval '1 h');
"""


@pytest.fixture(scope="module")
def server(run_folder: Path) -> Iterator[PostgreSQL]:
    """A server of its own, since roles are one's for all databases, with Airflow's database and who watches it."""
    archiving = PostgreSQL(run_folder)
    # As where there is no store to archive to.
    (command,) = re.findall(r"archive_command=(\w[^\"]*)", (ROOT / "images/postgresql/postgresql-start").read_text())
    archiving.command += ["-c", "archive_mode=on", "-c", f"archive_command={command}"]
    with archiving as server:
        ended = (datetime.now(UTC) - timedelta(minutes=90)).isoformat()
        server.execute(
            "postgres",
            "CREATE DATABASE airflow",
            "CREATE ROLE monitoring LOGIN",
            "GRANT pg_monitor TO monitoring",
            f"COMMENT ON DATABASE postgres IS 'backed up {ended}'",
            "SELECT pg_switch_wal()",
        )
        own = airflow_environment(server)
        program = "from mlops.airflow.administration.setup import let_monitor, upgrade_schema\n"
        program += "upgrade_schema(); let_monitor(); let_monitor()"
        subprocess.run([sys.executable, "-c", program], env=own, check=True, capture_output=True)
        server.execute("airflow", SEED)
        with psycopg.connect(f"{server.url}/postgres", autocommit=True) as asking:
            eventually(lambda: asking.execute("SELECT failed_count > 0 FROM pg_stat_archiver").fetchone() == (True,))
        yield server


@contextmanager
def exporting(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[dict[str, float]]:
    """What an exporter shows of a server: `name label label` and the value."""
    (port,) = free_ports(1)
    command = [*command, f"--web.listen-address=127.0.0.1:{port}"]
    url = f"http://127.0.0.1:{port}"
    with running(command, folder / "log", lambda: answers(url), environment):
        with urllib.request.urlopen(f"{url}/metrics", timeout=240) as answer:
            text = answer.read().decode()
        yield {
            " ".join(
                [sample.name, *(value for label, value in sample.labels.items() if label != "server")]
            ): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture(scope="module")
def shown(server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, float]]:
    """What the chart's exporter shows of that server; it is told all but the address."""
    (container,) = containers(
        find(render("monitoring"), "Deployment", "maestro-postgresql-exporter")["spec"]["template"]["spec"]
    )
    address = server.url.removeprefix("postgresql://postgres@")
    told = environment(container)
    uri = told["DATA_SOURCE_URI"].replace("maestro-postgresql:5432", address)
    own = {"DATA_SOURCE_URI": uri, "DATA_SOURCE_USER": told["DATA_SOURCE_USER"], "DATA_SOURCE_PASS": "any"}
    args = [a.replace("/etc/postgresql-exporter/queries.yaml", str(QUERIES)) for a in container["args"]]
    kept = [argument for argument in args if not argument.startswith("--web.")]
    with exporting(kept, own, tmp_path_factory.mktemp("exporter")) as found:
        yield found


def aged(found: dict[str, float], name: str) -> float:
    """Minutes since the time that a metric says, by the server's clock, which is ours."""
    return (time.time() - found[name]) / 60


def test_every_query_is_answered(shown: dict[str, float]) -> None:
    assert shown["pg_up"] == 1
    assert shown["pg_exporter_last_scrape_error"] == 0
    queries = yaml.safe_load(QUERIES.read_text())
    assert {name for name in queries if not any(one.startswith(f"{name}_") for one in shown)} == set()


def test_it_is_seen_when_the_last_backup_was_and_whether_the_log_is_archived(shown: dict[str, float]) -> None:
    assert aged(shown, "postgresql_backup_timestamp_seconds") == pytest.approx(90, abs=10)
    assert shown["postgresql_archive_failing"] == 1
    assert shown["postgresql_archive_waiting_files"] >= 1


def test_dags_that_are_active_say_how_they_fare(shown: dict[str, float]) -> None:
    assert shown["airflow_db_dag_last_run_failed ill"] == 1
    assert shown["airflow_db_dag_last_run_failed well"] == 0
    assert shown["airflow_db_dag_running_runs well"] == 1
    assert shown["airflow_db_dag_queued_runs ill"] == 1
    assert aged(shown, "airflow_db_dag_last_success_timestamp_seconds well") == pytest.approx(100, abs=3)
    assert aged(shown, "airflow_db_dag_last_success_timestamp_seconds ill") == pytest.approx(480, abs=3)
    assert shown["airflow_db_dag_schedule_seconds well"] == pytest.approx(3600, abs=60)
    assert not [name for name in shown if re.search(r"airflow_db_\w+ (paused|stale)\b", name)]
    schedule = shown.get("airflow_db_dag_schedule_seconds ill", float("nan"))
    assert schedule != schedule, "it has none"


def test_a_run_that_has_not_ended_says_how_late_it_is_and_no_other(shown: dict[str, float]) -> None:
    assert shown["airflow_db_deadline_overdue_seconds well"] == pytest.approx(-600, abs=120)
    assert shown["airflow_db_deadline_overdue_seconds ill"] == pytest.approx(600, abs=120)


def test_the_newest_heartbeat_of_a_kind_counts_and_none_is_the_oldest_of_all(shown: dict[str, float]) -> None:
    assert aged(shown, "airflow_db_heartbeat_timestamp_seconds SchedulerJob") < 5
    assert shown["airflow_db_heartbeat_timestamp_seconds TriggererJob"] == 0


def test_a_task_counts_since_it_last_succeeded(shown: dict[str, float]) -> None:
    failed = {name: value for name, value in shown.items() if name.startswith("airflow_db_task_failed_runs")}
    assert failed == {"airflow_db_task_failed_runs ill bad": 2}


def test_a_pool_says_what_is_taken_and_waited_for(shown: dict[str, float]) -> None:
    assert shown["airflow_db_pool_slots p"] == 4
    assert shown["airflow_db_pool_taken_slots p"] == 3, "one queued, and two deferred ones, which this pool counts"
    assert shown["airflow_db_pool_taken_slots other"] == 0, "which does not count them"
    assert shown["airflow_db_pool_waiting_slots p"] == 3
    assert shown["airflow_db_pool_longest_wait_seconds p"] == pytest.approx(1200, abs=120)
    assert shown["airflow_db_pool_longest_wait_seconds other"] == 0
    assert shown["airflow_db_tasks_count scheduled"] == 1
    assert shown["airflow_db_tasks_count deferred"] == 2
    assert shown["airflow_db_tasks_count running"] == 0


def test_an_asset_says_when_it_was_last_updated(shown: dict[str, float]) -> None:
    assert aged(shown, "airflow_db_asset_updated_timestamp_seconds online-features") == pytest.approx(60, abs=3)


def test_who_watches_reads_what_the_queries_ask_for_and_nothing_else(server: PostgreSQL) -> None:
    with psycopg.connect(server.url.replace("postgres@", "monitoring@") + "/airflow", autocommit=True) as connection:
        for secret in (
            "SELECT * FROM connection",
            "SELECT * FROM ab_user",
            "SELECT conf FROM dag_run",
            "SELECT * FROM variable",
        ):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable)):
                connection.execute(secret)
        granted = connection.execute(
            "SELECT table_name, column_name FROM information_schema.column_privileges WHERE grantee = 'monitoring'"
        ).fetchall()
    assert set(granted) == {(table, column) for table, columns in MONITORED.items() for column in columns}
    asked = "".join(query["query"] for query in yaml.safe_load(QUERIES.read_text()).values())
    for table, columns in MONITORED.items():
        assert re.search(rf"\b{table}\b", asked)
        for column in columns:
            assert re.search(rf"\b{column}\b", asked), f"{table}.{column} is asked for by no query"


@contextmanager
def silent() -> Iterator[int]:
    """A port at which nobody answers, and nobody is refused: as a Service without pods is where policies hold."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # what the kernel keeps waiting for the program; who comes after them hears nothing
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_redis_that_does_not_answer_is_told_of_while_prometheus_waits(tmp_path: Path) -> None:
    exporter = find(render("monitoring"), "Deployment", "maestro-redis-exporter")
    (container,) = containers(exporter["spec"]["template"]["spec"])
    (prometheus,) = find(render("monitoring"), "ConfigMap", "maestro-prometheus")["data"].values()
    timeout = yaml.safe_load(prometheus)["global"].get("scrape_timeout", "10s")
    with silent() as port:
        told = {"REDIS_ADDR": f"redis://127.0.0.1:{port}", "REDIS_PASSWORD": PASSWORD, "REDIS_USER": "monitoring"}
        begun = time.monotonic()
        with exporting([a for a in container["args"] if "listen" not in a], told, tmp_path) as found:
            assert found["redis_up"] == 0
        assert time.monotonic() - begun < float(timeout.removesuffix("s"))


def test_names_in_rules_are_those_of_the_exporters(shown: dict[str, float], run_folder: Path, tmp_path: Path) -> None:
    names = {name.partition(" ")[0] for name in shown}
    assert set(EMITTED["prometheus-postgres-exporter 0.11.1"]) <= names
    exporter = find(render("monitoring"), "Deployment", "maestro-redis-exporter")
    (container,) = containers(exporter["spec"]["template"]["spec"])
    with Redis(run_folder) as redis:
        told = {"REDIS_ADDR": f"redis://127.0.0.1:{redis.port}", "REDIS_PASSWORD": PASSWORD}
        told["REDIS_USER"] = environment(container)["REDIS_USER"]
        with exporting([a for a in container["args"] if "listen" not in a], told, tmp_path) as found:
            assert found["redis_up"] == 1
            assert set(EMITTED["prometheus-redis-exporter 1.45.0"]) <= {name.partition(" ")[0] for name in found}
