"""When Airflow starts the first run of a DAG, by its own timetable."""

from datetime import UTC, datetime, timedelta

import pytest
from airflow.sdk import CronTriggerTimetable
from airflow.serialization.encoders import coerce_to_core_timetable
from airflow.timetables.base import TimeRestriction

from mlops.airflow.authoring.schedule import cron


def first_run(schedule: CronTriggerTimetable) -> datetime:
    info = coerce_to_core_timetable(schedule).next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(None, None, catchup=False)
    )
    assert info is not None
    return info.run_after


def daily(minutes_ago: float) -> tuple[datetime, str]:
    """The last time, to the minute, at which something daily was due that many minutes ago, and its schedule."""
    due = (datetime.now(UTC) - timedelta(minutes=minutes_ago)).replace(second=0, microsecond=0)
    return due, f"{due.minute} {due.hour} * * *"


def test_a_dag_that_has_never_run_waits_for_the_next_time() -> None:
    due, expression = daily(30)
    assert first_run(cron(expression)) == due + timedelta(days=1)
    stock = CronTriggerTimetable(expression, timezone="UTC")
    assert first_run(stock) == due, "what Airflow does by itself"


@pytest.mark.parametrize("minutes_ago", [0, 2])
def test_a_first_run_that_was_due_a_moment_ago_is_not_lost(minutes_ago: int) -> None:
    due, expression = daily(minutes_ago)
    assert first_run(cron(expression)) == due


def test_a_due_run_is_started_late_where_the_dag_has_run_before() -> None:
    due, expression = daily(30)
    timetable = coerce_to_core_timetable(cron(expression))
    before = timetable.infer_manual_data_interval(run_after=due - timedelta(days=1))
    info = timetable.next_dagrun_info(
        last_automated_data_interval=before, restriction=TimeRestriction(None, None, catchup=False)
    )
    assert info is not None
    assert info.run_after == due
