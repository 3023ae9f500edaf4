"""`make bench`: measure a fresh installation on the local node; prints one table and writes JSON beside it.

The installation measured goes into a namespace of its own, which is removed afterwards. The release that is installed
already has no pods meanwhile. Should the bench be killed, `make install` brings them back.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INSTALLED = os.environ.get("NAMESPACE", "maestro")
NAMESPACE = os.environ["NAMESPACE"] = "maestro-bench"

from infrastructure import data, install
from infrastructure.airflow import Airflow
from infrastructure.release import RELEASE, kubectl, wait_until
from infrastructure.services import port_forward
from tests.bench.memory import pss_by_pod

REPOSITORY = Path(__file__).resolve().parents[2]
REPORT = REPOSITORY / ".build/bench.json"
VALUES = ["charts/maestro/values-minikube.yaml", ".build/images.yaml"]
DAG = "ml_pipeline_dag"
RUNS = 3
IDLE_SECONDS = 60


@contextmanager
def without_pods(namespace: str) -> Iterator[None]:
    """Scales what is installed there down for the time of the block: beside it the other's times would be measured."""
    release = ("--namespace", namespace, "--selector", f"app.kubernetes.io/instance={RELEASE}")
    found = json.loads(kubectl("get", "deployments,statefulsets", *release, "-o", "json"))["items"]
    replicas = {f"{item['kind']}/{item['metadata']['name']}": item["spec"]["replicas"] for item in found}
    running = ("get", "pods", *release, "--field-selector=status.phase=Running", "-o", "name")
    try:
        for workload in replicas:
            kubectl("scale", workload, "--namespace", namespace, "--replicas=0")
        wait_until(lambda: not kubectl(*running), 300, f"the end of the pods in {namespace}")
        yield
    finally:
        for workload, count in replicas.items():
            kubectl("scale", workload, "--namespace", namespace, f"--replicas={count}")


def remove() -> None:
    """Removes the installation that is measured, with its volumes."""
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


def measure() -> dict[str, float]:
    """The figures by their names. Raises RuntimeError where something failed and there is nothing to measure."""
    figures: dict[str, float] = {}
    began = time.monotonic()
    if install.main(VALUES):
        raise RuntimeError("the installation failed")
    ready = time.monotonic()
    figures["install to ready, s"] = ready - began
    if data.main():
        raise RuntimeError("the data could not be loaded")
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
    figures |= {f"idle memory {pod}, MiB PSS": value for pod, value in sorted(memory.items())}
    figures["idle memory of all pods, MiB PSS"] = sum(memory.values())
    return figures


def main() -> int:
    if os.environ.get("CLUSTER", "local") != "local":
        print("make bench reads the memory of pods from this machine's kernel: use CLUSTER=local", file=sys.stderr)
        return 2
    remove()
    with without_pods(INSTALLED):
        try:
            figures = measure()
        finally:
            remove()
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:8.1f}")
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {REPORT.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
