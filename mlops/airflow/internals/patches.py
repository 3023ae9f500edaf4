"""Faults of the Airflow in constraints.txt that people would meet, mended until a release of it does so."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

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
