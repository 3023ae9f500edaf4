"""The trials of one module's mutants, in a copy of the tree: `python -m tests.mutation.trials`, the task on stdin.

This process imports what the tests import of other people's, and starts the servers that they share; it never runs a
test or imports a line of ours. For each mutant it writes the file and forks: the child imports the mutated module as
any process would, and so do the processes that its tests start.
"""

import ctypes
import gc
import importlib.util
import json
import os
import py_compile
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.mutants import Mutant, compiles, mutants, probed

_REACHED = "__import__('sys').__dict__.setdefault('_reached', set()).add"
# Every Python that a test starts imports this first, and writes down what it reaches.
_IN_CHILDREN = """
import os, sys

class Reached(set):
    def add(self, block):
        if block not in self:
            super().add(block)
            with open(f"{os.environ['MUTATION_REACHED']}/{os.getpid()}", "a") as file:
                print(*block, file=file)

if "MUTATION_REACHED" in os.environ:
    sys._reached = Reached()
"""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
TIMED_OUT = 99
# Seconds that a trial may take: these, and this many times what its tests took without a fault.
_PATIENCE, _TIMES = 30.0, 5.0


class Recorder:
    """A plugin that notes how long each test takes and which blocks it reaches, by the node that they are reached for.

    A fixture of a module or of the session is set up in the first test that asks for it, on behalf of all of them. What
    a process reaches that a test started counts for all tests of its file: others may ask the same process.
    """

    def __init__(self, file: Path, children: Path) -> None:
        self._file, self._children = file, children
        self._read: dict[Path, int] = {}
        self._node = ""
        self._blocks: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self._seconds: dict[str, float] = {}

    def _drain(self, node: str) -> None:
        reached: set[tuple[str, int]] = sys.__dict__.setdefault("_reached", set())
        self._blocks[node] |= reached
        reached.clear()
        for file in self._children.iterdir():
            *lines, _ = file.read_text()[self._read.get(file, 0) :].split("\n")
            self._read[file] = self._read.get(file, 0) + sum(len(line) + 1 for line in lines)
            found = (line.split(" ") for line in lines)
            self._blocks[self._node.partition("::")[0]] |= {(name, int(block)) for name, block in found}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        if fixturedef.scope == "function":
            return (yield)
        self._drain(self._node)
        try:
            return (yield)
        finally:
            self._drain(request.node.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self._drain("")  # importing reached it, for all tests
        self._node, began = item.nodeid, time.monotonic()
        try:
            return (yield)
        finally:
            self._drain(item.nodeid)
            self._seconds[item.nodeid] = time.monotonic() - began

    def pytest_sessionfinish(self) -> None:
        self._drain(self._node)
        blocks = {node: sorted(reached) for node, reached in self._blocks.items()}
        self._file.write_text(json.dumps({"blocks": blocks, "seconds": self._seconds, "modules": list(sys.modules)}))


class Chosen:
    """A plugin that runs some of the collected tests, in a run whose shared servers are there already."""

    def __init__(self, tests: set[str] | None, run: Path) -> None:
        self._tests, self._run = tests, run

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._tests is not None:
            items[:] = [item for item in items if item.nodeid in self._tests]

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        if fixturedef.argname != "run_folder":
            return None
        fixturedef.cached_result = (self._run, fixturedef.cache_key(request), None)
        return self._run


class Trials:
    """Runs of the tests in processes of their own."""

    def __init__(self, tests: list[str], seed: int) -> None:
        self._arguments = [*tests, "-x", "-q", "-p", "no:cacheprovider", f"--rootdir={Path.cwd()}"]
        self._arguments.append(f"--hypothesis-seed={seed}")
        self._run = Path(tempfile.mkdtemp(prefix="run-"))

    def start(self, servers: Iterable[str], stack: ExitStack) -> None:
        """Starts servers by the names of their classes. A trial cannot: all that it starts ends with it."""
        from tests import kube_apiserver
        from tests import servers as known

        stack.callback(known.end, self._run, known.begin(self._run))
        for name in servers:
            known.shared(self._run, getattr(known, name, None) or getattr(kube_apiserver, name))

    def run(self, tests: set[str] | None, seconds: float, *plugins: object, write_bytecode: bool = False) -> int:
        """pytest's exit code over these tests, or over all; TIMED_OUT where they took too long."""
        folder = Path(tempfile.mkdtemp(prefix="trial-"))
        folder.chmod(0o755)  # PostgreSQL runs as another user

        def work() -> int:
            os.environ.update(TMPDIR=str(folder), PYTHONDONTWRITEBYTECODE="" if write_bytecode else "1")
            tempfile.tempdir, sys.dont_write_bytecode = None, not write_bytecode
            return int(pytest.main(self._arguments, plugins=[Chosen(tests, self._run), *plugins]))

        try:
            return alone(work, seconds)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def alone(work: Callable[[], int], seconds: float) -> int:
    """What the work returns in a process of its own, which a second one watches: nothing of it lives on."""
    keeper = os.fork()
    if keeper == 0:
        code = 1
        try:
            code = _kept(work, seconds)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])


def _kept(work: Callable[[], int], seconds: float) -> int:
    # Whoever loses its parent becomes a child of this process, sessions of their own notwithstanding.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    worker = os.fork()
    if worker == 0:
        code = 1
        try:
            code = work()
        finally:
            sys.stdout.flush()
            os._exit(code)
    code = TIMED_OUT
    try:
        if select.select([os.pidfd_open(worker)], [], [], seconds)[0]:
            code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    finally:
        _end_children()
    return code if code >= 0 else 1


def _end_children() -> None:
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for child in children:
            os.kill(int(child), signal.SIGKILL)
            os.waitpid(int(child), 0)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def main() -> None:
    task = json.load(sys.stdin)
    report = os.fdopen(os.dup(1), "w", buffering=1)
    with Path("trials.log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # its servers must not outlive who asked for them

    sources = {file: Path(file).read_bytes() for file in task["sources"]}
    trials = Trials(task["tests"], task["seed"])
    with ExitStack() as stack:
        trials.start(task["servers"], stack)
        seconds, covering = _reach(trials, sources)
        drawn = [one for item in sources.items() for one in _drawn(*item, task["sample"], task["seed"])]
        random.Random(task["seed"]).shuffle(drawn)  # of all files, if time ends before them
        print(len(drawn), file=report)
        end, last = time.monotonic() + 60 * task["minutes"], set[str]()
        for mutant in drawn:
            if (began := time.monotonic()) > end:
                break
            reaching = covering(mutant)
            outcome = _tried(trials, mutant, reaching, seconds)
            last = reaching or last
            _put(mutant.file, sources[mutant.file])
            told = {name: getattr(mutant, name) for name in ("file", "line", "function", "change")}
            print(json.dumps({**told, "outcome": outcome, "took": time.monotonic() - began}), file=report)
        # A mutant that broke a server, or an import that is not as in a process of its own, would kill all others.
        if last and trials.run(last, _PATIENCE + _TIMES * sum(seconds[test] for test in last)):
            sys.exit("the tests fail without a fault after the trials: no outcome counts")


def _reach(trials: Trials, sources: dict[str, bytes]) -> tuple[dict[str, float], Callable[[Mutant], set[str]]]:
    """Seconds of each test, and a function to the tests that reach a mutant; imports what the tests import."""
    blocks = {}
    for file, source in sources.items():
        text, blocks[file] = probed(source, f"{_REACHED}(({file!r}, {{}}))")
        _put(file, text)
    reached, children, hook = Path("reached.json"), Path("children").resolve(), Path("sitecustomize.py")
    children.mkdir()
    hook.write_text(_IN_CHILDREN)
    os.environ["MUTATION_REACHED"] = str(children)
    if trials.run(None, 3600, Recorder(reached, children), write_bytecode=True):
        sys.exit("the tests fail without a fault")
    hook.unlink()
    del os.environ["MUTATION_REACHED"]
    found = json.loads(reached.read_text())
    for file, source in sources.items():
        _put(file, source)
    here = str(Path.cwd())
    for name in found["modules"]:
        with suppress(Exception):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin and not spec.origin.startswith(here):
                importlib.import_module(name)
    gc.freeze()

    def covering(mutant: Mutant) -> set[str]:
        block = blocks[mutant.file].get(mutant.line)  # None: of the module itself, which counts for all of its blocks
        nodes = [
            node
            for node, hit in found["blocks"].items()
            if any(file == mutant.file and block in (None, number) for file, number in hit)
        ]
        return {test for test in found["seconds"] if any(test.startswith(node) for node in nodes)}

    return found["seconds"], covering


def _drawn(file: str, source: bytes, sample: int, seed: int) -> list[Mutant]:
    """That many of the module's mutants, the same ones for the same seed and source; all for 0."""
    every = mutants(file, source)
    random.Random(f"{seed} {file}").shuffle(every)
    drawn: list[Mutant] = []
    for mutant in every:
        if sample and len(drawn) == sample:
            break
        if compiles(mutant):
            drawn.append(mutant)
    return drawn


def _tried(trials: Trials, mutant: Mutant, covering: set[str], seconds: dict[str, float]) -> str:
    """What the tests that reach it say of it."""
    _put(mutant.file, mutant.source)
    code = trials.run(covering, _PATIENCE + _TIMES * sum(seconds[test] for test in covering)) if covering else 0
    return "survived" if not code else "timed out" if code == TIMED_OUT else "killed"


def _put(file: str, source: bytes) -> None:
    """Writes a file, and has no bytecode of another text lie beside it."""
    Path(file).write_bytes(source)
    py_compile.compile(file, doraise=True)


if __name__ == "__main__":
    main()
