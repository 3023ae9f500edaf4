"""The mutation run tells what a weak test does not see, and nothing that a mutant started lives on."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.mutation.__main__ import Found, Module, examine, faults, judge
from tests.mutation.mutants import compiles, mutants
from tests.mutation.trials import TIMED_OUT, alone

TOY = """
LIMIT = 100


def free(amount: int) -> bool:
    return amount > LIMIT
"""
WEAK = """
import subprocess
import sys

from toy import free


def test_a_large_order_is_sent_for_nothing():
    assert free(200) is True


def test_a_small_order_is_not():
    program = "from toy import free; raise SystemExit(free(50))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
"""
SURVIVORS = {
    "constant: LIMIT = 100 -> LIMIT = 101",
    "constant: LIMIT = 100 -> LIMIT = 99",
    "boundary: return amount > LIMIT -> return amount >= LIMIT",
}
ENTRY = ("toy.py", "free", "boundary: return amount > LIMIT -> return amount >= LIMIT")


def test_a_weak_test_lets_exactly_the_faults_live_that_it_does_not_look_at(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "test_toy.py").write_text(WEAK)
    found = examine(tmp_path, Module(("*toy.py",), ("test_toy.py",)), 0, 1, 10)
    assert found.error == ""
    of_toy = [one for one in found.outcomes if one["file"] == "toy.py"]
    assert {one["change"] for one in of_toy if one["outcome"] == "survived"} == SURVIVORS
    assert len(of_toy) == 5
    assert (tmp_path / "toy.py").read_text() == TOY


def test_tests_that_fail_without_a_fault_are_an_error_and_no_score(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "test_toy.py").write_text("def test_nothing():\n    assert not 'a reason'\n")
    found = examine(tmp_path, Module(("toy.py",), ("test_toy.py",)), 0, 1, 10)
    assert found.outcomes == []
    assert "a reason" in found.error
    assert "the tests fail without a fault" in found.error


def test_a_mutant_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    def hang() -> int:
        sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
        (tmp_path / "sleeper").write_text(str(sleeper.pid))
        signal.pause()
        return 0

    assert alone(hang, 2.0) == TIMED_OUT
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "sleeper").read_text()), 0)


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1)])
def test_what_ends_in_time_has_its_own_exit_code(code: int, expected: int) -> None:
    assert alone(lambda: code, 60.0) == expected


def outcome(result: str, change: str = ENTRY[2]) -> dict[str, object]:
    return {"file": "toy.py", "line": 6, "function": "free", "change": change, "outcome": result, "took": 0.1}


KILLED = [outcome("killed", f"comparison: {number}") for number in range(6)]


def test_a_survivor_must_be_explained() -> None:
    found = Found([*KILLED, outcome("survived")])
    (reason,) = judge("toy", found, {})
    assert reason == f"toy: survived: toy.py:6 free  {ENTRY[2]}"
    assert list(judge("toy", found, {ENTRY: "equivalent: amounts are odd"})) == []


def test_no_score_is_no_pass() -> None:
    (reason,) = judge("toy", Found(drawn=7), {})
    assert "no mutant was tried" in reason


def test_an_explanation_ends_with_the_survivor() -> None:
    (reason,) = judge("toy", Found([*KILLED, outcome("killed")]), {ENTRY: "e2e: test_shop"})
    assert "the tests see it" in reason


def test_only_equivalent_mutants_are_left_out_of_the_score() -> None:
    others = [outcome("survived", f"order: {number}") for number in range(2)]
    known = {("toy.py", "free", str(other["change"])): "e2e: test_shop" for other in others}
    (reason,) = judge("toy", Found([*KILLED, *others]), known)
    assert "of 8 mutants that are not equivalent 6 are killed" in reason
    assert list(judge("toy", Found([*KILLED, *others]), dict.fromkeys(known, "equivalent: they commute"))) == []


@pytest.mark.parametrize(
    ("source", "reason", "fault"),
    [
        (TOY, "equivalent: amounts are odd", None),
        (f"import os\n{TOY}", "e2e: test_shop", None),  # lines moved
        (TOY.replace("LIMIT", "LEAST"), "equivalent: amounts are odd", "no such mutant any more"),
        (None, "equivalent: amounts are odd", "no such mutant any more"),
        (TOY, "too hard to test", "the reason must begin with"),
    ],
)
def test_an_explanation_names_a_mutant_that_is_there(
    tmp_path: Path, source: str | None, reason: str, fault: str | None
) -> None:
    if source is not None:
        (tmp_path / "toy.py").write_text(source)
    found = list(faults(tmp_path, {ENTRY: reason}))
    assert len(found) == (fault is not None)
    assert all(str(fault) in one for one in found)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", {"boundary: x = a < b -> x = a <= b", "comparison: x = a < b -> x = a >= b"}),
        ("x = (a) is  not (b)", {"comparison: x = (a) is not (b) -> x = (a) is (b)"}),
        ("x = a and b and c", {"boolean: x = a and b and c -> x = a or b or c"}),
        ("x = not a", {"not: x = not a -> x = a"}),
        ("x = a if b() else c", {"condition: x = a if b() else c -> x = a if not b() else c"}),
        ("x = 0.5", {"constant: x = 0.5 -> x = 1.5", "constant: x = 0.5 -> x = (-0.5)"}),
        ("x = True", {"constant: x = True -> x = False"}),
        ("x['ä']", {"text: x['ä'] -> x['äX']"}),
        ("f(a, b)", {"order: f(a, b) -> f(b, a)", "statement: f(a, b) -> pass"}),
        ("x = f(k=a)", {"argument: x = f(k=a) -> x = f()"}),
        ("x = a * (b)", {"arithmetic: x = a * (b) -> x = a / (b)"}),
        ("async def f():\n    return a", {"return: return a -> return None"}),
        # What nobody should test.
        ("def f(a: 'int' = b) -> list[0]:\n    '''Is 1.'''", set()),
        ("@d(1)\ndef f(): pass", set()),
        ("log.info('a', 1)", set()),
        ("raise E('a')", set()),
        ("x = 'in words'", set()),
        ("x = f'{1}' + a", set()),
    ],
)
def test_mutants_are_the_small_faults_that_a_test_should_see(source: str, expected: set[str]) -> None:
    found = mutants("toy.py", f"{source}\n".encode())
    assert {mutant.change for mutant in found} == expected
    assert all(compiles(mutant) for mutant in found)


def test_equal_changes_in_one_function_have_names_of_their_own() -> None:
    first, second = mutants("toy.py", b"x = not a\nx = not a\n")
    assert (first.change, second.change) == ("not: x = not a -> x = a", "not: x = not a -> x = a #2")
    assert (first.line, second.line) == (1, 2)
