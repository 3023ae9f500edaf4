"""A sensor trainer that answers as a test tells it to."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.processes import in_background

Reply = tuple[int, Any]


class Api:
    """An API on a free port that answers what it is told to and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any, dict[str, str]]] = []
        self.answer: Callable[[str, str, Any], Reply] = lambda method, path, body: (200, {})
        api = self

        class Handler(BaseHTTPRequestHandler):
            def reply(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.loads(content) if content else None
                api.asked.append((self.command, self.path, body, dict(self.headers)))
                status, answer = api.answer(self.command, self.path, body)
                text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", f"{api.url}/elsewhere")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = reply  # noqa: N815 - the names that BaseHTTPRequestHandler calls

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def says(self, *replies: Reply) -> None:
        """Answers so, one after the other; the last one again and again."""
        left = list(replies)
        self.answer = lambda method, path, body: left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def serving() -> Iterator[Api]:
    api = Api()
    with in_background(api.server):
        yield api


def job(state: str, **fields: Any) -> dict[str, Any]:
    return {"job_id": "j1", "model": "sensor-clusters", "state": state, "attempt": 1, **fields}
