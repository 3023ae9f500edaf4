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
from infrastructure.services import SECRET_NAME, USERNAME
from tests.conftest import ROOT, eventually, free_ports
from tests.unit.programs import put_service, services_case, stand_in

KUBECTL = """#!/bin/sh
case "$*" in
  *port-forward*) echo "$$ $*" >> {forwards}; exec sleep 60;;
  {services}
  *" get secret admins "*) echo '{{"data": {{"admin-password": "YQ=="}}}}';;
  *" get secret keys "*) echo '{{"data": {{"root-user": "Yg==", "root-password": "Yw=="}}}}';;
  *" get secret users "*) echo '{{"data": {{"writer-password": "ZQ=="}}}}';;
  *" get secret bearers "*) echo '{{"data": {{"token": "ZA=="}}}}';;
  *) exit 1;;
esac
"""
PUBLISHED = {
    "airflow-api-server": {USERNAME: "ada", SECRET_NAME: "admins"},
    "grafana": {USERNAME: "ada", SECRET_NAME: "admins"},
    "minio": {SECRET_NAME: "keys"},
    "mlflow": {USERNAME: "writer", SECRET_NAME: "users"},
    "sensor-trainer": {SECRET_NAME: "bearers"},
}
FIRST = 4000  # the port of the first page's Service; that of each other is one more
# The pages, at ports of this machine that nothing else has.
PROGRAM = """
import sys
from infrastructure import ui
ui.PAGES = tuple(page._replace(local=local) for page, local in zip(ui.PAGES, {ports}, strict=True))
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
        found = [re.fullmatch(r"(\d+) --namespace maestro port-forward service/(\S+) (\S+)", line) for line in lines]
        return [(int(match[1]), match[2], match[3]) for match in found if match]

    def has_forwarded(self, count: int) -> None:
        eventually(lambda: len(self.forwards) >= count or self._process.poll() is not None)
        assert len(self.forwards) == count

    def ends(self, by: signal.Signals | None = None) -> tuple[int, str, str]:
        if by:
            self._process.send_signal(by)
        out, err = self._process.communicate(timeout=240)
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
    """Services of other names and at other ports than the charts', with Secrets of other names."""
    for number, page in enumerate(ui.PAGES, FIRST):
        if page.component != missing:
            put_service(folder, page.component, {"another": 1, page.port: number}, PUBLISHED.get(page.component, {}))
    script = KUBECTL.format(forwards=folder / "forwards", services=services_case(folder))
    stand_in(folder, monkeypatch, "kubectl", script)


def test_each_page_is_forwarded_again_when_its_pod_is_replaced(program):
    program.has_forwarded(len(ui.PAGES))
    assert {(service, ports) for _, service, ports in program.forwards} == {
        (f"our-{page.component}", f"{local}:{number}")
        for number, (page, local) in enumerate(zip(ui.PAGES, program.ports, strict=True), FIRST)
    }
    ended, service, ports = program.forwards[1]
    os.kill(ended, signal.SIGKILL)
    program.has_forwarded(len(ui.PAGES) + 1)
    assert program.forwards[-1][1:] == (service, ports)
    code, out, _ = program.ends(signal.SIGINT)
    assert code == 0
    logins = {
        "Airflow": "ada / a",
        "MLflow": "writer / e",
        "MinIO": "b / c",
        "Sensor trainer": "token d",
        "Grafana": "ada / a",
    }
    for title, login in logins.items():
        assert re.search(rf"{title} +http://127.0.0.1:\d+(/docs)? +{login}\n", out)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_no_forward_outlives_the_program(program, by):
    program.has_forwarded(len(ui.PAGES))
    assert program.ends(by)[0] == 0
    eventually(lambda: not any(runs(pid) for pid, *_ in program.forwards))


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports of this machine that the pages would have, none of which is in use."""
    ports = free_ports(len(ui.PAGES))
    pages = tuple(page._replace(local=port) for page, port in zip(ui.PAGES, ports, strict=True))
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
    kubectl(tmp_path, monkeypatch, missing="feast")
    assert ui.main() == 1
    assert 'no service of release "maestro" with component "feast" in namespace "maestro"' in capsys.readouterr().err
    assert not (tmp_path / "forwards").exists()


@pytest.mark.parametrize("component", ["prometheus", "grafana"])
def test_a_page_that_a_release_may_be_without_is_left_out_where_it_is(pages, tmp_path, monkeypatch, component):
    kubectl(tmp_path, monkeypatch, missing=component)
    assert [page.component for page in ui.PAGES if page not in ui.installed()] == [component]
