"""How much of a request the sensor trainer takes in, asked of the real server and of the middleware by itself."""

import asyncio
import http.client
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlops.sensor_trainer.api.limits import BODY, Limits
from mlops.sensor_trainer.api.protocol import HeadInTime
from tests.conftest import answers, eventually, free_ports, running
from tests.unit.sensor_api import TOKEN, question, reading, sensor_settings, told

HUGE = 100 << 20  # bytes
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


class Server(NamedTuple):
    port: int
    pid: int

    def peak(self) -> int:
        """Most bytes of memory that the process had since `forget_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) << 10

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=240)
        connection.request("POST", path, body, {**HEADERS, **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server as its pod runs it, with everything behind it away."""
    (port,) = free_ports(1)
    environment = told(sensor_settings())
    command = [sys.executable, "-m", "mlops", "sensor-trainer", "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    with running(command, log, lambda: answers(f"http://127.0.0.1:{port}/health"), environment) as process:
        yield Server(port, process.pid)


def under_way(port: int) -> float:
    """How many requests the server is answering."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=240) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("maestro_sensor_requests_in_progress "))


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(0, size, 1 << 16):
        yield b"x" * (1 << 16)


def test_a_huge_body_is_refused_before_it_is_sent(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=240) as connection:
        head = [*(f"{name}: {value}" for name, value in HEADERS.items()), f"Content-Length: {HUGE}", "Host: x", "", ""]
        connection.sendall("\r\n".join(["POST /readings HTTP/1.1", *head]).encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_who_sends_a_huge_body_reads_why_it_is_refused_and_it_is_not_kept(server):
    server.post("/readings", b"x" * (BODY + 1))  # so that all that a refusal needs is loaded
    server.forget_peak()
    before = server.peak()
    status, problem = server.post("/readings", b"x" * HUGE)
    assert (status, problem["type"]) == (413, "urn:maestro:sensor-trainer:too-large")
    assert f"{HUGE} bytes" in problem["detail"]
    assert server.peak() - before < HUGE / 4


def test_a_huge_body_that_does_not_tell_its_size_is_refused_when_it_is_too_large(server):
    server.forget_peak()
    before = server.peak()
    status, problem = server.post("/readings", chunks(HUGE))
    assert (status, problem["status"]) == (413, 413)
    assert server.peak() - before < 4 * BODY


def test_a_stranger_s_huge_body_is_not_looked_at(server):
    status, _ = server.post("/readings", b"x" * HUGE, Authorization="Bearer wrong")
    assert status == 401


def test_a_body_of_too_many_values_is_refused_before_they_fill_the_memory(server):
    server.forget_peak()
    before = server.peak()
    status, problem = server.post("/readings", b'{"readings": [' + b"{}," * 2_500_000 + b"{}]}")
    assert (status, problem["type"]) == (422, "urn:maestro:sensor-trainer:malformed")
    assert server.peak() - before < 4 * BODY


def test_the_largest_batch_with_the_longest_keys_is_within_the_limits(server):
    """Refused only since PostgreSQL is away, which is after all of it was looked at."""
    longest = {"f1": -1.2345678901234567e-300}
    batch = [reading(key=f"{number:0255}", values={**question()["values"], **longest}) for number in range(5_000)]
    status, problem = server.post("/readings", json.dumps({"readings": batch}))
    assert (status, problem["service"]) == (503, "postgresql")


def test_what_is_no_http_does_not_end_the_server(server):
    for nonsense in (b"\0" * 1000, b"GET / HTTP/9.9\r\n\r\n", b"POST /readings HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=240) as connection:
            connection.sendall(nonsense)
            connection.recv(1000)
    assert answers(f"http://127.0.0.1:{server.port}/health")


def test_a_server_that_is_told_to_stop_finishes_what_it_does(tmp_path):
    """With PostgreSQL away an answer takes some seconds."""
    (port,) = free_ports(1)
    environment = told(sensor_settings())
    command = [sys.executable, "-m", "mlops", "sensor-trainer", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, tmp_path / "log", lambda: answers(f"http://127.0.0.1:{port}/health"), environment) as process:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=240)
        connection.request("POST", "/readings", json.dumps({"readings": [reading()]}), HEADERS)
        eventually(lambda: under_way(port) == 2)  # that one, and the question itself
        os.kill(process.pid, signal.SIGTERM)
        assert connection.getresponse().status == 503
        assert process.wait(240) in (0, -signal.SIGTERM)


class Application:
    """Reads a request's whole body, and then waits until it may answer."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def ask(limits: Limits, parts: list[bytes | float], **headers: str) -> int:
    """The status for a body of these parts; a number waits so many seconds."""
    found: list[int] = []
    left = list(parts)

    async def receive() -> dict[str, Any]:
        while left and isinstance(left[0], float):
            await asyncio.sleep(left.pop(0))
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        found.append(message.get("status", 0))

    encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/readings", "headers": encoded}
    await limits(scope, receive, send)
    return found[0]


@pytest.mark.parametrize("parts", [[b"{", 60.0, b"}"], [b"{", *(0.1, b" ") * 30, b"}"]], ids=["stops", "drips"])
def test_a_body_that_never_ends_is_not_waited_for(parts):
    async def scenario() -> None:
        application = Application()
        application.go_on.set()
        limits = Limits(application, 100, patience=1.0)
        with pytest.raises(Exception, match="was not in after"):  # FastAPI makes an answer of it
            await ask(limits, parts, content_length="40")

    asyncio.run(scenario())


def test_all_bodies_together_have_a_limit_and_a_finished_one_makes_room():
    async def scenario() -> None:
        application = Application()
        limits = Limits(application, 100, body=10, together=20)
        held = [asyncio.create_task(ask(limits, [b"x" * 10], content_length="10")) for _ in range(2)]
        await asyncio.sleep(0)
        assert await ask(limits, [b"x" * 10], content_length="10") == 503
        assert await ask(limits, [b"x"], transfer_encoding="chunked") == 503
        application.go_on.set()
        assert await ask(limits, [], host="x") == 200  # what has no body
        assert await asyncio.gather(*held) == [200, 200]
        assert await ask(limits, [b"x" * 10], content_length="10") == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "], ids=["nothing", "half a head"])
def test_connections_whose_request_does_not_begin_do_not_stay_open(server: Server, sent: bytes) -> None:
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=240)) for _ in range(50)
        ]
        for connection in connections:
            connection.sendall(sent)
        assert answers(f"http://127.0.0.1:{server.port}/health"), "others are answered meanwhile"
        assert {connection.recv(1000).partition(b"\r\n")[0] for connection in connections} == {
            b"HTTP/1.1 408 Request Timeout"
        }


def test_a_second_request_of_a_connection_has_to_begin_in_time_too(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=240) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        first = b""
        while not first.endswith(b"}"):  # its head and its body may come one after the other
            first += connection.recv(1000)
        assert first.startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert b"408" in connection.recv(1000)


def test_a_request_that_takes_longer_than_a_head_may_is_answered(server: Server) -> None:
    """Its body comes later than that, and is limited by itself."""
    body = json.dumps({"readings": [question()]}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=240) as connection:
        connection.sendall(head.encode())
        connection.settimeout(HeadInTime.patience + 2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(240)
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 503"), "no model is served"
