"""What people are told: a task failed for good, or a DAG run is late.

The same text goes to the log and, where one is configured, to the webhook. A webhook that is away is a line in the log:
an alert must not break what it tells of.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference  # type: ignore[attr-defined]  # loaded lazily

from mlops.airflow.pods.trigger import FAILURE_KEY
from mlops.notify.webhook import WEBHOOK_URL, post
from mlops.result import EXIT_REFUSED, Failure

log = logging.getLogger(__name__)


def task_failed(context: Mapping[str, Any]) -> None:
    """An `on_failure_callback` of tasks; Airflow calls it once no retry is left."""
    ti = context["ti"]
    tell(
        f"{ti.dag_id}: task {ti.task_id} failed in try {ti.try_number} of run {ti.run_id}: "
        f"{_cause(ti) or context.get('exception') or 'see its log'}"
    )


def task_broke(context: Mapping[str, Any]) -> None:
    """As `task_failed`, but silent about a refusal: for tasks that tell people of what they refuse themselves."""
    if not str(_cause(context["ti"])).startswith(f"the container exited with {EXIT_REFUSED} "):
        task_failed(context)


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
    await asyncio.to_thread(tell, text)


def tell(text: str) -> None:
    """Logs the text and posts it to the webhook, where there is one."""
    log.warning("alert: %s", text)
    url = os.environ.get(WEBHOOK_URL)
    if url:
        try:
            post(url, text)
        except Failure as failure:
            log.error("the alert was not sent: %s", failure)
