"""`make demo`: run ml_pipeline_dag once on the installed platform, show how it goes and what came of it."""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime
from typing import Any

import requests

from infrastructure.release import (
    NAMESPACE,
    RELEASE,
    Airflow,
    NotInstalled,
    kubectl,
    port_forward,
    secret,
    wait_until,
)

DAG = "ml_pipeline_dag"
RUN_SECONDS = 30 * 60
ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}
MARKS = {"success": "ok", "failed": "FAILED", "skipped": "skipped", "upstream_failed": "not run"}


def _seconds(task: dict[str, Any]) -> float:
    started = datetime.fromisoformat(task["start_date"])
    ended = datetime.fromisoformat(task["end_date"]) if task["end_date"] else datetime.now(started.tzinfo)
    return (ended - started).total_seconds()


def watch(airflow: Airflow, run_id: str) -> str:
    """Print each task as it ends, and the one that runs; returns the state the run ended in."""
    shown: set[str] = set()
    deadline = time.monotonic() + RUN_SECONDS
    live = sys.stdout.isatty()
    while True:
        state: str = airflow.run(DAG, run_id)["state"]
        tasks = airflow.tasks(DAG, run_id)
        for task in tasks:
            if task["state"] in ENDED and task["task_id"] not in shown:
                shown.add(task["task_id"])
                took = f"{_seconds(task):6.1f} s" if task["start_date"] else " " * 8
                print(f"\r  {task['task_id']:<22} {MARKS.get(task['state'], task['state']):<8} {took}", flush=True)
        running = [task for task in tasks if task["start_date"] and task["state"] not in ENDED]
        if live and running:
            print(
                f"\r  {running[0]['task_id']:<22} {running[0]['state']:<8} {_seconds(running[0]):6.1f} s",
                end="",
                flush=True,
            )
        if state in ("success", "failed"):
            return state
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{DAG} did not end within {RUN_SECONDS // 60} min: look at its tasks in the Airflow UI ('make ui')"
            )
        time.sleep(1)


def show_failures(airflow: Airflow, run_id: str) -> None:
    for task in airflow.tasks(DAG, run_id):
        if task["state"] == "failed":
            print(f"\n--- log of {task['task_id']}, try {task['try_number']} ---")
            print(airflow.log(DAG, run_id, task["task_id"], task["try_number"]))


def predict(example: dict[str, Any]) -> Any:
    """The model server's predictions for a table in pandas' split form.

    Raises NotInstalled with the server's answer when it gives none.
    """
    with port_forward("model-server") as url:
        answer = requests.post(f"{url}/invocations", json={"dataframe_split": example}, timeout=60)
        if not answer.ok:
            raise NotInstalled(f"the model server answered {answer.status_code}: {answer.text[:500]}")
        return answer.json()["predictions"]


def show_outcome(airflow: Airflow, run_id: str) -> None:
    score = airflow.result(DAG, run_id, "evaluate_model")
    deployed = airflow.result(DAG, run_id, "deploy_model")
    print(f"\nmodel            {deployed['model']} version {deployed['version']}, alias production")
    print(f"accuracy         {score['accuracy']:.4f}   (always the majority class: {score['baseline_accuracy']:.4f})")
    print(f"F1, AUC          {score['f1']:.4f}, {score['auc']:.4f}")
    if example := deployed["example"]:
        row = dict(zip(example["columns"], example["data"][0], strict=True))
        print(f"one prediction   {row} -> {predict(example)}")
    else:
        print("one prediction   none: the model server serves another model (modelServer.modelName)")


def show_addresses() -> None:
    password, user, key = (
        secret("airflow", "admin-password"),
        secret("minio", "root-user"),
        secret("minio", "root-password"),
    )
    print(f"""
Look at it: 'make ui' forwards these ports until Ctrl-C.
  Airflow   http://127.0.0.1:8080   admin / {password}
  MLflow    http://127.0.0.1:5000
  MinIO     http://127.0.0.1:9001   {user} / {key}""")


def main() -> int:
    started = time.monotonic()
    conf = {"dataset": os.environ.get("DATASET", "shuttle")}
    try:
        with port_forward("airflow-api-server") as url:
            airflow = Airflow(url)
            wait_until(
                lambda: DAG in {dag["dag_id"] for dag in airflow.call("GET", "/dags")["dags"]}, 120, f"{DAG} in Airflow"
            )
            run_id = airflow.trigger(DAG, conf)
            print(f"\n{DAG} on {conf['dataset']} ({run_id})")
            if watch(airflow, run_id) != "success":
                show_failures(airflow, run_id)
                print(
                    f"\nThe run failed after {time.monotonic() - started:.0f} s. "
                    f"The pod of a failed task stays for a while: kubectl -n {NAMESPACE} get pods",
                    file=sys.stderr,
                )
                return 1
            if airflow.result(DAG, run_id, "deploy_model") is None:
                score = airflow.result(DAG, run_id, "evaluate_model")
                print(f"\nThe model was not deployed: {'; '.join(score['reasons'])}")
            else:
                show_outcome(airflow, run_id)
    except (NotInstalled, TimeoutError, requests.RequestException) as error:
        print(f"error: {error}", file=sys.stderr)
        print(kubectl("get", "pods", check=False), file=sys.stderr)
        return 1
    show_addresses()
    print(f"\nFrom trigger to here {time.monotonic() - started:.0f} s; release {RELEASE} in namespace {NAMESPACE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
