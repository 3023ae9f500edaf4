"""What the tests do not see: small faults are put into a module one at a time, and its tests must fail.

    python -m tests.mutation [--module NAME] [--sample N] [--seed S]

DOCSTRING
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from tests.mutation.mutants import mutants

ROOT = Path(__file__).parents[2]
EXPLAINED = Path(__file__).with_name("explained.yaml")
AIM = 0.85
_ROW = "{:16}{:>8}{:>8}{:>10}{:>11}{:>8}{:>9}{:>10}"
_LEFT_OUT = (".git", ".venv", ".build", "__pycache__", ".*_cache", ".hypothesis", ".schemathesis")


@dataclass(frozen=True)
class Module:
    """What is mutated, by globs; the tests that must see it; the servers of tests/conftest.py that those share."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]
    servers: tuple[str, ...] = ()

    def files(self, root: Path) -> list[str]:
        return sorted({str(file.relative_to(root)) for glob in self.sources for file in root.glob(glob)})


_STORES = ("s3_endpoint", "mlflow_uri", "postgresql")
_OPERATOR = ("operator", "pod", "pod_api", "create", "watch", "trigger", "verdict", "pod_log", "platform", "fresh")
MODULES = {
    "verdict": Module(("mlops/airflow/verdict.py",), ("tests/dags/test_verdict.py", "tests/dags/test_trigger.py")),
    "operator": Module(
        tuple(f"mlops/airflow/{name}.py" for name in _OPERATOR if name != "verdict"),
        tuple(f"tests/dags/test_{name}.py" for name in ("pod", "operator", "trigger", "fresh", "verdict")),
    ),
    "gate": Module(
        ("mlops/training/gate.py", "mlops/training/score.py", "mlops/training/interval.py"),
        ("tests/unit/test_gate.py", "tests/unit/test_training.py"),
        _STORES,
    ),
    "drift": Module(
        ("mlops/monitoring/drift.py",),
        ("tests/unit/test_monitoring_drift.py", "tests/unit/test_monitoring.py"),
        _STORES,
    ),
    "materialization": Module(("mlops/materialization/*.py",), ("tests/unit/test_materialization.py",), _STORES),
    "registry": Module(
        ("mlops/registry/*.py",),
        tuple(f"tests/unit/test_{name}.py" for name in ("registry", "tracking", "training")),
        _STORES,
    ),
    "serving": Module(
        ("mlops/inference/*.py", "mlops/features/serve.py"),
        tuple(f"tests/unit/test_{name}.py" for name in ("serve", "deploy", "feature_store")),
        _STORES,
    ),
    "sensors": Module(
        ("mlops/sensors/*.py",),
        tuple(
            f"tests/unit/test_sensor_{name}.py"
            for name in (
                *("clusters", "training", "served", "api", "api_limits", "api_schema"),
                *("commands", "worker"),
            )
        ),
        _STORES,
    ),
    "sensor-store": Module(
        ("mlops/stores/sensors/*.py",),
        tuple(f"tests/unit/test_sensor_{name}.py" for name in ("store", "jobs", "worker", "api")),
        _STORES,
    ),
}


@dataclass
class Found:
    """What came of a module's mutants."""

    outcomes: list[dict[str, object]] = field(default_factory=list)
    error: str = ""

    def count(self, outcome: str) -> int:
        return sum(one["outcome"] == outcome for one in self.outcomes)


def examine(root: Path, module: Module, sample: int, seed: int) -> Found:
    """Tries mutants of a module in a copy of the tree."""
    found = Found()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        Path(folder).chmod(0o755)
        copy = Path(folder, "tree")
        shutil.copytree(root, copy, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        for name in (".venv", ".build"):
            if (root / name).exists():
                (copy / name).symlink_to((root / name).resolve())
        environment = {
            **os.environ,
            "PYTHONPATH": f"{copy}:{ROOT}",
            "TMPDIR": folder,
            "AIRFLOW_HOME": f"{folder}/airflow",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        task = {**asdict(module), "sources": module.files(root), "sample": sample, "seed": seed}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.trials"],
            cwd=copy,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as trials:
            assert trials.stdin is not None
            assert trials.stdout is not None
            try:
                json.dump(task, trials.stdin)
                trials.stdin.close()
                found.outcomes = [json.loads(line) for line in trials.stdout]
            except BaseException:
                trials.terminate()
                raise
        if trials.returncode:
            found.error = (copy / "trials.log").read_text(errors="replace")[-3000:]
    return found


Explained = dict[tuple[str, str, str], str]


def explained(file: Path) -> Explained:
    """Why a survivor is none of the tests' faults, by file, function and change."""
    entries = yaml.safe_load(file.read_text()) or {}
    return {
        (source, function, change): reason
        for source, functions in entries.items()
        for function, changes in functions.items()
        for change, reason in changes.items()
    }


def faults(root: Path, known: Explained) -> Iterator[str]:
    """What is wrong with the explanations themselves."""
    there = {
        (mutant.file, mutant.function, mutant.change)
        for file in {file for file, _, _ in known}
        if (root / file).exists()
        for mutant in mutants(file, (root / file).read_bytes())
    }
    for entry, reason in known.items():
        if entry not in there:
            yield f"explained, but there is no such mutant any more: {' | '.join(entry)}"
        if not reason.startswith(("equivalent: ", "e2e: ")):
            yield f'the reason must begin with "equivalent: " or "e2e: ": {" | ".join(entry)}'


def judge(name: str, found: Found, known: Explained) -> Iterator[str]:
    """Why a module does not pass, if it does not; tells of its survivors."""
    if found.error:
        yield f"{name}: {found.error}"
        return
    killed = found.count("killed") + found.count("timed out")
    equivalent = 0
    for one in found.outcomes:
        entry = (str(one["file"]), str(one["function"]), str(one["change"]))
        if one["outcome"] != "survived":
            if entry in known:
                yield f"{name}: explained as a survivor, but the tests see it: {' | '.join(entry)}"
        elif entry in known:
            equivalent += known[entry].startswith("equivalent")
        else:
            yield f"{name}: survived: {one['file']}:{one['line']} {one['function']}  {one['change']}"
    rest = len(found.outcomes) - equivalent
    if killed < AIM * rest:
        yield f"{name}: of {rest} mutants that are not equivalent {killed} are killed, fewer than {AIM:.0%}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--module", action="append", choices=MODULES, help="of these alone")
    parser.add_argument("--sample", type=int, default=12, help="mutants a file; 0 for all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="modules at once (default: %(default)s)")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.sample or 'all'} mutants a file")
    known = explained(EXPLAINED)
    wrong = list(faults(ROOT, known))
    print(_ROW.format("module", "mutants", "killed", "survived", "time-outs", "score", "seconds", "a mutant"))
    names = options.module or list(MODULES)
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, found in zip(
            names, pool.map(lambda name: timed(MODULES[name], options.sample, options.seed), names), strict=True
        ):
            print(row(name, *found), flush=True)
            wrong += judge(name, found[0], known)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


def timed(module: Module, sample: int, seed: int) -> tuple[Found, float]:
    began = time.monotonic()
    return examine(ROOT, module, sample, seed), time.monotonic() - began


def row(name: str, found: Found, seconds: float) -> str:
    tried = len(found.outcomes)
    late, survived = found.count("timed out"), found.count("survived")
    each = sum(float(str(one["took"])) for one in found.outcomes) / (tried or 1)
    score = f"{(tried - survived) / (tried or 1):.0%}"
    return _ROW.format(name, tried, tried - survived - late, survived, late, score, f"{seconds:.0f}", f"{each:.1f}")


if __name__ == "__main__":
    sys.exit(main())
