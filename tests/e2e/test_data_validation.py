"""data_validation_pipeline on the installed platform: it names what is wrong, and nothing else."""

import json
import time

import pytest
import requests

from infrastructure.release import wait_until
from tests.e2e.conftest import held
from tests.e2e.runs import clear, finished, states, tasks

DAG = "data_validation_pipeline"
REFERENCE = "reference/adult/sketch.parquet"
CONF = {"dataset": "adult"}  # which no schedule reads
NEWEST = 0.2  # of the rows, where they have no times


def validated(services):
    run_id = services.airflow.trigger(DAG, CONF)
    return run_id, finished(services, run_id, DAG)


@pytest.fixture(scope="module")
def good(services, run_folder):
    """The id of the first run over a set, which makes the reference."""
    with held(run_folder):
        services.s3.delete_object(Bucket="data", Key=REFERENCE)
        run_id, state = validated(services)
    assert state == "success"
    yield run_id
    services.s3.delete_object(Bucket="data", Key=REFERENCE)


def newest(table):
    return table.index[-int(len(table) * NEWEST) :]


def report(services, run_id):
    """A run's report as its JSON says, and the page beside it."""
    listed = services.s3.list_objects_v2(Bucket="reports", Prefix=f"{DAG}/").get("Contents", [])
    keys = [entry["Key"] for entry in sorted(listed, key=lambda entry: entry["LastModified"], reverse=True)]
    for key in [key for key in keys if key.endswith("report.json")]:
        document = json.loads(services.s3.get_object(Bucket="reports", Key=key)["Body"].read())
        if document["run"] == run_id:
            page = services.s3.get_object(Bucket="reports", Key=key.replace(".json", ".html"))["Body"].read().decode()
            return document, page
    pytest.fail(f"no report of {run_id}")


def test_a_good_window_has_a_report_and_no_alert(services, good):
    assert set(states(services, good, DAG).values()) == {"success"}
    assert services.airflow.result(DAG, good, "detect_drift")["drifted"] == []
    _, page = report(services, good)
    assert "<html" in page.lower()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_a_shifted_column_is_named_and_no_other_and_people_are_told_once(services, good, raw):
    table, write = raw
    table.loc[newest(table), "age"] += 15
    table.loc[table.index[0], "fnlwgt"] = int(time.time())  # of these very rows people may have been told before
    write(table)
    run_id, state = validated(services)
    assert state == "success", "drift is told of and fails no run"
    assert services.airflow.result(DAG, run_id, "detect_drift")["drifted"] == ["age"]
    assert services.airflow.result(DAG, run_id, "generate_report")["notified"] >= 1
    clear(services, run_id, DAG, ["generate_report"])
    wait_until(lambda: tasks(services, run_id, DAG)["generate_report"]["try_number"] == 2, 120, "the second report")
    assert finished(services, run_id, DAG) == "success"
    assert services.airflow.result(DAG, run_id, "generate_report")["notified"] == 0, (
        "no alert twice for the same window"
    )


def test_bad_quality_fails_the_run_after_its_report(services, good, raw):
    table, write = raw
    table.loc[newest(table)[:100], "age"] = 1000
    write(table)
    run_id, state = validated(services)
    assert state == "failed"
    state = states(services, run_id, DAG)
    assert (state["validate_schema"], state["check_quality"]) == ("success", "failed")
    assert state["detect_drift"] == state["detect_anomalies"] == "upstream_failed"
    _, page = report(services, run_id)
    assert "age" in page
    assert "age" in services.airflow.log(DAG, run_id, "generate_report", 1)
    links = services.airflow.call("GET", f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/generate_report/links")
    address = services.airflow.url + links["extra_links"]["Report"]
    assert services.airflow.session.get(address, timeout=30).text == page, "one click from the task that failed"
    assert requests.get(address, timeout=30).status_code == 401, "not for strangers"


@pytest.mark.full
def test_a_missing_column_is_named(services, good, raw):
    table, write = raw
    write(table.drop(columns="education"))
    run_id, state = validated(services)
    assert state == "failed"
    assert states(services, run_id, DAG)["validate_schema"] == "failed"
    assert "education" in services.airflow.log(DAG, run_id, "validate_schema", 1)
    report(services, run_id)
