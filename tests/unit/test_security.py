"""The attacks of `make security`, without a cluster: that they see what is open, what leaks and what breaks."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import cli
from tests.processes import free_ports
from tests.security import access, canaries, inputs, probe
from tests.security.access import ACTS, ATTEMPTS, KUBERNETES, PLACES, Attempt
from tests.servers import PostgreSQL, Redis, shared
from tests.unit.conftest import set_environment


class Answering(BaseHTTPRequestHandler):
    def answer(self) -> None:
        self.send_response(int(self.path.rpartition("/")[2]))
        self.end_headers()

    do_GET = do_POST = answer  # noqa: N815 - the names of the standard library

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """One that answers /status/<code> with the code."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.mark.parametrize(
    ("status", "word"),
    [(200, "yes"), (204, "yes"), (302, "refused"), (401, "refused"), (403, "refused"), (404, "odd"), (500, "error")],
)
def test_an_answer_is_judged_by_its_status(port: int, status: int, word: str) -> None:
    asked = Attempt("mlflow", "read", path=f"/status/{status}").asked("127.0.0.1", port)
    assert probe.outcome(asked)[0] == word


def test_where_nothing_listens_there_is_no_way() -> None:
    (closed,) = free_ports(1)
    assert probe.outcome(Attempt("mlflow", "read").asked("127.0.0.1", closed))[0] == "no way"


def test_redis_with_a_password_refuses(tmp_path: Path) -> None:
    with Redis(tmp_path) as server:
        asked = [a.asked("127.0.0.1", server.port) for a in ATTEMPTS if a.component == "redis"]
        assert [probe.outcome(each)[0] for each in asked] == ["refused"] * 3
        server.client.execute_command("ACL", "SETUSER", "default", "nopass")
        assert [probe.outcome(each)[0] for each in asked] == ["yes"] * 3


def test_postgresql_that_asks_for_no_password_is_open(run_folder: Path) -> None:
    number = int(shared(run_folder, PostgreSQL).rpartition(":")[2])
    asked = Attempt("postgresql", "read", "postgresql", body="postgres", protocol="postgresql")
    assert probe.outcome(asked.asked("127.0.0.1", number))[0] == "yes"


def test_the_probe_runs_by_itself_in_a_pod_with_nothing_but_python(port: int) -> None:
    attempts = [Attempt("mlflow", "read", path=f"/status/{code}").asked("127.0.0.1", port) for code in (200, 401)]
    program = Path(probe.__file__).read_text()
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, input=json.dumps(attempts), capture_output=True, text=True, check=True)
    assert [word for word, _ in json.loads(done.stdout)] == ["yes", "refused"]


# The note


def test_the_note_has_a_cell_for_every_attempt() -> None:
    table = access.stated()
    assert {(attempt.component, attempt.act) for attempt in (*ATTEMPTS, *KUBERNETES)} <= table.keys()
    assert {len(words) for words in table.values()} == {len(PLACES)}


def test_from_outside_the_namespace_there_is_no_way_to_anything_of_the_platform() -> None:
    for (service, act), (outside, plain, *_) in access.stated().items():
        assert (outside, plain) == (("refused",) * 2 if service == "kubernetes" else ("no way",) * 2), (
            f"{service} {act}"
        )


def test_a_cell_that_says_neither_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "security.md").write_text("| `mlflow` | read | no way | perhaps | no way | yes: all |\n")
    with pytest.raises(ValueError, match="perhaps"):
        access.stated(tmp_path / "security.md")


@pytest.mark.parametrize(
    ("word", "expected", "fault"),
    [
        ("yes", "yes", False),
        ("yes", "refused", True),
        ("yes", "no way", True),
        ("refused", "yes", False),
        ("refused", "refused", False),
        ("refused", "no way", True),
        ("odd", "refused", False),
        ("no way", "refused", False),
        ("error", "yes", True),
    ],
)
def test_what_is_open_and_not_stated_is_a_fault(word: str, expected: str, fault: bool) -> None:
    attempt = Attempt("mlflow", "read")
    table = {("mlflow", act): (expected,) * len(PLACES) for act in ACTS}
    assert bool(access.undocumented(PLACES[0], [(attempt, (word, ""))], table)) is fault


# Canaries


@given(
    secret=st.text("abcXYZ0189", min_size=8, max_size=40), before=st.binary(max_size=20), after=st.binary(max_size=20)
)
def test_a_secret_is_found_in_every_spelling_wherever_it_stands(secret: str, before: bytes, after: bytes) -> None:
    from base64 import b64encode

    raw = secret.encode()
    for content in (before + raw + after, b64encode(before + raw + after), before + raw.hex().encode() + after):
        assert list(canaries.leaks(content, {"a": secret})) == ["a"]


def test_what_is_no_secret_is_not_found() -> None:
    assert list(canaries.leaks(b"maestro-redis redis-password", {"a": "0123456789abcdef"})) == []


def test_values_of_secrets_are_known_but_what_is_too_short_or_helms() -> None:
    entries: list[dict[str, object]] = [
        {"metadata": {"name": "a"}, "data": {"password": "bG9uZyBlbm91Z2g=", "name": "YWJj"}},
        {"metadata": {"name": "h"}, "type": "helm.sh/release.v1", "data": {"release": "bG9uZyBlbm91Z2g="}},
    ]
    assert canaries.known(entries) == {"a/password": "long enough"}


# Bad inputs


def test_there_are_two_hundred_bad_inputs_and_each_can_be_sent() -> None:
    assert inputs.count() >= 200
    for made in (inputs.airflow, inputs.reports, inputs.mlflow, inputs.sensor_trainer, inputs.model_server):
        for request in made():
            request.path.encode("ascii")
            assert " " not in request.path


def test_a_server_that_breaks_takes_what_is_bad_or_reads_nothing_is_named() -> None:
    good, bad = inputs.Request("GET", "/x?limit=-1", accepted=True), inputs.Request("POST", "/x", b"{")
    assert inputs.faults([(good, 200, ""), (bad, 422, "")]) == []
    assert len(inputs.faults([(bad, 200, ""), (bad, 500, ""), (good, 503, ""), (bad, 401, "")])) == 4


def test_the_command_line_breaks_on_no_bad_input_and_takes_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    set_environment(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    for line in inputs.command_lines():
        try:
            code = cli.main(line)
        except SystemExit as usage:
            code = int(usage.code or 0)
        assert code != 0, line
        assert "the command failed" not in caplog.text, line
