"""What people are told when something goes wrong."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
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
    monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", "http://127.0.0.1:9/secret")
    tell("something")
    assert "the alert was not sent" in caplog.text
    assert "secret" not in caplog.text.replace("slackWebhookSecret", "").lower().replace("check the secret", "")


def test_a_refusal_that_the_task_tells_of_itself_is_not_told_twice(webhook: list[dict[str, Any]]) -> None:
    task_broke(failed_task(failure="the container exited with 65 (Error): column f3 is missing"))
    assert webhook == []
    task_broke(failed_task(failure="the container exited with 1 (Error): no bucket"))
    task_broke(failed_task())
    assert len(webhook) == 2
