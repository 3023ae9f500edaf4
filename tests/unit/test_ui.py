"""`make ui` by a stand-in for kubectl, whose forwards last until they are killed."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from infrastructure import ui
from tests.conftest import ROOT, eventually, free_ports
from tests.unit.programs import stand_in

KUBECTL = """#!/bin/sh
case "$*" in
  *port-forward*) echo "$$ $*" >> {forwards}; exec sleep 60;;
  *" get service {missing}") echo 'Error from server (NotFound)' >&2; exit 1;;
  *" get service "*) ;;
  *" get secret "*) echo '{{"data": {{"admin-password": "YQ==", "root-user": "Yg==", "root-password": "Yw==",
    "token": "ZA=="}}}}';;
  *) exit 1;;
esac
"""
# The pages, at ports of this machine that nothing else has.
PROGRAM = """
import sys
from infrastructure import ui
ui.PAGES = tuple((title, component, port, local, path)
                 for (title, component, port, _, path), local in zip(ui.PAGES, {ports}, strict=True))
sys.exit(ui.main())
"""


class Program:
    """The program as `make ui` runs it."""

    def __init__(self, folder: Path) -> None:
        self.ports = free_ports(len(ui.PAGES))
        self._forwards = folder / "forwards"
        self._forwards.touch()
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(ports=self.ports)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # It hears Ctrl-C also where these tests run in the background, whose shell has them ignore it.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    @property
    def forwards(self) -> list[tuple[int, str, str]]:
        """(process, Service, ports) of each forward that was begun."""
        lines = self._forwards.read_text().splitlines()
        found = [re.fullmatch(r"(\d+) -n maestro port-forward service/(\S+) (\S+)", line) for line in lines]
        return [(int(match[1]), match[2], match[3]) for match in found if match]

    def has_forwarded(self, count: int) -> None:
        eventually(lambda: len(self.forwards) >= count or self._process.poll() is not None, 120)
        assert len(self.forwards) == count

    def ends(self, by: signal.Signals | None = None) -> tuple[int, str, str]:
        if by:
            self._process.send_signal(by)
        out, err = self._process.communicate(timeout=120)
        return self._process.returncode, out, err

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        for pid, *_ in self.forwards:
            if runs(pid):
                os.kill(pid, signal.SIGKILL)


def runs(pid: int) -> bool:
    """Whether a forward goes on; of the stand-in it is `sleep` by then."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    kubectl(tmp_path, monkeypatch)
    started = Program(tmp_path)
    yield started
    started.close()


def kubectl(folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str = "none") -> None:
    stand_in(folder, monkeypatch, "kubectl", KUBECTL.format(forwards=folder / "forwards", missing=missing))


def test_each_page_is_forwarded_again_when_its_pod_is_replaced(program):
    program.has_forwarded(6)
    assert {(service, ports) for _, service, ports in program.forwards} == {
        (f"maestro-{component}", f"{local}:{port}")
        for (_, component, port, *_), local in zip(ui.PAGES, program.ports, strict=True)
    }
    ended, service, ports = program.forwards[1]
    os.kill(ended, signal.SIGKILL)
    program.has_forwarded(7)
    assert program.forwards[-1][1:] == (service, ports)
    code, out, _ = program.ends(signal.SIGINT)
    assert code == 0
    for title, login in (("Airflow", "admin / a"), ("MinIO", "b / c"), ("Sensor trainer", "token d")):
        assert re.search(rf"{title} +http://127.0.0.1:\d+(/docs)? +{login}\n", out)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_no_forward_outlives_the_program(program, by):
    program.has_forwarded(6)
    assert program.ends(by)[0] == 0
    eventually(lambda: not any(runs(pid) for pid, *_ in program.forwards), 60)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports of this machine that the pages would have, none of which is in use."""
    ports = free_ports(len(ui.PAGES))
    pages = [(*page[:3], port, page[4]) for page, port in zip(ui.PAGES, ports, strict=True)]
    monkeypatch.setattr(ui, "PAGES", pages)
    return ports


def test_ports_that_are_in_use_are_named_and_nothing_is_forwarded(pages, tmp_path, monkeypatch, capsys):
    kubectl(tmp_path, monkeypatch)
    with (
        socket.create_server(("127.0.0.1", pages[1])),
        socket.create_server(("127.0.0.1", pages[4])),
    ):
        assert ui.main() == 1
    assert f"port {pages[1]}, {pages[4]} of this machine is in use" in capsys.readouterr().err
    assert not (tmp_path / "forwards").exists()


def test_a_service_that_is_not_installed_is_named_and_nothing_is_forwarded(pages, tmp_path, monkeypatch, capsys):
    kubectl(tmp_path, monkeypatch, missing="maestro-feast")
    assert ui.main() == 1
    assert "get service maestro-feast: Error from server (NotFound)" in capsys.readouterr().err
    assert not (tmp_path / "forwards").exists()
