"""What people are told: a task failed for good, or a DAG run is late.

The same text goes to the log, to the webhook where one is configured, and by mail to whom the Variable `alert_email`
names. An alert must not break what it tells of: what one of the two channels does not take is a line in the log, and
told by the other.
"""

from __future__ import annotations

import asyncio
import html
import logging
import os
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from textwrap import shorten
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference  # type: ignore[attr-defined]  # loaded lazily

from mlops.airflow.pods.trigger import FAILURE_KEY
from mlops.notify.webhook import WEBHOOK_URL, post
from mlops.result import EXIT_REFUSED, Failure

_MAIL_CONNECTION = "smtp_default"
_SUBJECT_LENGTH = 150  # characters; the whole text is in the mail

log = logging.getLogger(__name__)


def task_failed(context: Mapping[str, Any]) -> None:
    """An `on_failure_callback` of tasks; Airflow calls it once no retry is left."""
    tell(_failure(context))


def task_broke(context: Mapping[str, Any]) -> None:
    """As `task_failed`, but posts nothing of a refusal: for tasks of DAGs that post what they refuse themselves."""
    refused = str(_cause(context["ti"])).startswith(f"the container exited with {EXIT_REFUSED} ")
    tell(_failure(context), by={"mail"} if refused else _CHANNELS)


def _failure(context: Mapping[str, Any]) -> str:
    ti = context["ti"]
    return (
        f"{ti.dag_id}: task {ti.task_id} failed in try {ti.try_number} of run {ti.run_id}: "
        f"{_cause(ti) or context.get('exception') or 'see its log'}"
    )


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


def _post(text: str) -> None:
    """Posts the text to the webhook, where there is one. Raises Failure where it does not take the text."""
    if url := os.environ.get(WEBHOOK_URL):
        post(url, text)


def _mail(text: str) -> None:
    """Mails the text to whom the Variable names, where it names anybody. Raises Failure where the mail is not taken."""
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier
    from airflow.sdk import Variable
    from airflow.sdk.exceptions import AirflowException

    recipients = Variable.get("alert_email", default="")
    if not recipients:
        return
    subject, content = shorten(text, _SUBJECT_LENGTH), f"<pre>{html.escape(text)}</pre>"
    try:
        # Not called as a callback is: that would render the text, which a task's error is part of, as a template.
        SmtpNotifier(recipients, subject=subject, html_content=content, smtp_conn_id=_MAIL_CONNECTION).notify({})
    except (AirflowException, OSError, RuntimeError, ValueError) as error:  # smtplib's are OSErrors
        cause = f"{type(error).__name__}: {error}"
        raise Failure(
            f"no mail to {recipients} ({cause}): check airflow.connections.{_MAIL_CONNECTION} and its extra.from_email"
        ) from error


_CHANNELS: Mapping[str, Callable[[str], None]] = {"webhook": _post, "mail": _mail}


def tell(text: str, by: Collection[str] = _CHANNELS.keys()) -> None:
    """Logs the text, and sends it by those of the channels that people have set up."""
    log.warning("alert: %s", text)
    lost = {channel: why for channel in by if (why := _lost(channel, text))}
    for channel, why in lost.items():
        for other in _CHANNELS.keys() - lost.keys():
            _lost(other, f"an alert was not sent by {channel}: {why}")


def _lost(channel: str, text: str) -> str:
    """Why a channel did not take the text, which is logged; nothing where it did."""
    try:
        _CHANNELS[channel](text)
    except Failure as failure:
        log.error("the alert was not sent by %s: %s", channel, failure)
        return str(failure)
    return ""
