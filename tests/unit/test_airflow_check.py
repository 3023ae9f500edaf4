"""administration.check against a server that answers as Airflow does; `helm test` runs it against Airflow itself."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest

from mlops.airflow.administration.check import check, check_settings
from tests.receivers import mail_server
from tests.unit.test_airflow_setup import own_airflow

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
        self.variables: dict[str, str] = {}
        self.metrics = "# TYPE airflow_scheduler_heartbeat counter\nairflow_scheduler_heartbeat 1\n"
        self.asked: list[str] = []
        self.first_page = 200
        self.address = ""

    def answer(self, path: str, body: dict[str, str], token: str | None) -> tuple[int, Any]:
        self.asked.append(path)
        path = path.partition("?")[0]
        if path == "/":
            return self.first_page, {}
        if path == "/metrics":
            return 200, self.metrics
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
            "/api/v2/variables": {"variables": [{"key": key, "value": value} for key, value in self.variables.items()]},
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
            self.wfile.write((answer if isinstance(answer, str) else json.dumps(answer)).encode())

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
    results = list(check(server.address, "admin", password, f"{server.address}/metrics"))
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


def test_an_exporter_that_hears_nothing_of_airflow_is_named(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.metrics = "# HELP airflow_x \nstatsd_exporter_lines_total 0\n"
    (line,) = failures(server, capsys)
    assert "/metrics has no metric of Airflow" in line


def test_what_is_still_coming_up_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops.airflow.administration.check._PAUSE", 0.01)
    server.dags = 0
    answer, looks = server.answer, []

    def first_parse(path: str, body: dict[str, str], token: str | None) -> tuple[int, Any]:
        looks.append(path)
        server.dags = int(len([look for look in looks if look.startswith("/api/v2/dags")]) > 2)
        return answer(path, body, token)

    monkeypatch.setattr(server, "answer", first_parse)
    assert all(check(server.address, "admin", "right", patience=30))


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
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
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


@pytest.mark.parametrize(("status", "named"), [(200, []), (401, []), (404, []), (500, ["answers 500"])])
def test_a_web_server_without_a_first_page_answers_and_one_that_fails_does_not(
    server: Server, capsys: pytest.CaptureFixture[str], status: int, named: list[str]
) -> None:
    server.first_page = status
    server.connections = [connection(server, "http")]
    found = failures(server, capsys)
    assert len(found) == len(named)
    assert all(part in line for part, line in zip(named, found, strict=True))
    assert server.asked[-1] == "/"


def settings_failures(variables: dict[str, str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    results = list(check_settings([], variables))
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("ok") for line in lines] == results
    return [line for line in lines if line.startswith("FAILED")]


def test_variables_that_can_be_used_pass_and_others_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    good = {
        "model_accuracy_threshold": "0.85",
        "model_f1_threshold": "",
        "data_max_age_hours": "declared",
        "anomaly_excess_threshold": "0.03",
        "feature_materialization_days": "7",
        "alert_email": "",
        "own": "anything",
    }
    assert settings_failures(good, capsys) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model_f1_threshold", "80", "no number from 0 to 1"),
        ("model_confidence", "high", "no number from 0 to 1"),
        ("drift_effect_threshold", "nan", "no number from 0 to 1"),
        ("data_max_age_hours", "", "no number of hours and not declared"),
        ("feature_materialization_days", "0", "no number above 0"),
        ("feature_materialization_days", "a week", "no number above 0"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_with_the_remedy(
    name: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = settings_failures({name: value}, capsys)
    assert line.startswith(f"FAILED variable {name}: ")
    assert said in line


@pytest.mark.parametrize(
    ("value", "host", "said"),
    [
        ("ml@example.com, on-call@example.com;a@b", "127.0.0.1", None),
        ("ml@example.com", "", "without a server: set global.notifications.mail"),
        ("ml@example.com, oncall", "127.0.0.1", "' oncall' is no address"),
        ("ml@example.com,", "127.0.0.1", "'' is no address"),
    ],
)
def test_who_is_to_get_mail_has_an_address_and_a_mail_server(
    value: str,
    host: str,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MAESTRO_MAIL_HOST", host)
    results = list(check_settings([], {"alert_email": value}))
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith(f"{'FAILED' if said else 'ok    '} variable alert_email: ")
    assert results[0] is (said is None)
    assert (said or value) in line


def test_the_mail_server_is_greeted_and_logged_in_to_and_gets_no_mail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mail_server(tmp_path) as server:
        for name, told in server.environment.items():
            monkeypatch.setenv(name, told)
        assert settings_failures({}, capsys) == []
        monkeypatch.setenv("MAESTRO_MAIL_PASSWORD", "wrong")
        (line,) = settings_failures({}, capsys)
    assert line.startswith("FAILED mail: ")
    assert "refused the login (535)" in line
    assert server.mails == []


def test_the_webhooks_host_is_reached_and_nothing_is_posted(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", f"{server.address}/services/s3cret")
    assert settings_failures({}, capsys) == []
    assert server.asked == []


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://127.0.0.1:1/services/s3cret", "127.0.0.1:1 cannot be reached"), ("s3cret", "slackWebhookSecret")],
)
def test_a_webhook_that_cannot_be_used_is_named_and_its_address_stays_secret(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", url)
    (line,) = settings_failures({}, capsys)
    assert line.startswith("FAILED webhook: ")
    assert said in line
    assert "s3cret" not in line


def test_in_a_pod_of_airflows_own_connections_and_variables_are_read_without_a_login(
    server: Server, postgresql: str, tmp_path: Path
) -> None:
    airflow = own_airflow(postgresql, tmp_path)
    working = {key: value for key, value in connection(server, "http").items() if key in ("conn_type", "host", "port")}
    subprocess.run(["git", "init", "--bare", tmp_path / "dags.git"], check=True, capture_output=True)
    airflow.setup(
        connections={
            "working": working,
            "gone": {"conn_type": "http", "host": "127.0.0.1", "port": "1"},
            "git_dags": {"conn_type": "git", "host": (tmp_path / "dags.git").as_uri()},
            "git_gone": {"conn_type": "git", "host": (tmp_path / "gone.git").as_uri()},
        },
        variables={"model_f1_threshold": "0.80"},
    )
    result = subprocess.run(
        [sys.executable, "-m", "mlops.airflow.administration.check", "connections"],
        env={**os.environ, **airflow.environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stderr
    assert f"ok     connection working: {server.address} answers 200" in result.stdout
    assert "FAILED connection gone: http://127.0.0.1:1 does not answer" in result.stdout
    assert f"ok     connection git_dags: 0 branches at {(tmp_path / 'dags.git').as_uri()}" in result.stdout
    assert "FAILED connection git_gone: its branches cannot be listed" in result.stdout
    assert "ok     variable model_f1_threshold: 0.8" in result.stdout
