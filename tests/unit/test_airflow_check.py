"""mlops.airflow.check against a server that answers as Airflow does; `helm test` runs it against Airflow itself."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from mlops.airflow.check import check

HEALTHY = {"status": "healthy"}


class Server:
    """What an Airflow in order answers; a test changes what it is about."""

    def __init__(self) -> None:
        self.health: dict[str, Any] = dict.fromkeys(
            ("metadatabase", "scheduler", "triggerer", "dag_processor"), HEALTHY
        )
        self.password = "right"
        self.dags = 1
        self.import_errors: list[dict[str, str]] = []
        self.connections: list[dict[str, Any]] = []
        self.address = ""

    def answer(self, path: str, body: dict[str, str], token: str | None) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if path == "/api/v2/monitor/health":
            return 200, self.health
        if path == "/auth/token":
            return (201, {"access_token": "t"}) if body["password"] == self.password else (401, {"detail": "no"})
        if token != "Bearer t":
            return 401, {}
        return 200, {
            "/api/v2/dags": {"total_entries": self.dags},
            "/api/v2/importErrors": {"import_errors": self.import_errors},
            "/api/v2/connections": {"connections": self.connections},
        }[path]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"
            status, answer = state.answer(self.path, json.loads(body), self.headers.get("Authorization"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_POST = do_GET  # noqa: N815 - named by http.server

        def log_message(self, *_: Any) -> None: ...

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=httpd.serve_forever, daemon=True).start()
    state.address = f"http://127.0.0.1:{httpd.server_port}"
    yield state
    httpd.shutdown()
    httpd.server_close()


def failures(server: Server, capsys: pytest.CaptureFixture[str], password: str = "right") -> list[str]:
    """The lines of checks that failed; the others have to hold."""
    results = list(check(server.address, "admin", password, patience=0))
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    assert len(lines) == len(results)
    assert len(failed) == results.count(False)
    return failed


def connection(server: Server, conn_type: str, port: int | None = None, extra: str | None = None) -> dict[str, Any]:
    host, _, own_port = server.address.removeprefix("http://").partition(":")
    return {
        "connection_id": conn_type,
        "conn_type": conn_type,
        "host": host,
        "port": port or int(own_port),
        "extra": extra,
    }


def test_an_airflow_in_order_passes(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.connections = [connection(server, "postgres"), connection(server, "other", extra="{}")]
    assert failures(server, capsys) == []


def test_a_part_without_a_heartbeat_is_named(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.health["triggerer"] = {"status": "unhealthy"}
    server.health["dag_processor"] = None
    (line,) = failures(server, capsys)
    assert "triggerer, dag_processor not healthy" in line


def test_a_refused_login_ends_the_checks(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = failures(server, capsys, password="wrong")
    assert "login" in line
    assert "401" in line


def test_no_dag_and_a_file_that_cannot_be_imported_are_failures(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.dags = 0
    (line,) = failures(server, capsys)
    assert "there is no DAG" in line
    server.import_errors = [{"filename": "broken.py"}]
    (line,) = failures(server, capsys)
    assert "broken.py cannot be imported" in line


def test_each_connection_that_does_not_work_is_named_with_its_cause(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    nowhere = json.dumps({"endpoint_url": "http://127.0.0.1:1", "region_name": "us-east-1"})
    server.connections = [
        connection(server, "http", port=1),
        connection(server, "postgres", port=1),
        connection(server, "aws", extra=nowhere),
        connection(server, "kubernetes", extra='{"namespace": "maestro"}'),
    ]
    http, postgres, aws, kubernetes = failures(server, capsys)
    assert "http://127.0.0.1:1 does not answer" in http
    assert "127.0.0.1:1 cannot be reached" in postgres
    assert "http://127.0.0.1:1 does not list its buckets" in aws
    assert "pods of maestro cannot be listed" in kubernetes
