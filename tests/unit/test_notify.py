import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Self

import pytest

from mlops.cli import main
from mlops.notify.webhook import post
from mlops.result import Failure

SECRET = "T000-secret-path"


class Webhook:
    """A webhook on a free port that keeps what it was sent and answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.received: list[dict[str, str]] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                webhook.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(webhook.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/{SECRET}"

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[Self]:
        hook = cls()
        thread = Thread(target=hook.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hook
        finally:
            hook.server.shutdown()
            hook.server.server_close()
            thread.join()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook.listening() as hook:
        yield hook


@pytest.fixture
def message(environment):
    from pathlib import Path

    return lambda: Path(environment["MAESTRO_RESULT_PATH"]).read_text()


def test_a_configured_webhook_gets_the_text(webhook, message, monkeypatch):
    monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", webhook.url)
    assert main(["notify", "send", "--text", "deployed", "--text", "F1 0.99 ü"]) == 0
    assert webhook.received == [{"text": "deployed\nF1 0.99 ü"}]
    assert json.loads(message()) == {"sent": "webhook"}


def test_without_a_webhook_the_same_text_is_logged(message, caplog):
    caplog.set_level("INFO")
    assert main(["notify", "send", "--text", "deployed", "--text", "F1 0.99"]) == 0
    assert "deployed\nF1 0.99" in caplog.text
    assert json.loads(message()) == {"sent": "log"}


def test_a_webhook_that_refuses_fails_the_task_and_its_address_stays_secret(webhook, message, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    webhook.status = 404
    monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", webhook.url)
    assert main(["notify", "send", "--text", "deployed"]) == 1
    assert "the webhook answered 404" in message()
    assert SECRET not in message() + caplog.text


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:9/{SECRET}", f"https://{SECRET}.invalid/", f"http://[{SECRET}", SECRET]
)
def test_a_webhook_that_cannot_be_reached_keeps_its_address_secret(url):
    with pytest.raises(Failure, match="the webhook cannot be reached") as failure:
        post(url, "text")
    assert SECRET not in str(failure.value)
    assert failure.value.__cause__ is None


def test_a_url_of_another_scheme_is_refused():
    with pytest.raises(Failure, match="not one of http or https"):
        post("file:///etc/passwd", "text")
