"""PostgreSQL is restored into a fresh release: every row of each database as it was at a moment."""

import json
import os
import subprocess
import sys
import time

import pytest

from infrastructure.install import restrict
from infrastructure.release import RELEASE, kubectl, object_name, selector, wait_until
from tests.e2e.test_pipeline import DAG, REPOSITORY
from tests.e2e.test_release import SECOND, VALUES, helm, psql, second
from tests.e2e.test_upgrade import airflow, ended

__all__ = ["second"]  # a fixture

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        os.environ.get("CLUSTER", "local") == "current", reason="a stranger's cluster gets one release from us"
    ),
]

BACKED_UP = {
    "global": {"tls": {"enabled": True}},
    "postgresql": {"backup": {"enabled": True, "archiveTimeout": 60}},
    "monitoring": {"prometheus": {"enabled": False}},
}
# Nobody writes: only the stores are there.
STORES = {name: {"enabled": False} for name in ("airflow", "mlflow", "feast", "modelServer", "sensorTrainer")}
# What each database holds of the work of a team.
DATABASES = {
    "airflow": "public.task_instance",
    "mlflow": "public.model_versions",
    "feast": "public.feature_views",
    "sensors": "sensors.training_jobs",
    "ledger": "public.promotions",
}
TABLES = """
SELECT format('SELECT %L, count(*), md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM %I.%I AS t',
              table_schema || '.' || table_name, table_schema, table_name)
FROM information_schema.tables
WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')
ORDER BY 1
"""
READINGS = """
from infrastructure.sensors import replay, trainer
replay(1)
with trainer() as api:
    answer = api.ask("POST", "/train", json={"minimum_new_readings": 0}, headers={"Idempotency-Key": "restored"})
    assert answer.status_code == 202, answer.text
"""


def install(folder, *more):
    """Installs or upgrades the second release by what `make install` would, and by these values."""
    files = []
    for number, values in enumerate((BACKED_UP, *more)):
        file = folder / f"{number}.json"
        file.write_text(json.dumps(values))
        files.append(f"--values={file}")
    waited = ("--create-namespace", "--wait", "--timeout", "15m")
    helm("upgrade", "--install", RELEASE, "charts/maestro", "-n", SECOND, *VALUES, *files, *waited)


def content():
    """(database, table) -> (rows, checksum of all that they hold)."""
    found = {}
    for database in DATABASES:
        queries = psql(SECOND, TABLES, database).splitlines()
        # One statement: of one moment.
        for row in psql(SECOND, " UNION ALL ".join(queries), database).splitlines():
            table, count, checksum = row.split("|")
            found[database, table] = int(count), checksum
    return found


def backed_up(name):
    """Makes a backup now, as docs/operations.md has it."""
    cron = object_name("cronjob", "postgresql-backup", SECOND).rpartition("/")[2]
    kubectl("create", "job", "-n", SECOND, f"--from=cronjob/{cron}", name)
    asked = ("get", "job", name, "-n", SECOND, "-o", "jsonpath={.status.succeeded}{.status.failed}")
    assert wait_until(lambda: kubectl(*asked), 300, "the backup's end", 1) == "1"


def archived():
    """Waits until all that was written so far is in the archive."""
    segment = psql(SECOND, "SELECT pg_walfile_name(pg_switch_wal())", "postgres")
    newest = "SELECT last_archived_wal FROM pg_stat_archiver"
    wait_until(lambda: psql(SECOND, newest, "postgres") >= segment, 120, f"{segment} in the archive", 1)


def nobody_writes():
    """Only the stores are left."""
    writers = kubectl("get", "deployments", "-n", SECOND, "-o", "name").split()
    kubectl("scale", "-n", SECOND, "--replicas=0", *writers)
    running = ("get", "pods", "-n", SECOND, "--field-selector=status.phase=Running", "-o", "name")
    stores = {f"pod/{RELEASE}-{store}-0" for store in ("postgresql", "minio", "redis")}
    wait_until(lambda: set(kubectl(*running).split()) == stores, 180, "the end of all who write", 1)


def test_a_fresh_release_has_each_row_that_was_there_at_a_moment(services, second, tmp_path, record_property):
    restrict(SECOND)
    install(tmp_path)
    environment = {**os.environ, "NAMESPACE": SECOND}
    for program in (("-m", "infrastructure.data"), ("-c", READINGS)):
        subprocess.run([sys.executable, *program], cwd=REPOSITORY, env=environment, check=True)
    assert airflow(SECOND, "dags", "trigger", DAG, "--run-id", "first")
    assert ended(SECOND, "first") == "success"
    begun = time.monotonic()
    backed_up("backup-now")
    record_property("seconds of the backup", round(time.monotonic() - begun))
    nobody_writes()
    kept = content()
    assert [table for table in DATABASES.items() if not kept[table][0]] == []
    moment = psql(SECOND, "SELECT clock_timestamp()", "postgres")
    for database in DATABASES:
        psql(SECOND, "CREATE TABLE public.later AS SELECT 1 AS row", database)
    archived()

    helm("uninstall", RELEASE, "-n", SECOND, "--wait")
    kubectl("delete", "pvc", "-n", SECOND, "-l", selector("postgresql"), "--timeout=120s")
    begun = time.monotonic()
    restored = {"postgresql": {"restore": {"from": f"{SECOND}-{RELEASE}", "at": moment}}}
    install(tmp_path, restored, STORES)
    record_property("seconds of the restoration", round(time.monotonic() - begun))
    found = content()
    assert found == kept
    record_property("tables and rows", (len(found), sum(count for count, _ in found.values())))

    # And it is a release that works on, and has backups of its own.
    install(tmp_path, restored)
    assert airflow(SECOND, "dags", "trigger", DAG, "--run-id", "second")
    assert ended(SECOND, "second") == "success"
    backed_up("backup-again")
