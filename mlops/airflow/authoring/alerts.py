"""What people are told: a task failed for good, or a DAG run is late.

The same text goes to the log and by each channel that values set up. Mail goes to whom the Variable `alert_email`
names, where it names anybody. An alert must not break what it tells of: what one channel does not take is a line in the
log, and told by the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference  # type: ignore[attr-defined]  # loaded lazily

from mlops.airflow.pods.trigger import FAILURE_KEY
from mlops.config import NotificationSettings
from mlops.notify.channels import CHANNELS, deliver
from mlops.notify.message import Message, run_link
from mlops.result import EXIT_REFUSED

log = logging.getLogger(__name__)


def task_failed(context: Mapping[str, Any]) -> None:
    """An `on_failure_callback` of tasks; Airflow calls it once no retry is left."""
    tell(_failure(context), run=_run(context))


def task_broke(context: Mapping[str, Any]) -> None:
    """As `task_failed`, but posts nothing of a refusal: for tasks of DAGs that post what they refuse themselves."""
    refused = str(_cause(context["ti"])).startswith(f"the container exited with {EXIT_REFUSED} ")
    tell(_failure(context), by={"mail"} if refused else CHANNELS, run=_run(context))


def _failure(context: Mapping[str, Any]) -> str:
    ti = context["ti"]
    return (
        f"{ti.dag_id}: task {ti.task_id} failed in try {ti.try_number} of run {ti.run_id}: "
        f"{_cause(ti) or context.get('exception') or 'see its log'}"
    )


def _run(context: Mapping[str, Any]) -> tuple[str, str]:
    return context["ti"].dag_id, context["ti"].run_id


def _cause(ti: Any) -> str | None:
    """What the operator left as the cause of a task's failure."""
    cause: str | None = ti.xcom_pull(task_ids=ti.task_id, key=FAILURE_KEY, map_indexes=ti.map_index)
    return cause


def due_within(interval: timedelta) -> DeadlineAlert:
    """The deadline of a DAG's runs, counted from their queueing: the logical date of a backfilled run lies long ago."""
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=interval, callback=AsyncCallback(deadline_missed)
    )


async def deadline_missed(context: Mapping[str, Any] | None = None, **details: Any) -> None:
    """The callback of a DeadlineAlert, run in the triggerer. `details` are named in the text."""
    run = (context or {}).get("dag_run") or {}
    due = ((context or {}).get("deadline") or {}).get("deadline_time")
    more = "".join(f", {name} {value}" for name, value in details.items())
    text = f"{run.get('dag_id', 'a DAG')}: run {run.get('dag_run_id', '?')} is not done by its deadline {due}{more}"
    named = (run["dag_id"], run["dag_run_id"]) if {"dag_id", "dag_run_id"} <= run.keys() else None
    await asyncio.to_thread(tell, text, run=named)


def tell(text: str, by: Collection[str] = CHANNELS, run: tuple[str, str] | None = None) -> None:
    """Logs the text, and sends it by those of the channels that people have set up.

    run: the ids of a DAG and of its run, to link to where values say at which address Airflow is opened.
    """
    from airflow.sdk import Variable

    log.warning("alert: %s", text)
    settings = NotificationSettings.from_environment()
    if recipients := Variable.get("alert_email", default=""):
        settings = replace(settings, mail=replace(settings.mail, to=recipients))
    links = (run_link(settings.airflow_address, *run),) if run and settings.airflow_address else ()
    deliver(Message(text, links=links), settings, by)
