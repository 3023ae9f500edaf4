"""What people are told when something goes wrong."""

import asyncio
import logging
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlops.airflow.authoring.alerts import deadline_missed, task_broke, task_failed, tell
from mlops.notify import channels
from tests.receivers import SECRET, Webhook, mail_server, text_of


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with Webhook.listening() as hook:
        monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", hook.url)
        yield hook


NOWHERE = "9"  # a port at which nobody listens
PEOPLE = "ml@example.com, oncall@example.com"  # whom the Secret names


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "PAUSES", (0.0,))


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[EmailMessage]]:
    """What a mail server was sent."""
    with mail_server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server.mails


def failed_task(**xcoms: str) -> dict[str, Any]:
    def xcom_pull(*, task_ids: str, key: str, map_indexes: int) -> str | None:
        assert (task_ids, map_indexes) == ("train_model", -1)
        return xcoms.get(key)

    ti = SimpleNamespace(dag_id="d", task_id="train_model", run_id="r", try_number=3, map_index=-1, xcom_pull=xcom_pull)
    return {"ti": ti, "exception": None}


def test_a_failed_task_is_told_with_its_cause(webhook: Webhook) -> None:
    task_failed(failed_task(failure="out of memory"))
    assert webhook.texts == ["d: task train_model failed in try 3 of run r: out of memory"]


def test_without_a_cause_people_are_sent_to_the_log(webhook: Webhook) -> None:
    task_failed(failed_task())
    assert webhook.texts[0].endswith("see its log")


def test_a_late_run_is_told_with_its_deadline(webhook: Webhook) -> None:
    context = {
        "dag_run": {"dag_id": "d", "dag_run_id": "scheduled__1"},
        "deadline": {"id": "x", "deadline_time": "2026-01-01 03:00"},
    }
    asyncio.run(deadline_missed(context=context, stage="nightly"))
    assert webhook.texts == ["d: run scheduled__1 is not done by its deadline 2026-01-01 03:00, stage nightly"]


def test_without_a_channel_the_same_text_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mlops.airflow.authoring.alerts"):
        tell("something")
    assert caplog.messages[0] == "alert: something"


def test_a_webhook_that_is_away_breaks_nothing_and_stays_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", f"http://127.0.0.1:{NOWHERE}/{SECRET}")
    tell("something")
    assert "the message was not sent by slack: the webhook cannot be reached" in caplog.text
    assert SECRET not in caplog.text


def test_a_refusal_that_the_task_tells_of_itself_is_not_told_twice(webhook: Webhook) -> None:
    task_broke(failed_task(failure="the container exited with 65 (Error): column f3 is missing"))
    assert webhook.texts == []
    task_broke(failed_task(failure="the container exited with 1 (Error): no bucket"))
    task_broke(failed_task())
    assert len(webhook.texts) == 2


def test_a_failed_task_and_a_late_run_are_told_by_mail_to_all_whom_the_secret_names(mails: list[EmailMessage]) -> None:
    task_failed(failed_task(failure="out of memory"))
    asyncio.run(deadline_missed(context={"dag_run": {"dag_id": "d", "dag_run_id": "r"}}))
    failed, late = mails
    assert (failed["From"], failed["To"]) == ("maestro@example.com", PEOPLE)
    assert failed["Subject"] == "d: task train_model failed in try 3 of run r: out of memory"
    assert text_of(failed) == failed["Subject"]
    assert late["Subject"].startswith("d: run r is not done by its deadline")


@pytest.mark.parametrize(("variable", "to"), [("", PEOPLE), ("night@example.com", "night@example.com")])
def test_the_variable_names_others_where_it_names_anybody(
    variable: str, to: str, mails: list[EmailMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_ALERT_EMAIL", variable)
    tell("something")
    assert [mail["To"] for mail in mails] == [to]


def test_what_a_task_says_is_neither_a_template_nor_a_tag_nor_a_header_of_the_mail(mails: list[EmailMessage]) -> None:
    said = "{{ 7 * 6 }} <b>\nBcc: else@example.com " + "x" * 200
    task_failed(failed_task(failure=said))
    (mail,) = mails
    assert said in text_of(mail)
    assert "<b>" not in text_of(mail, "html")
    assert mail["Bcc"] is None
    assert len(mail["Subject"]) <= 150


def test_mail_that_is_not_taken_breaks_nothing_and_the_webhook_says_so(
    webhook: Webhook, mails: list[EmailMessage], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MAESTRO_MAIL_PORT", NOWHERE)
    task_failed(failed_task())
    alert, lost = webhook.texts
    assert alert.endswith("see its log")
    assert lost.startswith("A message was not sent by mail: d: task train_model failed")
    assert "check global.notifications.mail" in lost
    assert "the message was not sent by mail" in caplog.text


def test_a_webhook_that_is_away_is_told_of_by_mail(mails: list[EmailMessage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", f"http://127.0.0.1:{NOWHERE}/{SECRET}")
    tell("something")
    alert, lost = mails
    assert alert["Subject"] == "something"
    assert lost["Subject"] == "A message was not sent by slack: something"
    assert "the webhook cannot be reached" in text_of(lost)
    assert SECRET not in text_of(lost)


def test_an_alert_links_to_its_run_where_airflow_has_an_address(
    mails: list[EmailMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAESTRO_AIRFLOW_ADDRESS", "https://airflow.example.com")
    task_failed(failed_task())
    asyncio.run(deadline_missed(context={"dag_run": {"dag_id": "d", "dag_run_id": "r"}}))
    for mail in mails:
        assert "<a href='https://airflow.example.com/dags/d/runs/r'>" in text_of(mail, "html")


def test_a_refusal_is_mailed_though_it_is_not_posted(webhook: Webhook, mails: list[EmailMessage]) -> None:
    task_broke(failed_task(failure="the container exited with 65 (Error): column f3 is missing"))
    assert webhook.texts == []
    assert [mail["Subject"].endswith("column f3 is missing") for mail in mails] == [True]
