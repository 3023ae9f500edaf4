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
