"""Faults of the Airflow in constraints.txt that people would meet, mended until a release of it does so."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.models import taskinstance
from airflow.models.deadline import Deadline
from airflow.models.deadline_alert import DeadlineAlert
from airflow.serialization.decoders import decode_deadline_alert
from airflow.serialization.definitions.deadline import DeadlineAlertFields

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session


def apply() -> None:
    """Clearing a task whose run has a deadline after its queueing is answered by 500 (apache/airflow#70368).

    The deadline is moved by its interval, which Airflow 3.3 stores as JSON and takes for a number of seconds there.
    """
    taskinstance._recalculate_dagrun_queued_at_deadlines = move_deadlines  # noqa: SLF001 - nothing else may be changed


def apply_to_scheduler() -> None:
    """A run that is deleted while the scheduler looks at it ends the scheduler, and with it the tasks that it runs.

    Airflow 3.3 logs what went wrong with the run's id, and to read that of a row that is gone raises
    ObjectDeletedError once more, this time from within the handler.
    """
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.utils.retries import retry_db_transaction

    repaired = retry_db_transaction(schedule_all_dag_runs)
    SchedulerJobRunner._schedule_all_dag_runs = repaired  # type: ignore[method-assign]  # noqa: SLF001


def schedule_all_dag_runs(self: Any, guard: Any, dag_runs: Iterable[DagRun], session: Session) -> list[tuple[Any, Any]]:
    """Airflow's SchedulerJobRunner._schedule_all_dag_runs, which passes over runs that are there no more.

    Returns each run that is still there, with what is to be called because of it.
    """
    from sqlalchemy import inspect
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.orm.exc import ObjectDeletedError, StaleDataError

    decided = []
    for run in dag_runs:
        try:
            decided.append((run, self._schedule_dag_run(run, session=session)))
        except (DBAPIError, StaleDataError):
            raise  # @retry_db_transaction begins anew
        except ObjectDeletedError:
            self.log.info("The DAG run with id %s was deleted: there is nothing to schedule", inspect(run).identity)
        except Exception:
            self.log.exception("Error scheduling the DAG run with id %s", inspect(run).identity)
    guard.commit()
    # Decisions on a later run may have begun the transaction anew, without the lock on an earlier one.
    return [(run, callback) for run, callback in decided if _is_there(run)]


def _is_there(run: DagRun) -> bool:
    from sqlalchemy.orm.exc import ObjectDeletedError

    try:
        return bool(run.run_id)
    except ObjectDeletedError:
        return False


def move_deadlines(dagrun: DagRun, new_queued_at: datetime, session: Session) -> None:
    """Counts the deadlines of a run that is queued again, and has not missed them, from its new queueing."""
    from sqlalchemy import select

    query = (
        select(Deadline, DeadlineAlert)
        .join(DeadlineAlert, Deadline.deadline_alert_id == DeadlineAlert.id)
        .where(Deadline.dagrun_id == dagrun.id, Deadline.missed.is_(False))
    )
    for deadline, alert in session.execute(query).all():
        declared = decode_deadline_alert(
            {
                DeadlineAlertFields.REFERENCE: alert.reference,
                DeadlineAlertFields.INTERVAL: alert.interval,
                DeadlineAlertFields.CALLBACK: alert.callback_def,
            }
        )
        if declared.reference.reference_name == "DagRunQueuedAtDeadline":
            interval = declared.interval
            deadline.deadline_time = new_queued_at + (
                interval if isinstance(interval, timedelta) else interval.resolve()
            )
