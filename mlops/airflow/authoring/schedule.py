"""When the platform's DAGs run."""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable

# Airflow starts the first run of a DAG at once if it was due within a tenth of its interval: of a nightly one for two
# hours and a half, before a platform that was just installed has any data. Never would be too strict: a file that is
# parsed again in the moment after its run was due would put that run off to the next time.
_LATE = timedelta(minutes=5)


def cron(expression: str) -> CronTriggerTimetable:
    """A schedule in UTC, such as "0 2 * * *". A DAG that has never run waits for the next time that it is due."""
    return CronTriggerTimetable(expression, timezone="UTC", run_immediately=_LATE)
