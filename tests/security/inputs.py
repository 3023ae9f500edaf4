"""Bad inputs: requests and command lines that no server may break on, and that none may take for good ones."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

# What stands in place of a name.
NAMES = (
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "a%00b",
    "x" * 3000,
    quote("ä💥\u202e"),
    "%ff%fe",
    "%2e%2e",
    quote("' OR 1=1 --"),
    quote("$(id)"),
    quote("{{ 7*7 }}"),
    quote("<script>"),
)
# What stands in place of a number.
NUMBERS = ("-1", "NaN", "1e400", "9" * 40, "0x10", "", "1;2")
# Of these Airflow takes as many entries as it gives at most.
_LIMITS = ("-1", "9" * 40)
# What stands in place of a document.
BODIES = (
    b"",
    b"null",
    b"[]",
    b"42",
    b'"text"',
    b"{",
    b"\xff\xfe\x00",
    b"[" * 5000,
    json.dumps({"x" * 3000: "y"}).encode(),
    json.dumps({"a\u0000b": "\ud800"}).encode(),
    b'{"a": 1e999}',
)


@dataclass(frozen=True)
class Request:
    """What is sent. accepted: whether an answer of 2xx is right, as of a page that lists nothing for an odd filter."""

    method: str
    path: str
    body: bytes | None = None
    accepted: bool = False

    def __str__(self) -> str:
        body = "" if self.body is None else f" {self.body[:40]!r}"
        return f"{self.method} {self.path[:80]}{body}"


def airflow() -> Iterator[Request]:
    for name in NAMES:
        yield Request("GET", f"/api/v2/dags/{name}")
        yield Request("GET", f"/api/v2/dags/monitoring_dag/dagRuns/{name}")
        yield Request("DELETE", f"/api/v2/variables/{name}")
    for number in NUMBERS:
        yield Request("GET", f"/api/v2/dags?limit={number}", accepted=number in _LIMITS)
        yield Request("GET", f"/api/v2/dags/monitoring_dag/dagRuns/{quote('none')}/taskInstances/none/{number or 'x'}")
    for body in BODIES:
        yield Request("POST", "/api/v2/dags/monitoring_dag/dagRuns", body)
        yield Request("POST", "/auth/token", body)


def reports() -> Iterator[Request]:
    for name in NAMES:
        yield Request("GET", f"/reports/data_validation_pipeline/{name}/report/-1/report.html")
        yield Request("GET", f"/reports/data_validation_pipeline/none/report/-1/{name}")
    for number in NUMBERS:
        yield Request("GET", f"/reports/data_validation_pipeline/none/report/{number or 'x'}/report.html")


def mlflow() -> Iterator[Request]:
    for name in NAMES:
        yield Request("GET", f"/api/2.0/mlflow/runs/get?run_id={name}")
        yield Request("GET", f"/api/2.0/mlflow-artifacts/artifacts/{name}")
        yield Request("GET", f"/get-artifact?path={name}&run_uuid=none")
    for number in NUMBERS:
        yield Request("GET", f"/api/2.0/mlflow/experiments/search?max_results={number}")
    for body in BODIES:
        yield Request("POST", "/api/2.0/mlflow/registered-models/create", body)
        yield Request("POST", "/api/2.0/mlflow/runs/log-metric", body)


def sensor_trainer() -> Iterator[Request]:
    for name in NAMES:
        yield Request("GET", f"/status/{name}")
        yield Request("POST", f"/jobs/{name}/cancel")
    for number in NUMBERS:
        yield Request("GET", f"/readings?limit={number}")
    for body in BODIES:
        yield Request("POST", "/readings", body)
        yield Request("POST", "/predict", body)


def model_server() -> Iterator[Request]:
    for body in BODIES:
        yield Request("POST", "/invocations", body)
    for name in NAMES:
        yield Request("GET", f"/{name}")


def command_lines() -> Iterator[list[str]]:
    """Arguments of `python -m mlops` that are none."""
    odd = ("../../etc/passwd", "x" * 3000, "ä💥\u202e", "$(id)", "", "-", "nan")
    for value in odd:
        yield ["ingestion", "load", "--dataset", value]
        yield ["training", "fit", "--model", value]
        yield [value]
        yield ["sensor-trainer", value]
    for number in NUMBERS:
        deliver = ["inference", "deliver", "--dataset", "shuttle", "--marker", "inbox/x/_READY"]
        yield [*deliver, f"--rows={number}"]


def sent(url: str, requests: Iterable[Request], headers: Mapping[str, str]) -> list[tuple[Request, int, str]]:
    """Each request with status and text of its answer."""
    return [(request, *_send(url, request, headers)) for request in requests]


def _send(url: str, request: Request, headers: Mapping[str, str]) -> tuple[int, str]:
    """As it stands: a client would make `..` and NUL of a path good."""
    address = urlsplit(url)
    assert address.hostname
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    try:
        connection.putrequest(request.method, request.path, skip_accept_encoding=True)
        for name, value in {**headers, "Content-Type": "application/json", "Connection": "close"}.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(request.body or b"")))
        connection.endheaders(request.body)
        answer = connection.getresponse()
        return answer.status, answer.read(400).decode(errors="replace")
    finally:
        connection.close()


def faults(answers: Iterable[tuple[Request, int, str]]) -> list[str]:
    """The requests that a server broke on, that it took for good ones, or that it never read for want of a login."""
    return [
        f"{request}: {status} {said[:120]}"
        for request, status, said in answers
        if status >= 500 or status == http.HTTPStatus.UNAUTHORIZED or (status < 300 and not request.accepted)
    ]


def count() -> int:
    every: Any = (airflow(), reports(), mlflow(), sensor_trainer(), model_server(), command_lines())
    return sum(1 for _ in itertools.chain(*every))
