"""What measures and what mutates asks for what there is, and says what failed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlops.cli import parser
from tests.bench import data_path
from tests.bench.data_path import FIGURES, Bench, Figure, Used
from tests.mutation.__main__ import MODULES, ROOT, Module

NOTHING = Used(1.0, 100.0, "1")
_OF_COMMANDS = ("integers", "validation", "drift", "bytes-read", "memory")  # the others start programs of their own


class Asked(Bench):
    """Runs no command, but parses what each is asked for; of the plain ways it tells the same."""

    def run(self, *arguments: str) -> tuple[Used, dict[str, Any]]:
        parser(arguments[0]).parse_args(arguments)
        return NOTHING, {"data": "key"}

    def plain(self, name: str, *arguments: str) -> Used:
        return NOTHING


@pytest.mark.parametrize("name", _OF_COMMANDS)
def test_a_figure_asks_commands_for_what_they_take(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(command: list[str], environment: dict[str, str]) -> Used:
        Path(command[4]).touch()
        return NOTHING

    monkeypatch.setattr(data_path, "used", make)
    server: Any = SimpleNamespace(url="http://127.0.0.1:9")
    assert FIGURES[name](Asked(tmp_path, server, [10, 20]))


def failing(made: Bench) -> list[Figure]:
    raise RuntimeError("no memory left")


def passing(made: Bench) -> list[Figure]:
    return [Figure("a figure", 1.0, None, "MiB")]


@pytest.mark.parametrize(
    ("figures", "code", "said"),
    [
        ({"one": failing, "two": passing}, 1, "one: no memory left\nfailed: one\n"),
        ({"one": passing, "two": passing}, 0, ""),
    ],
)
def test_a_figure_that_failed_is_named_and_the_others_are_told(
    figures: dict[str, Callable[[Bench], list[Figure]]],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextmanager
    def bench(rows: list[int]) -> Iterator[None]:
        yield None

    monkeypatch.setattr(data_path, "FIGURES", figures)
    monkeypatch.setattr(data_path, "bench", bench)
    monkeypatch.setattr(sys, "argv", ["data_path"])
    assert data_path.main() == code
    out, errors = capsys.readouterr()
    assert "a figure" in out
    assert errors == said


@pytest.mark.parametrize("name", MODULES)
def test_what_is_mutated_is_there(name: str) -> None:
    assert MODULES[name].lacking(ROOT) == []


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "toy.py").touch()
    assert Module(("toy.py", "*y.py", "gone/*.py"), ("toy.py", "test_gone.py")).lacking(tmp_path) == [
        "gone/*.py",
        "test_gone.py",
    ]
