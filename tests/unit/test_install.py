"""`make install` by a stand-in for helm, from each state that an earlier attempt may have left."""

import json
from pathlib import Path

import pytest

from infrastructure import install

HELM = """#!/bin/sh
echo "$1" >> {calls}
if [ "$1" = list ]; then echo '{listing}'; fi
"""


def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str | None) -> list[str]:
    """What helm is asked to do when its list shows the release in this state."""
    record = tmp_path / "calls"
    listing = json.dumps([{"name": "maestro", "status": status}] if status else [])
    (tmp_path / "helm").write_text(HELM.format(calls=record, listing=listing))
    (tmp_path / "helm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert install.main(["values.yaml"]) == 0
    return record.read_text().split()


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (None, ["upgrade"]),
        ("deployed", ["upgrade"]),
        ("failed", ["upgrade"]),
        ("pending-install", ["uninstall", "upgrade"]),
        ("uninstalling", ["uninstall", "upgrade"]),
        ("pending-upgrade", ["rollback", "upgrade"]),
        ("pending-rollback", ["rollback", "upgrade"]),
    ],
)
def test_an_interrupted_attempt_is_cleared_away_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str | None, asked: list[str]
) -> None:
    assert calls(tmp_path, monkeypatch, status) == ["list", *asked]
