"""Processes that tests start, and ports for them."""

import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from socketserver import BaseServer
from threading import Thread

import pytest

PATIENCE = 600  # seconds for a server to start: beside the end-to-end tests MLflow's once took more than 240

# Where the kernel takes no port from for a connection (it does from 32,768 on): a client that asks a port of its range
# again and again before the server listens is one day given that very port and talks to itself. The processes of one
# run look in parts of their own, two runs meet by chance only.
_first = 12_000 + 2_500 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4)
_ports = iter(random.sample(range(_first, _first + 2_500), 2_500))


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, none of them given before."""
    free = (port for port in _ports if is_free(port))
    return list(islice(free, count))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def is_healthy(url: str) -> bool:
    """Whether it answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


class running:  # noqa: N801 - a context manager
    """A server process, from the moment it is ready; killed at the end, as nothing of it is kept."""

    def __init__(
        self,
        command: list[str],
        log: Path,
        ready: Callable[[], bool],
        environment: dict[str, str] | None = None,
        ending: signal.Signals = signal.SIGKILL,
    ) -> None:
        self._command, self._log, self._ready, self._ending = command, log, ready, ending
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, process_group=0
            )
        try:
            eventually(lambda: self._process.poll() is not None or self._ready(), PATIENCE)
            assert self._process.poll() is None
        except BaseException as error:
            said = self._log.read_text()[-3000:]
            self.__exit__()
            if not isinstance(error, AssertionError):
                raise
            pytest.fail(f"{' '.join(self._command)} did not start ({error}):\n{said}")
        return self._process

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, self._ending)
            self._process.wait()


@contextmanager
def in_background(server: BaseServer) -> Iterator[None]:
    """A server of this process answers until the block ends."""
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def eventually(condition: Callable[[], bool], timeout: float = 240) -> None:
    """Waits until the condition holds; fails after `timeout` seconds, by default more than a busy machine needs."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout} s"
        time.sleep(0.05)
