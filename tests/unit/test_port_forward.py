"""A port-forward by a stand-in for kubectl, which says what kubectl says."""

from pathlib import Path

import pytest

from infrastructure.release import NotInstalled, port_forward, wait_until
from tests.unit.programs import stand_in

FORWARDS = """#!/bin/sh
echo 'Forwarding from 127.0.0.1:4711 -> 8080'
yes 'Handling connection for 4711' | head -n 20000
touch {done}
exec sleep 60
"""
REFUSES = """#!/bin/sh
echo 'error: services "maestro-mlflow" not found' >&2
exit 1
"""


def test_a_forward_that_carries_twenty_thousand_connections_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "done"
    stand_in(tmp_path, monkeypatch, "kubectl", FORWARDS.format(done=done))
    with port_forward("mlflow") as url:
        assert url == "http://127.0.0.1:4711"
        assert wait_until(done.exists, 30, "the end of what kubectl says")


def test_a_forward_that_is_refused_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "kubectl", REFUSES)
    with pytest.raises(NotInstalled, match=r"service maestro-mlflow: error: .* not found"), port_forward("mlflow"):
        pass
