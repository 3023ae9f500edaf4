"""The full suite's groups: which of them the gate adds, and what is said of how they ended."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests import full
from tests.full import GATE_MINUTES, GROUPS, Group
from tests.processes import eventually


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Group]:
    """Three groups of six minutes and one that is too long for the gate; none has been green."""
    monkeypatch.setattr(full, "GREEN", tmp_path / "green.json")
    passes = [sys.executable, "-c", ""]
    found = {name: Group(6, passes, (f"mlops/{name}.py",)) for name in ("keys", "result", "cli")}
    found["long"] = Group(GATE_MINUTES + 1, passes, ("mlops",))
    monkeypatch.setattr(full, "GROUPS", found)
    return found


def green(*names: str) -> None:
    for name in names:
        full.note(name, full.digest(full.GROUPS[name]))


def test_every_input_of_every_group_is_there() -> None:
    assert [path for group in GROUPS.values() for path in group.inputs if not (full.ROOT / path).exists()] == []


def test_each_day_another_group_comes_first_and_no_more_are_taken_than_fit(groups: dict[str, Group]) -> None:
    days = [full.changed(day) for day in range(3)]
    assert days == [["keys", "result"], ["result", "cli"], ["cli", "keys"]]


def test_a_group_that_was_green_with_these_inputs_is_left_out(
    groups: dict[str, Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    green("keys", "cli")
    assert full.changed(0) == ["result"]
    monkeypatch.setitem(groups, "keys", replace(groups["keys"], inputs=("mlops/cli.py",)))
    assert full.changed(0) == ["keys", "result"]


def test_one_group_runs_also_where_nothing_changed(groups: dict[str, Group]) -> None:
    green(*groups)
    assert [full.changed(day) for day in range(3)] == [["keys"], ["result"], ["cli"]]


@pytest.mark.parametrize(
    ("program", "outcome"), [("pass", "passed"), ("raise SystemExit(5)", "failed"), ("while True: pass", "too long")]
)
def test_a_group_fails_the_suite_unless_it_ends_well_and_in_time(
    groups: dict[str, Group],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    outcome: str,
) -> None:
    minutes = 0 if outcome == "too long" else 6
    monkeypatch.setitem(groups, "cli", Group(minutes, [sys.executable, "-c", program], ("mlops/cli.py",)))
    monkeypatch.setattr(sys, "argv", ["full", "keys", "cli"])
    assert full.main() == (0 if outcome == "passed" else 1)
    assert outcome in capsys.readouterr().out.splitlines()[-1]
    assert set(full.green()) == ({"keys", "cli"} if outcome == "passed" else {"keys"})


def test_a_group_without_time_left_may_put_back_what_it_changed(
    groups: dict[str, Group], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    undone = tmp_path / "undone"
    program = f"""
try:
    open({str(tmp_path / "changed")!r}, "w").close()
    __import__("time").sleep(600)
finally:
    open({str(undone)!r}, "w").close()
"""
    monkeypatch.setitem(groups, "cli", Group(0.05, [sys.executable, "-c", program], ("mlops/cli.py",)))
    assert full.run("cli")[0] == "too long"
    assert undone.exists() or not (tmp_path / "changed").exists()


def test_nothing_that_a_group_started_outlives_it(
    groups: dict[str, Group], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = f"import subprocess as s; open({str(tmp_path / 'pid')!r}, 'w').write(str(s.Popen(['sleep', '600']).pid))"
    monkeypatch.setitem(groups, "cli", Group(6, [sys.executable, "-c", program], ("mlops/cli.py",)))
    assert full.run("cli")[0] == "passed"
    sleeper = Path("/proc", (tmp_path / "pid").read_text(), "cmdline")
    eventually(lambda: not sleeper.exists() or not sleeper.read_bytes())  # gone, or not yet buried
