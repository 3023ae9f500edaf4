"""`make bench`: measure a fresh installation on the running node; prints one table and writes JSON beside it.

The installation measured goes into a namespace of its own, which is removed afterwards.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

NAMESPACE = os.environ["NAMESPACE"] = os.environ.get("BENCH_NAMESPACE", "maestro-bench")

from infrastructure import data
from infrastructure.release import RELEASE, Airflow, port_forward, wait_until
from tests.bench.memory import pss_by_pod

REPOSITORY = Path(__file__).resolve().parents[2]
REPORT = REPOSITORY / ".build/bench.json"
DAG = "ml_pipeline_dag"
RUNS = 3
IDLE_SECONDS = 60


def install() -> None:
    command = [
        "helm",
        "install",
        RELEASE,
        "charts/maestro",
        "-n",
        NAMESPACE,
        "--create-namespace",
        "-f",
        "charts/maestro/values-minikube.yaml",
    ]
    subprocess.run(
        [*command, "-f", ".build/images.yaml", "--wait", "--timeout", "10m"],
        check=True,
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
    )


def remove() -> None:
    subprocess.run(
        ["helm", "uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found"], check=False, stdout=subprocess.DEVNULL
    )
    subprocess.run(
        ["kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found"], check=True, stdout=subprocess.DEVNULL
    )


def run_once(airflow: Airflow) -> dict[str, float]:
    """Seconds of one run of the DAG: the whole of it, and each task's share."""
    started = time.monotonic()
    run_id = airflow.trigger(DAG)
    state = wait_until(
        lambda: (s := airflow.run(DAG, run_id)["state"]) in ("success", "failed") and s, 1800, f"the end of {run_id}"
    )
    if state != "success":
        raise RuntimeError(f"{run_id} ended as {state}: nothing to measure")
    return {
        "run": time.monotonic() - started,
        **{task["task_id"]: task["duration"] for task in airflow.tasks(DAG, run_id)},
    }


def main() -> int:
    remove()
    figures: dict[str, float] = {}
    try:
        began = time.monotonic()
        install()
        ready = time.monotonic()
        figures["install to ready, s"] = ready - began
        if data.main():
            return 1
        with port_forward("airflow-api-server") as url:
            airflow = Airflow(url)
            wait_until(
                lambda: DAG in {dag["dag_id"] for dag in airflow.call("GET", "/dags")["dags"]}, 120, f"{DAG} in Airflow"
            )
            runs = [run_once(airflow)]
            figures["ready to first DAG success, s"] = time.monotonic() - ready
            runs += [run_once(airflow) for _ in range(RUNS - 1)]
        for name in runs[0]:
            figures[f"{DAG} {name}, s (median of {RUNS})"] = statistics.median(run[name] for run in runs)
        time.sleep(IDLE_SECONDS)
        memory = pss_by_pod()
    finally:
        remove()
    figures |= {f"idle memory {pod}, MiB PSS": value for pod, value in sorted(memory.items())}
    figures["idle memory of all pods, MiB PSS"] = sum(memory.values())
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:8.1f}")
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {REPORT.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
