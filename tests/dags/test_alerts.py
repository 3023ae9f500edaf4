"""What people are told when something goes wrong."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import SimpleNamespace
from typing import Any

import pytest

from mlops.airflow.authoring.alerts import deadline_missed, task_broke, task_failed, tell


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What a webhook was sent."""
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", f"http://127.0.0.1:{server.server_address[1]}/secret")
    yield received
    server.shutdown()
    server.server_close()


NOWHERE = 9  # a port at which nobody listens


def mail_server(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Has Airflow send mail to two people, by a server at a port of this machine."""
    extra = {"from_email": "maestro@example.com", "disable_ssl": True, "disable_tls": True}
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW_VAR_ALERT_EMAIL", "ml@example.com, oncall@example.com")


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EmailMessage]]:
    """What a mail server was sent that takes everything."""
    received: list[EmailMessage] = []

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 ready\r\n")
            for line in self.rfile:
                if line.strip().upper() == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    content = b"".join(iter(self.rfile.readline, b".\r\n"))
                    received.append(message_from_bytes(content, policy=policy.default))
                self.wfile.write(b"250 fine\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        mail_server(monkeypatch, server.server_address[1])
        yield received
        server.shutdown()


def text_of(mail: EmailMessage) -> str:
    (part,) = mail.iter_parts()
    return str(part.get_content()).strip()


def failed_task(**xcoms: str) -> dict[str, Any]:
    def xcom_pull(*, task_ids: str, key: str, map_indexes: int) -> str | None:
        assert (task_ids, map_indexes) == ("train_model", -1)
        return xcoms.get(key)

    ti = SimpleNamespace(dag_id="d", task_id="train_model", run_id="r", try_number=3, map_index=-1, xcom_pull=xcom_pull)
    return {"ti": ti, "exception": None}


def test_a_failed_task_is_told_with_its_cause(webhook: list[dict[str, Any]]) -> None:
    task_failed(failed_task(failure="out of memory"))
    assert webhook == [{"text": "d: task train_model failed in try 3 of run r: out of memory"}]


def test_without_a_cause_people_are_sent_to_the_log(webhook: list[dict[str, Any]]) -> None:
    task_failed(failed_task())
    assert webhook[0]["text"].endswith("see its log")


def test_a_late_run_is_told_with_its_deadline(webhook: list[dict[str, Any]]) -> None:
    context = {
        "dag_run": {"dag_id": "d", "dag_run_id": "scheduled__1"},
        "deadline": {"id": "x", "deadline_time": "2026-01-01 03:00"},
    }
    asyncio.run(deadline_missed(context=context, stage="nightly"))
    assert webhook == [{"text": "d: run scheduled__1 is not done by its deadline 2026-01-01 03:00, stage nightly"}]


def test_without_a_webhook_the_same_text_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mlops.airflow.authoring.alerts"):
        tell("something")
    assert caplog.messages == ["alert: something"]


def test_a_webhook_that_is_away_breaks_nothing_and_stays_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", f"http://127.0.0.1:{NOWHERE}/secret")
    tell("something")
    assert "the alert was not sent by webhook" in caplog.text
    assert "secret" not in caplog.text.replace("slackWebhookSecret", "").lower().replace("check the secret", "")


def test_a_refusal_that_the_task_tells_of_itself_is_not_told_twice(webhook: list[dict[str, Any]]) -> None:
    task_broke(failed_task(failure="the container exited with 65 (Error): column f3 is missing"))
    assert webhook == []
    task_broke(failed_task(failure="the container exited with 1 (Error): no bucket"))
    task_broke(failed_task())
    assert len(webhook) == 2


def test_a_failed_task_and_a_late_run_are_told_by_mail_to_all_whom_the_variable_names(
    mails: list[EmailMessage],
) -> None:
    task_failed(failed_task(failure="out of memory"))
    asyncio.run(deadline_missed(context={"dag_run": {"dag_id": "d", "dag_run_id": "r"}}))
    failed, late = mails
    assert (failed["From"], failed["To"]) == ("maestro@example.com", "ml@example.com, oncall@example.com")
    assert failed["Subject"] == "d: task train_model failed in try 3 of run r: out of memory"
    assert text_of(failed) == f"<pre>{failed['Subject']}</pre>"
    assert late["Subject"].startswith("d: run r is not done by its deadline")


def test_what_a_task_says_is_neither_a_template_nor_a_tag_nor_a_header_of_the_mail(mails: list[EmailMessage]) -> None:
    said = "{{ 7 * 6 }} <b>\nBcc: else@example.com " + "x" * 200
    task_failed(failed_task(failure=said))
    (mail,) = mails
    assert said.replace("<b>", "&lt;b&gt;") in text_of(mail)
    assert mail["Bcc"] is None
    assert len(mail["Subject"]) <= 150


@pytest.mark.parametrize("recipients", ["", None])
def test_nobody_is_mailed_where_the_variable_names_nobody(
    recipients: str | None, mails: list[EmailMessage], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AIRFLOW_VAR_ALERT_EMAIL")
    if recipients is not None:
        monkeypatch.setenv("AIRFLOW_VAR_ALERT_EMAIL", recipients)
    tell("something")
    assert mails == []
    assert caplog.messages == ["alert: something"]


def test_mail_that_is_not_taken_breaks_nothing_and_the_webhook_says_so(
    webhook: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mail_server(monkeypatch, NOWHERE)
    task_failed(failed_task())
    alert, lost = (message["text"] for message in webhook)
    assert alert.endswith("see its log")
    assert lost.startswith("an alert was not sent by mail: no mail to ml@example.com")
    assert "check airflow.connections.smtp_default" in lost
    assert "the alert was not sent by mail" in caplog.text


def test_mail_without_a_declared_server_names_the_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_ALERT_EMAIL", "ml@example.com")
    tell("something")
    assert "check airflow.connections.smtp_default" in caplog.text


def test_a_webhook_that_is_away_is_told_of_by_mail(mails: list[EmailMessage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", f"http://127.0.0.1:{NOWHERE}/secret")
    tell("something")
    alert, lost = mails
    assert alert["Subject"] == "something"
    assert lost["Subject"].startswith("an alert was not sent by webhook: the webhook cannot be reached")
    assert "/secret" not in text_of(lost)


def test_a_refusal_is_mailed_though_it_is_not_posted(webhook: list[dict[str, Any]], mails: list[EmailMessage]) -> None:
    task_broke(failed_task(failure="the container exited with 65 (Error): column f3 is missing"))
    assert webhook == []
    assert [mail["Subject"].endswith("column f3 is missing") for mail in mails] == [True]
