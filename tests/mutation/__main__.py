"""What the tests do not see: small faults are put into a module one at a time, and its tests must fail.

    python -m tests.mutation [--module NAME] [--sample N] [--seed S]

Each mutant is tried in a copy of the tree and in processes of its own, by the tests that reach its block, themselves
or in a process that they start. One that takes five times as long as without a fault, and half a minute, counts as
killed. A survivor must be mended by a test, or explained in explained.yaml.

No library does this in the time that there is (on pods/outcome.py, two busy cores, CPU seconds a mutant):
- mutmut 3.8.1, 0.3: it forks from a warm process as well. But it starts PostgreSQL, S3 and MLflow, 5 to 10 s, for every
  mutant, and leaves them running where it stops one that hangs. It leaves out what is decorated (properties, routes)
  and all constants of modules, which thresholds are. It numbers its mutants within a function, so no list of explained
  ones outlives a change, it knows no sample, and 138 of its 371 mutants change nothing but texts.
- cosmic-ray 8.7.0 and poodle 1.3.4 start a process for each mutant: 8.5, of which 8 are imports.
- pytest-gremlins 1.12.2 does so too, and knows neither removed statements nor arguments.
- mutatest 3.1.0 is of 2022 and needs coverage < 6.
This one: 0.5, with all that; what it costs beyond that is what the tests take.
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
_ROW = "{:16}{:>7}{:>7}{:>8}{:>10}{:>11}{:>8}{:>9}{:>10}"
_LEFT_OUT = (".git", ".venv", ".build", "__pycache__", ".*_cache", ".hypothesis", ".schemathesis")


@dataclass(frozen=True)
class Module:
    """What is mutated, by globs; the tests that must see it; the servers that those share, by their classes."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]
    servers: tuple[str, ...] = ()

    def files(self, root: Path) -> list[str]:
        return sorted({str(file.relative_to(root)) for glob in self.sources for file in root.glob(glob)})

    def lacking(self, root: Path) -> list[str]:
        """What is named and is not there."""
        return [name for name in (*self.sources, *self.tests) if not any(root.glob(name))]


_STORES = ("S3", "MLflow", "PostgreSQL")
_OF_OPERATOR = ("pod_manifest", "operator", "trigger", "freshness", "pod_log", "kubernetes", "dags")
MODULES = {
    "outcome": Module(
        ("mlops/airflow/pods/outcome.py", "mlops/airflow/pods/state.py"), ("tests/dags/test_pod_outcome.py",)
    ),
    "operator": Module(
        (
            *(
                "mlops/airflow/platform.py",
                "mlops/airflow/authoring/operator.py",
                "mlops/airflow/authoring/freshness.py",
            ),
            "mlops/airflow/internals/supervisor.py",
            *(f"mlops/airflow/pods/{name}.py" for name in ("api", "create", "log", "manifest", "trigger", "watch")),
        ),
        tuple(f"tests/dags/test_{name}.py" for name in _OF_OPERATOR),
        ("ApiserverOnEtcd",),
    ),
    "gate": Module(
        tuple(f"mlops/training/{name}.py" for name in ("gate", "score", "resampling", "measures")),
        tuple(f"tests/unit/test_{name}.py" for name in ("gate", "score", "resampling")),
    ),
    "drift": Module(
        tuple(f"mlops/drift/{name}.py" for name in ("comparison", "rates", "sketch")),
        ("tests/unit/test_drift.py", "tests/unit/test_drift_anomalies.py"),
    ),
    "materialization": Module(
        ("mlops/features/materialization/*.py",), ("tests/unit/test_materialization.py",), _STORES
    ),
    "registry": Module(
        ("mlops/registry/*.py",),
        tuple(f"tests/unit/test_{name}.py" for name in ("registry", "tracking", "training")),
        _STORES,
    ),
    "serving": Module(
        ("mlops/serving/*.py", "mlops/features/serve.py"),
        tuple(f"tests/unit/test_{name}.py" for name in ("serving", "deploy", "feature_store")),
        _STORES,
    ),
    "sensor-trainer": Module(
        (
            *("mlops/sensor_trainer/*.py", "mlops/sensor_trainer/api/*.py", "mlops/sensor_trainer/model/*.py"),
            "mlops/sensor_trainer/worker/*.py",
        ),
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
        ("mlops/sensor_trainer/store/*.py",),
        tuple(f"tests/unit/test_sensor_{name}.py" for name in ("store", "jobs", "worker", "api")),
        _STORES,
    ),
}


@dataclass
class Found:
    """What came of a module's mutants. drawn: how many were to be tried."""

    outcomes: list[dict[str, object]] = field(default_factory=list)
    drawn: int = 0
    error: str = ""

    def count(self, outcome: str) -> int:
        return sum(one["outcome"] == outcome for one in self.outcomes)


def examine(root: Path, module: Module, sample: int, seed: int, minutes: float) -> Found:
    """Tries mutants of a module in a copy of the tree for so many minutes, once it is known which tests reach them."""
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
        task = {**asdict(module), "sources": module.files(root), "sample": sample, "seed": seed, "minutes": minutes}
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
                told = map(json.loads, trials.stdout)
                found.drawn = next(told, 0)
                found.outcomes = list(told)
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
    if not found.outcomes:
        yield f"{name}: no mutant was tried: give it more minutes"
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
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--module", action="append", choices=MODULES, help="of these alone")
    parser.add_argument("--sample", type=int, default=12, help="mutants a file; 0 for all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=30, help="of trials a module (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="modules at once (default: %(default)s)")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.sample or 'all'} mutants a file")
    known = explained(EXPLAINED)
    names = options.module or list(MODULES)
    wrong = [f"{name}: there is no {file}" for name in names for file in MODULES[name].lacking(ROOT)]
    wrong += faults(ROOT, known)
    for reason in wrong:
        print(reason)
    print(_ROW.format("module", "drawn", "tried", "killed", "survived", "time-outs", "score", "seconds", "a mutant"))

    def timed(name: str) -> tuple[Found, float]:
        began = time.monotonic()
        return examine(ROOT, MODULES[name], options.sample, options.seed, options.minutes), time.monotonic() - began

    with ThreadPoolExecutor(options.jobs) as pool:
        for name, (found, seconds) in zip(names, pool.map(timed, names), strict=True):
            reasons = list(judge(name, found, known))
            print(row(name, found, seconds), *reasons, sep="\n", flush=True)
            wrong += reasons
    return 1 if wrong else 0


def row(name: str, found: Found, seconds: float) -> str:
    tried = len(found.outcomes)
    late, survived = found.count("timed out"), found.count("survived")
    each = sum(float(str(one["took"])) for one in found.outcomes) / (tried or 1)
    score = f"{(tried - survived) / (tried or 1):.0%}"
    return _ROW.format(
        name, found.drawn, tried, tried - survived - late, survived, late, score, f"{seconds:.0f}", f"{each:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
