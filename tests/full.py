"""The full suite: what is too long for the gate, in groups that have a time budget each.

    python -m tests.full [GROUP ...]    these groups, or all of them
    python -m tests.full --changed      those whose inputs changed since they were last green, as many as fit into
                                        GATE_MINUTES, and one in any case; a group that is longer is never among them

tests/green.json says of which inputs a group was last green. It is written here, and to be committed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GREEN = ROOT / "tests/green.json"
GATE_MINUTES = 15
UNDOING_SECONDS = 180
# What each group stands on.
HELPERS = tuple(f"tests/e2e/{name}.py" for name in ("asking", "conftest", "disturb", "features", "runs", "sensors"))
SERVERS = tuple(f"tests/{name}.py" for name in ("conftest", "keeper", "kube_apiserver", "processes", "servers"))
COMMON = ("constraints.txt", "images", "infrastructure", *HELPERS, *SERVERS)

PYTEST = (sys.executable, "-m", "pytest")
UNIT = ("tests/unit", "tests/dags", "tests/contract", "tests/charts")


def e2e(*modules: str) -> list[str]:
    """The tests of these modules that the gate leaves out."""
    files = [f"tests/e2e/test_{module}.py" for module in modules]
    return [*PYTEST, "-v", "-m", "full", "--timeout", "1200", *files]


@dataclass(frozen=True)
class Group:
    """minutes: the time it may take; it is ended after them. inputs: files and folders that it can turn red by.

    packages: of Debian, that nothing else needs.
    """

    minutes: float
    command: list[str]
    inputs: tuple[str, ...]
    packages: tuple[str, ...] = ()


GROUPS = {
    "operator": Group(
        8, e2e("operator"), ("mlops/airflow", "charts/airflow", "tests/e2e/test_operator.py", "tests/e2e/dags")
    ),
    "pipeline": Group(15, e2e("pipeline"), ("mlops", "dags", "charts", "tests/e2e/test_pipeline.py")),
    "data": Group(
        15,
        e2e("features", "data_validation"),
        (
            *("mlops/features", "mlops/stores", "mlops/data_quality", "mlops/drift"),
            *("mlops/datasets", "dags/feature_engineering_pipeline.py", "dags/feature_materialization.py"),
            *("dags/feature_push.py", "dags/data_validation_pipeline.py", "charts/feast", "charts/redis"),
            *("tests/e2e/test_features.py", "tests/e2e/test_data_validation.py"),
        ),
    ),
    "inference": Group(
        15,
        e2e("inference"),
        (
            *("mlops/inference", "mlops/datasets", "mlops/stores", "mlops/training", "mlops/airflow"),
            *("dags/ml_pipeline.py", "charts/airflow", "tests/e2e/test_inference.py"),
        ),
    ),
    "clicks": Group(
        20,
        e2e("clicks"),
        (
            *("mlops/training", "mlops/registry", "mlops/models", "mlops/stores", "mlops/features", "mlops/serving"),
            *("dags/training_pipeline.py", "charts/model-server", "images/postgresql", "tests/e2e/test_clicks.py"),
        ),
    ),
    "alerts": Group(35, e2e("alerts"), ("charts/monitoring", "tests/e2e/test_alerts.py")),
    "release": Group(12, e2e("release"), ("charts", "tests/e2e/test_release.py")),
    "upgrade": Group(20, e2e("upgrade"), ("charts", "mlops/airflow", "tests/e2e/test_upgrade.py")),
    "load": Group(
        20,
        e2e("security_api"),
        ("mlops/airflow", "charts/airflow", "charts/postgresql", "charts/common", "tests/e2e/test_security_api.py"),
    ),
    "executors": Group(
        20, e2e("executors"), ("charts/airflow", "mlops/airflow", "dags", "tests/e2e/test_executors.py")
    ),
    "backup": Group(
        20,
        e2e("backup"),
        ("charts/postgresql", "charts/minio", "charts/common", "images/postgresql", "tests/e2e/test_backup.py"),
    ),
    "operations": Group(12, e2e("operations", "images"), ("charts", "dags", "mlops", "tests/e2e"), ("chromium",)),
    "sensors": Group(
        12,
        e2e("sensors"),
        ("mlops/sensor_trainer", "mlops/stores", "dags/train.py", "charts/sensor-trainer", "tests/e2e/test_sensors.py"),
    ),
    "security": Group(
        25,
        e2e("security_net"),
        ("charts", "mlops", "dags", "tests/security", "docs/security.md", "tests/e2e/test_security_net.py"),
    ),
    # Two faults of those that tests/chaos has, drawn anew each time, of which the other profile has more.
    "chaos": Group(
        30,
        [sys.executable, "-m", "tests.chaos", "--short"],
        ("charts", "dags", "mlops/airflow", "tests/chaos"),
    ),
    # What is read, held and computed of many rows, beside the plain way; and sets of packages of 80 MB.
    "figures": Group(
        25,
        [sys.executable, "-m", "tests.bench.data_path", "--figures", "validation", "drift", "bytes-read", "memory"],
        ("mlops/data_quality", "mlops/datasets", "mlops/drift", "mlops/features", "mlops/stores", "tests/bench"),
    ),
    "sets": Group(
        15,
        ["env", "MAESTRO_TESTS=full", *PYTEST, "-v", "--timeout", "600", "tests/unit/test_named_sets.py"],
        ("mlops", "tests/unit/test_named_sets.py"),
    ),
    # The tests of the gate, in another order and with other and more examples.
    "random": Group(
        25,
        [
            *("env", "MAESTRO_TESTS=full", *PYTEST, "--timeout-method", "thread"),
            *("--numprocesses", "3", "--max-worker-restart", "2", "--dist", "loadfile", *UNIT),
        ],
        ("mlops", "charts", "dags", *UNIT),
    ),
    "mutation": Group(
        45,
        [sys.executable, "-m", "tests.mutation", "--sample", "12", "--minutes", "4"],
        ("mlops", "tests/mutation", *UNIT),
    ),
}


def digest(group: Group) -> str:
    """Names what a group does, and the content of all tracked files that are its inputs."""
    listing = ["git", "ls-files", "-z", "--", *group.inputs, *COMMON]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = hashlib.sha256(json.dumps(group.command[1:]).encode())  # Python's own place is not the group's
    for file in sorted({name for name in files if name and (ROOT / name).is_file()}):
        found.update(f"{file}\0{hashlib.sha256((ROOT / file).read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:16]


def green() -> dict[str, str]:
    known: dict[str, str] = json.loads(GREEN.read_text()) if GREEN.exists() else {}
    return known


def changed(today: int) -> list[str]:
    """The groups to run beside the gate. Each day another one comes first, so that each has its turn."""
    known = green()
    due = [name for name in GROUPS if known.get(name) != digest(GROUPS[name])]
    short = [name for name in GROUPS if GROUPS[name].minutes <= GATE_MINUTES]
    turn = today % len(short)
    in_turn = short[turn:] + short[:turn]
    chosen: list[str] = []
    for name in [name for name in in_turn if name in due] or in_turn[:1]:
        if not chosen or sum(GROUPS[one].minutes for one in (*chosen, name)) <= GATE_MINUTES:
            chosen.append(name)
    for name in (name for name in due if name not in chosen):
        print(
            f"left to 'make e2e-full GROUP={name}': its inputs changed, and the gate has {GATE_MINUTES} min for groups"
        )
    return chosen


def run(name: str) -> tuple[str, float]:
    """(passed, failed or "too long", seconds)."""
    group = GROUPS[name]
    print(f"\n=== {name}: at most {group.minutes} min ===", flush=True)
    subprocess.run([ROOT / "infrastructure/packages", *group.packages], check=True)
    started = time.monotonic()
    # It hears an interrupt also where this run is one in the background, whose shell has it ignore them.
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(group.command, cwd=ROOT, process_group=0, preexec_fn=hears)
    try:
        outcome = "failed" if process.wait(group.minutes * 60) else "passed"
    except subprocess.TimeoutExpired:
        outcome = "too long"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # to it alone: by its port-forwards it puts back what it has changed
            with suppress(subprocess.TimeoutExpired):
                process.wait(UNDOING_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return outcome, time.monotonic() - started


def note(name: str, inputs: str) -> None:
    """Writes down that a group is green, of which inputs."""
    known = {known: found for known, found in green().items() if known in GROUPS} | {name: inputs}
    GREEN.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--changed", action="store_true", help="those whose inputs changed since they were last green")
    chosen = parser.parse_args()
    if unknown := set(chosen.groups) - GROUPS.keys():
        parser.error(f"there is no group {', '.join(sorted(unknown))}: there are {', '.join(GROUPS)}")
    names = changed(date.today().toordinal()) if chosen.changed else chosen.groups or list(GROUPS)
    outcomes: dict[str, tuple[str, float]] = {}
    for name in names:
        inputs = digest(GROUPS[name])  # those that it is run with; a person may change them meanwhile
        outcomes[name] = run(name)
        if outcomes[name][0] == "passed":
            note(name, inputs)
    print(f"\n{'group':<14} {'time':>8} {'budget':>8}  outcome")
    for name, (outcome, seconds) in outcomes.items():
        print(f"{name:<14} {seconds:>6.0f} s {GROUPS[name].minutes * 60:>6} s  {outcome}")
    return 0 if all(outcome == "passed" for outcome, _ in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
