"""Faults of Airflow: each is still there without its repair, and gone with it."""

from pathlib import Path

from tests.dags.conftest import Printed

DAG = """
from datetime import timedelta
from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference
from airflow.providers.standard.operators.empty import EmptyOperator
from mlops.airflow.authoring.alerts import deadline_missed

with DAG(
    dag_id="due",
    schedule=None,
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=30),
        callback=AsyncCallback(deadline_missed),
    ),
):
    EmptyOperator(task_id="work")
"""
PROGRAM = """
import json, subprocess, sys
from sqlalchemy import select
from airflow.models.dagrun import DagRun
from airflow.models.deadline import Deadline
from airflow.models.taskinstance import clear_task_instances
from airflow.utils.session import create_session
from mlops.airflow.internals import patches

for words in (["reserialize"], ["trigger", "due"]):
    subprocess.run([sys.executable, "-m", "airflow", "dags", *words], check=True, capture_output=True)

def cleared():
    with create_session() as session:
        run = session.scalar(select(DagRun))
        run.task_instances[0].state = "failed"
        session.flush()
        clear_task_instances(run.task_instances, session)
        session.flush()
        due = session.scalar(select(Deadline)).deadline_time
        return run.task_instances[0].state, (due - run.queued_at).total_seconds()

try:
    fault = str(cleared())
except TypeError as error:
    fault = str(error)
patches.apply()
print(json.dumps({"without": {"fault": fault}, "with": {"cleared": cleared()}}))
"""


def test_a_task_of_a_run_with_a_deadline_is_cleared_and_the_deadline_moved(
    tmp_path: Path, printed_in_its_own_airflow: Printed
) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "due.py").write_text(DAG)
    found = printed_in_its_own_airflow(tmp_path, dags, PROGRAM)
    assert "timedelta seconds" in found["without"]["fault"], "Airflow has mended it: internals/patches.py can go"
    assert found["with"]["cleared"] == [None, 1800]


EMPTY = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG(dag_id="empty", schedule=None):
    EmptyOperator(task_id="work")
"""
DELETED = """
import json, logging, subprocess, sys
from sqlalchemy import delete, select
from sqlalchemy.orm.exc import ObjectDeletedError
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from mlops.airflow.internals import patches

def airflow(*words):
    subprocess.run([sys.executable, "-m", "airflow", "dags", *words], check=True, capture_output=True)

def scheduled():
    # What a deadlock with the request that deletes leaves behind: objects that are read anew, one of which is gone.
    with create_session() as session:
        runs = list(session.scalars(select(DagRun).order_by(DagRun.run_id)))
        for run in runs:
            run.state = "running"
        session.commit()
        session.execute(delete(DagRun).where(DagRun.run_id == "b"), execution_options={"synchronize_session": False})
        session.commit()
        session.expire_all()
        with prohibit_commit(session) as guard:
            found = SchedulerJobRunner(Job())._schedule_all_dag_runs(guard, runs, session)
        return [run.run_id for run, _ in found]

airflow("reserialize")
airflow("unpause", "empty", "--yes")
for name in "abc":
    airflow("trigger", "empty", "--run-id", name)
try:
    fault = str(scheduled())
except ObjectDeletedError as error:
    fault = type(error).__name__
airflow("trigger", "empty", "--run-id", "b")
patches.apply_to_scheduler()
print(json.dumps({"without": {"fault": fault}, "with": {"scheduled": scheduled()}}))
"""


def test_a_run_that_is_deleted_does_not_end_the_scheduler_that_looks_at_it(
    tmp_path: Path, printed_in_its_own_airflow: Printed
) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "empty.py").write_text(EMPTY)
    found = printed_in_its_own_airflow(tmp_path, dags, DELETED)
    assert found["without"]["fault"] == "ObjectDeletedError", "Airflow has mended it: apply_to_scheduler can go"
    assert found["with"]["scheduled"] == ["a", "c"]
