"""ml_pipeline_dag on the installed platform: by outcome, through good data, bad data and faults."""

import json
import os
import subprocess
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import requests

from infrastructure.local.config import PID_FILE
from infrastructure.release import NAMESPACE, NotInstalled, kubectl, object_name, port_forward, wait_until
from tests.e2e.runs import finished, pods, running_pod, states, tasks, trained, versions

DAG = "ml_pipeline_dag"
MINUTES = 15  # that all tests here take
MODEL = "sensor-failure"
REPOSITORY = Path(__file__).resolve().parents[2]
ROW = {"columns": [f"f{i}" for i in range(1, 10)], "data": [[50, 21, 77, 0, 28, 0, 27, 48, 22]]}


def production(services):
    return services.mlflow.get_model_version_by_alias(MODEL, "production").version


def assert_trained_once(services, run_id):
    assert finished(services, run_id, DAG, hurried=True) == "success"
    runs = trained(services, run_id, DAG)
    assert len(runs) == 1
    assert len([version for version in versions(services, MODEL).values() if version.run_id == runs[0]]) == 1


@pytest.fixture(scope="module")
def deployed(services):
    """The id of a run that has put a model into production, whatever an earlier version of the code left there."""
    if MODEL in {model.name for model in services.mlflow.search_registered_models()}:
        services.mlflow.delete_registered_model_alias(MODEL, "production")
    run_id = services.airflow.trigger(DAG)
    assert finished(services, run_id, DAG) == "success"
    return run_id


def test_a_triggered_run_ends_with_a_served_model_that_beats_the_majority(services, deployed):
    assert set(states(services, deployed, DAG).values()) == {"success"}
    score = services.airflow.result(DAG, deployed, "evaluate_model")
    result = services.airflow.result(DAG, deployed, "deploy_model")
    assert score["passed"]
    assert score["accuracy"] > score["baseline_accuracy"]
    assert production(services) == result["version"]
    assert trained(services, deployed, DAG) == [versions(services, MODEL)[result["version"]].run_id]
    run = services.mlflow.get_run(trained(services, deployed, DAG)[0])
    raw = services.airflow.result(DAG, deployed, "download_data")
    assert raw["data_version"] in run.data.params.values()
    assert run.data.metrics
    with port_forward("model-server") as url:
        answer = requests.post(f"{url}/invocations", json={"dataframe_split": ROW}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"]) == 1


def test_logs_report_and_pods_are_where_the_readme_says(services, deployed):
    report = services.airflow.result(DAG, deployed, "validate_data")["report"]
    assert b"<html" in services.s3.get_object(Bucket="reports", Key=report)["Body"].read().lower()
    assert services.s3.list_objects_v2(Bucket="logs", Prefix=f"dag_id={DAG}")["KeyCount"] > 0
    assert "mlops.training" in services.airflow.log(DAG, deployed, "train_model", 1)
    # Pods of tasks that succeeded are gone.
    wait_until(lambda: not pods(deployed), 60, "the pods' removal")


def test_the_schedule_starts_a_run_by_itself(services, deployed, dag_file):
    """The same file under another name, due once in a moment: time enough for the file to be seen."""
    due = datetime.now(UTC) + timedelta(seconds=120)
    dag_id = f"ml_pipeline_at_{due:%H_%M}"
    source = (REPOSITORY / "dags/ml_pipeline_dag.py").read_text()
    assert 'cron("0 2 * * *")' in source
    source = source.replace('cron("0 2 * * *")', f'cron("{due.minute} {due.hour} * * *")')
    dag_file(dag_id, source.replace(f'dag_id="{DAG}"', f'dag_id="{dag_id}"'))

    def scheduled():
        try:
            runs = services.airflow.call("GET", f"/dags/{dag_id}/dagRuns", params={"order_by": "-run_after"})[
                "dag_runs"
            ]
        except requests.HTTPError:
            return None
        return runs[0] if runs and runs[0]["run_after"] >= due.strftime("%Y-%m-%dT%H:%M:00") else None

    run = wait_until(scheduled, 240, "a scheduled run", 1)
    assert run["run_type"] == "scheduled"
    assert finished(services, run["dag_run_id"], dag_id) == "success"
    assert len(trained(services, run["dag_run_id"], dag_id)) == 1


def test_a_backfill_makes_its_run_and_a_second_one_trains_nothing_twice(services, deployed):
    # A day of which this cluster has no run of an earlier test: that one would be left as it is.
    day = date(2001, 1, 1) + timedelta(days=int(time.time() / 60) % 8000)

    def backfill(behaviour):
        """Airflow takes one when the one before it is over, which it notes a moment after its last run."""
        place = ["exec", f"deployment/{object_name('airflow-scheduler')}", "-c", "scheduler", "--"]
        dates = ["--from-date", f"{day}", "--to-date", f"{day + timedelta(days=1)}"]

        def over():
            backfills = services.airflow.call("GET", "/backfills", params={"dag_id": DAG})["backfills"]
            return all(backfill["completed_at"] for backfill in backfills)

        wait_until(over, 180, "the end of the backfill before", 1)
        kubectl(*place, "airflow", "backfill", "create", "--dag-id", DAG, *dates, "--reprocess-behavior", behaviour)

    def runs():
        of_that_day = {"logical_date_gte": f"{day}T00:00:00Z", "logical_date_lte": f"{day}T23:59:59Z"}
        return services.airflow.call("GET", f"/dags/{DAG}/dagRuns", params=of_that_day)["dag_runs"]

    backfill("none")
    (run,) = wait_until(runs, 60, "a run of the backfill")
    run_id = run["dag_run_id"]
    assert run["run_type"] == "backfill"
    assert_trained_once(services, run_id)
    before = set(versions(services, MODEL))
    backfill("completed")
    wait_until(
        lambda: services.airflow.run(DAG, run_id)["state"] in ("queued", "running"),
        60,
        "the second backfill's start",
        0.2,
    )
    assert_trained_once(services, run_id)
    assert len(set(versions(services, MODEL)) - before) <= 1


FAULTS = {
    "wrong type": (
        lambda table: table.assign(f3=[f"n{value}" if i % 100 == 0 else value for i, value in enumerate(table.f3)]),
        "f3",
    ),
    "missing column": (lambda table: table.drop(columns="f5"), "f5"),
    "NaN label": (lambda table: table.assign(anomaly=table.anomaly.where(table.index % 50 != 0)), "anomaly"),
    "one class": (lambda table: table[table.anomaly == 0], "anomaly"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_data_stops_the_run_before_anything_is_trained(services, deployed, raw, fault):
    table, write = raw
    change, column = FAULTS[fault]
    write(change(table))
    before, alias = set(versions(services, MODEL)), production(services)
    run_id = services.airflow.trigger(DAG)
    assert finished(services, run_id, DAG) == "failed"
    task = tasks(services, run_id, DAG)
    assert task["validate_data"]["state"] == "failed"
    assert task["train_model"]["state"] == task["deploy_model"]["state"] == "upstream_failed"
    assert task["validate_data"]["try_number"] == 1, "the same data fails again: it is not tried again"
    assert column in services.airflow.log(DAG, run_id, "validate_data", 1)
    assert (set(versions(services, MODEL)), production(services)) == (before, alias)
    assert trained(services, run_id, DAG) == []


def test_a_worse_model_is_not_deployed_and_the_reasons_are_said(services, deployed, raw):
    table, write = raw
    write(table.assign(anomaly=table.anomaly.sample(frac=1, random_state=1).to_numpy()))
    before, alias = set(versions(services, MODEL)), production(services)
    run_id = services.airflow.trigger(DAG)
    assert finished(services, run_id, DAG) == "success"
    state = states(services, run_id, DAG)
    assert (state["deploy_model"], state["send_notification"]) == ("skipped", "success")
    score = services.airflow.result(DAG, run_id, "evaluate_model")
    assert score["passed"] is False
    assert score["reasons"]
    assert (set(versions(services, MODEL)), production(services)) == (before, alias)
    assert "not deployed" in services.airflow.log(DAG, run_id, "send_notification", 1)


def test_no_request_is_lost_while_the_model_server_is_rolled(services, deployed):
    """From a pod, through the Service: a port-forward would stay with one pod. Until its standard input ends."""
    program = """
import json, select, sys, urllib.request
body, good, bad = sys.argv[1].encode(), 0, []
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        request = urllib.request.Request(sys.argv[2], body, {"Content-Type": "application/json"})
        good += len(json.load(urllib.request.urlopen(request, timeout=10))["predictions"])
    except Exception as error:
        bad.append(repr(error))
print(json.dumps([good, bad]))
"""
    place = ["kubectl", "-n", NAMESPACE, "exec", "-i", f"deployment/{object_name('mlflow')}", "-c", "mlflow", "--"]
    url = f"http://{object_name('model-server')}:8080/invocations"
    command = [*place, "python", "-c", program, json.dumps({"dataframe_split": ROW}), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load:
        server = f"deployment/{object_name('model-server')}"
        kubectl("rollout", "restart", server)
        kubectl("rollout", "status", server, "--timeout=120s")
        output, _ = load.communicate(timeout=60)
    good, bad = json.loads(output)
    assert bad == []
    assert good > 50


def test_a_killed_task_pod_is_tried_again_and_trains_once(services, deployed):
    run_id = services.airflow.trigger(DAG)
    pod = running_pod(services, run_id, "train_model", DAG)
    kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
    assert_trained_once(services, run_id)
    assert tasks(services, run_id, DAG)["train_model"]["try_number"] == 2
    assert "deleted" in services.airflow.log(DAG, run_id, "train_model", 1)


def test_a_killed_scheduler_pod_loses_nothing_and_trains_once(services, deployed):
    run_id = services.airflow.trigger(DAG)
    running_pod(services, run_id, "train_model", DAG)
    scheduler = object_name("airflow-scheduler")
    kubectl(
        "delete",
        "pod",
        "-l",
        "app.kubernetes.io/component=airflow-scheduler",
        "--grace-period=0",
        "--force",
        "--wait=false",
    )
    wait_until(
        lambda: kubectl("get", f"deployment/{scheduler}", "-o", "jsonpath={.status.readyReplicas}") != "1",
        60,
        "the pod's end",
        0.1,
    )
    kubectl("rollout", "status", f"deployment/{scheduler}", "--timeout=240s")
    services.connect()
    assert_trained_once(services, run_id)


@pytest.mark.skipif(os.environ.get("CLUSTER", "local") != "local", reason="only the local node is ours to kill")
def test_the_whole_node_killed_mid_run_loses_nothing_and_trains_once(services, deployed):
    run_id = services.airflow.trigger(DAG)
    running_pod(services, run_id, "train_model", DAG)
    subprocess.run(["kill", "-9", PID_FILE.read_text().split()[0]], check=True)
    began = time.monotonic()
    subprocess.run(["make", "cluster-up"], check=True, stdin=subprocess.DEVNULL, cwd=REPOSITORY)
    took = time.monotonic() - began

    def reconnected():
        try:
            services.connect()
            return services.airflow.run(DAG, run_id)
        except (requests.RequestException, OSError, NotInstalled):
            return None

    wait_until(reconnected, 300, "Airflow's return", 2)
    assert_trained_once(services, run_id)
    assert took < 90, "with everything built it takes half a minute"
