"""ml_pipeline_dag on the installed platform: by outcome, through good data, bad data and faults."""

import json
import subprocess
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import requests

from infrastructure import commands
from infrastructure.release import NAMESPACE, kubectl, object_name, wait_until
from infrastructure.services import port_forward, service
from tests.e2e.asking import TASK, asking_pod
from tests.e2e.conftest import placed_dags
from tests.e2e.disturb import KILLED, be_away_for_a_minute, reconnect, replaced
from tests.e2e.runs import assert_trained_once, finished, pods, running_pod, states, tasks, trained, versions

DAG = "ml_pipeline_dag"
MODEL = "sensor-failure"
REPOSITORY = Path(__file__).resolve().parents[2]
ROW = {"columns": [f"f{i}" for i in range(1, 10)], "data": [[50, 21, 77, 0, 28, 0, 27, 48, 22]]}


def without_champion(services, model):
    """Takes a model out of production, whatever an earlier version of the code left there, and writes that down."""
    if model in {known.name for known in services.mlflow.search_registered_models()}:
        services.mlflow.delete_registered_model_alias(model, "production")
        commands.run("registry", "adopt", f"--model={model}", "--why=a test begins without a champion")


@pytest.fixture(scope="module")
def triggered(services):
    """The id of a run that is to put a model into production."""
    without_champion(services, MODEL)
    return services.airflow.trigger(DAG)


@pytest.fixture(scope="module")
def deployed(services, triggered):
    """The id of a run that has put a model into production."""
    assert finished(services, triggered, DAG) == "success"
    return triggered


@pytest.fixture(scope="module")
def scheduled(services, triggered):
    """The id of a DAG that is the same file under another name, and when it is due: once the file was seen.

    Of two runs at one time the slower one would not be deployed, so the triggered one begins minutes before.
    """
    due = datetime.now(UTC) + timedelta(seconds=120)
    dag_id = f"ml_pipeline_at_{due:%H_%M}"
    source = (REPOSITORY / "dags/ml_pipeline_dag.py").read_text()
    assert 'cron("0 2 * * *")' in source
    source = source.replace('cron("0 2 * * *")', f'cron("{due.minute} {due.hour} * * *")')
    with placed_dags(services, [dag_id], source.replace(f'dag_id="{DAG}"', f'dag_id="{dag_id}"')):
        yield dag_id, due


def test_a_triggered_run_ends_with_a_served_model_that_beats_the_majority(services, scheduled, deployed):
    assert set(states(services, deployed, DAG).values()) == {"success"}
    score = services.airflow.result(DAG, deployed, "evaluate_model")
    result = services.airflow.result(DAG, deployed, "deploy_model")
    assert score["passed"]
    assert score["accuracy"] > score["baseline_accuracy"]
    version = services.mlflow.get_model_version_by_alias(MODEL, "production")
    of_run = services.mlflow.get_run(version.run_id).data.tags["maestro.dag_run_id"]
    assert of_run == deployed or of_run.startswith("scheduled__"), "only the schedule deploys beside this module"
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


def test_the_schedule_starts_a_run_by_itself(services, scheduled, deployed):
    dag_id, due = scheduled

    def started():
        runs = services.airflow.call("GET", f"/dags/{dag_id}/dagRuns", params={"order_by": "-run_after"})["dag_runs"]
        return runs[0] if runs and runs[0]["run_after"] >= due.strftime("%Y-%m-%dT%H:%M:00") else None

    run = wait_until(started, 240, "a scheduled run", 1)
    assert run["run_type"] == "scheduled"
    assert finished(services, run["dag_run_id"], dag_id) == "success"
    assert len(trained(services, run["dag_run_id"], dag_id)) == 1


def test_a_backfill_makes_its_run_and_a_second_one_trains_nothing_twice(services, deployed):
    # A day of which this cluster has no run of an earlier test: that one would be left as it is.
    day = date(2001, 1, 1) + timedelta(days=int(time.time() / 60) % 8000)

    def backfill(behaviour):
        """Airflow takes one when the one before it is over, which it notes a moment after its last run."""
        place = ["exec", object_name("deployment", "airflow-scheduler"), "-c", "scheduler", "--"]
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
    assert finished(services, run_id, DAG, hurried=True) == "success"
    backfill("completed")
    wait_until(
        lambda: services.airflow.run(DAG, run_id)["state"] in ("queued", "running"),
        60,
        "the second backfill's start",
        0.2,
    )
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert_trained_once(services, run_id, DAG, MODEL)


INCOME = "income"  # whose data set no schedule reads: it is nobody's but these tests'
OF_INCOME = {"model": INCOME}


def words(column):
    """The numbers of a column, each hundredth of them a word."""
    return [f"n{value}" if place % 100 == 0 else str(value) for place, value in enumerate(column)]


FAULTS = {
    "wrong type": (lambda table: table.assign(age=words(table.age)), "age"),
    "missing column": (lambda table: table.drop(columns="education"), "education"),
    "no label": (lambda table: table.assign(income=table.income.where(table.index % 50 != 0)), "income"),
    "one class": (lambda table: table[table.income == "<=50K"], "income"),
}
IN_THE_GATE = "wrong type"


@pytest.mark.parametrize(
    "fault", [fault if fault == IN_THE_GATE else pytest.param(fault, marks=pytest.mark.full) for fault in FAULTS]
)
def test_bad_data_stops_the_run_before_anything_is_trained(services, raw, fault):
    table, write = raw
    change, column = FAULTS[fault]
    write(change(table))
    before = set(versions(services, INCOME))
    run_id = services.airflow.trigger(DAG, OF_INCOME)
    assert finished(services, run_id, DAG) == "failed"
    task = tasks(services, run_id, DAG)
    assert task["validate_data"]["state"] == "failed"
    assert task["train_model"]["state"] == task["deploy_model"]["state"] == "upstream_failed"
    assert task["validate_data"]["try_number"] == 1, "the same data fails again: it is not tried again"
    assert column in services.airflow.log(DAG, run_id, "validate_data", 1)
    assert set(versions(services, INCOME)) == before
    assert trained(services, run_id, DAG) == []


def test_a_worse_model_is_not_deployed_and_the_reasons_are_said(services, raw):
    table, write = raw
    write(table.assign(income=table.income.sample(frac=1, random_state=1).to_numpy()))
    before = set(versions(services, INCOME))
    run_id = services.airflow.trigger(DAG, OF_INCOME)
    assert finished(services, run_id, DAG) == "success"
    state = states(services, run_id, DAG)
    assert (state["deploy_model"], state["send_notification"]) == ("skipped", "success")
    score = services.airflow.result(DAG, run_id, "evaluate_model")
    assert score["passed"] is False
    assert score["reasons"]
    assert set(versions(services, INCOME)) == before
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
    caller = "asks-the-model-server"
    served = service("model-server")
    url = f"http://{served.name}:{served.port('http')}/invocations"
    command = ["kubectl", "-n", NAMESPACE, "exec", "-i", caller, "--", "python", "-c", program]
    command += [json.dumps({"dataframe_split": ROW}), url]
    with (
        asking_pod(caller, {**TASK, "maestro/opens-model-server": "true"}),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load,
    ):
        server = object_name("deployment", "model-server")
        kubectl("rollout", "restart", server)
        kubectl("rollout", "status", server, "--timeout=120s")
        output, _ = load.communicate(timeout=60)
    good, bad = json.loads(output)
    assert bad == []
    assert good > 50


@pytest.mark.full
def test_a_killed_task_pod_is_tried_again_and_trains_once(services, deployed):
    run_id = services.airflow.trigger(DAG)
    pod = running_pod(services, run_id, "train_model", DAG)
    kubectl("delete", "pod", pod, *KILLED, "--wait=false")
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert_trained_once(services, run_id, DAG, MODEL)
    assert tasks(services, run_id, DAG)["train_model"]["try_number"] == 2
    assert "deleted" in services.airflow.log(DAG, run_id, "train_model", 1)


@pytest.mark.full
def test_a_killed_scheduler_pod_loses_nothing_and_trains_once(services, deployed):
    run_id = services.airflow.trigger(DAG)
    running_pod(services, run_id, "train_model", DAG)
    with replaced("airflow-scheduler", *KILLED):
        pass
    reconnect(services)
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert_trained_once(services, run_id, DAG, MODEL)


@pytest.mark.full
def test_minio_away_for_a_minute_fails_no_run_and_it_trains_once(services, deployed):
    run_id = services.airflow.trigger(DAG)
    running_pod(services, run_id, "train_model", DAG)
    be_away_for_a_minute("minio")
    reconnect(services)
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert_trained_once(services, run_id, DAG, MODEL)
