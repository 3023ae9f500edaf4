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
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
TIMED_OUT = 99
# Seconds that a trial may take: these, and this many times what its tests took without a fault.
_PATIENCE, _TIMES = 30.0, 5.0


class Recorder:
    """A plugin that notes how long each test takes and which blocks it reaches, by the node that they are reached for.

    A fixture of a module or of the session is set up in the first test that asks for it, on behalf of all of them.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._node = ""
        self._blocks: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self._seconds: dict[str, float] = {}

    def _drain(self, node: str) -> None:
        reached: set[tuple[str, int]] = sys.__dict__.setdefault("_reached", set())
        self._blocks[node] |= reached
        reached.clear()

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
    end = time.monotonic() + 60 * task["minutes"]
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
        for mutant in drawn:
            if (began := time.monotonic()) > end:
                break
            outcome = _tried(trials, mutant, covering(mutant), seconds)
            _put(mutant.file, sources[mutant.file])
            told = {name: getattr(mutant, name) for name in ("file", "line", "function", "change")}
            print(json.dumps({**told, "outcome": outcome, "took": time.monotonic() - began}), file=report)
        # A mutant that broke a server, or an import that is not as in a process of its own, would kill all others.
        if trials.run(None, _PATIENCE + _TIMES * sum(seconds.values())):
            sys.exit("the tests fail without a fault after the trials: no outcome counts")


def _reach(trials: Trials, sources: dict[str, bytes]) -> tuple[dict[str, float], Callable[[Mutant], set[str]]]:
    """Seconds of each test, and a function to the tests that reach a mutant; imports what the tests import."""
    blocks = {}
    for file, source in sources.items():
        text, blocks[file] = probed(source, f"{_REACHED}(({file!r}, {{}}))")
        _put(file, text)
    reached = Path("reached.json")
    if trials.run(None, 3600, Recorder(reached), write_bytecode=True):
        sys.exit("the tests fail without a fault")
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
        block = blocks[mutant.file].get(mutant.line)
        if block is None:
            return set(found["seconds"])
        nodes = [node for node, hit in found["blocks"].items() if [mutant.file, block] in hit]
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
    """The tests that reach it first; what they let live may be seen by one that reaches it in another process."""
    _put(mutant.file, mutant.source)
    for tests in (covering, set(seconds) - covering):
        if tests:
            code = trials.run(tests, _PATIENCE + _TIMES * sum(seconds[test] for test in tests))
            if code:
                return "timed out" if code == TIMED_OUT else "killed"
    return "survived"


def _put(file: str, source: bytes) -> None:
    """Writes a file, and has no bytecode of another text lie beside it."""
    Path(file).write_bytes(source)
    py_compile.compile(file, doraise=True)


if __name__ == "__main__":
    main()
