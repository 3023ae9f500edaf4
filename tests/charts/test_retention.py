"""What the CronJobs of retention run, as the charts render it, beside a real MLflow and a real database of Airflow."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mlflow import MlflowClient

from tests.charts.conftest import Object, containers, environment, find, pod_template, render
from tests.servers import MLflow, PostgreSQL, airflow_environment

pytestmark = pytest.mark.timeout(1200)  # the whole of MLflow and of Airflow is imported several times


def container(chart: str, name: str, values: dict[str, Any]) -> Object:
    objects = render(chart, {"retention": {"enabled": True, **values}})
    (only,) = containers(pod_template(find(objects, "CronJob", name))["spec"])
    return only


@pytest.fixture
def mlflow(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MLflow]:
    """A server of its own: what is deleted there is so for all."""
    for name, value in MLflow.writer.items():
        monkeypatch.setenv(name, value)
    with MLflow(run_folder) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        yield server


def test_runs_that_were_deleted_a_while_ago_go_with_their_artifacts_but_for_those_of_a_registered_model(
    mlflow: MLflow,
) -> None:
    client = MlflowClient(mlflow.url)
    experiment = client.create_experiment("e")
    runs = {name: client.create_run(experiment).info.run_id for name in ("there", "deleted", "registered")}
    for run in runs.values():
        client.log_text(run, "kept", "file.txt")
    client.create_registered_model("m")
    client.create_model_version("m", f"runs:/{runs['registered']}/model", runs["registered"])
    for name in ("deleted", "registered"):
        client.delete_run(runs[name])

    def removed(days: int) -> str:
        """What the CronJob's container says."""
        script = container("mlflow", "maestro-mlflow-retention", {"days": 7})
        assert environment(script)["DAYS"] == "7"
        told = {**os.environ, "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{mlflow.folder}/mlflow.db", "DAYS": str(days)}
        command = [sys.executable, *script["args"][1:]]
        done = subprocess.run(command, env=told, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def files() -> set[str]:
        return {path.parts[-3] for path in (mlflow.folder / "artifacts").rglob("file.txt")}

    assert removed(1).splitlines() == ["removed 0 runs"]
    assert files() == set(runs.values())
    said = removed(0)
    assert f"removed run {runs['deleted']}\n" in said
    assert f"run {runs['registered']} stays" in said
    assert files() == {runs["there"], runs["registered"]}
    assert client.get_run(runs["registered"]).info.lifecycle_stage == "deleted"
    assert removed(0).splitlines()[-1] == "removed 0 runs"


OLD_RUNS = """
INSERT INTO dag_bundle (name) VALUES ('b');
INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, timetable_type, partition_mapper_info, max_active_tasks,
                 max_consecutive_failed_dag_runs, has_task_concurrency_limits)
SELECT name, false, false, 'b', '', '{}', 1, 0, false FROM unnest(ARRAY['often', 'once']) AS name;
INSERT INTO dag_run (dag_id, run_id, state, run_type, run_after, start_date, end_date, clear_number)
SELECT dag_id, run_id, 'success', 'scheduled', at, at, at, 0
  FROM (VALUES ('often', 'old', now() - interval '91 days'), ('often', 'new', now() - interval '89 days'),
               ('often', 'newest', now()), ('once', 'only', now() - interval '300 days')) AS run (dag_id, run_id, at);
"""


def test_old_runs_go_from_airflows_database_but_for_the_newest_of_a_dag(run_folder: Path) -> None:
    with PostgreSQL(run_folder) as server:
        server.execute("postgres", "CREATE DATABASE airflow")
        own = airflow_environment(server) | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run(["airflow", "db", "migrate"], env=own, check=True, capture_output=True)
        server.execute("airflow", OLD_RUNS)
        command = container("airflow", "maestro-airflow-retention", {"days": 90})["args"]
        done = subprocess.run(command, env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "dag_run" in done.stdout
        left = "SELECT string_agg(run_id, ' ' ORDER BY run_after) FROM dag_run"
        assert value(server, left) == "only new newest"
        tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE '\\_airflow\\_deleted%'"
        assert value(server, tables) == 0, "a copy of them would fill the same volume"


def value(server: PostgreSQL, query: str) -> Any:
    with psycopg.connect(f"{server.url}/airflow") as connection:
        (found,) = connection.execute(query).fetchone() or (None,)
    return found
