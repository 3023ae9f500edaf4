"""data_validation_pipeline on the installed platform: it names what is wrong, and nothing else."""

import json

import pytest
import requests

from tests.e2e.runs import finished, states

DAG = "data_validation_pipeline"
MINUTES = 6
REFERENCE = "reference/shuttle.parquet"
WINDOW_ROWS = 24 * 60  # a reading a minute


@pytest.fixture
def one_population(services, raw):
    """The set in another order: its newest day is of the same population as its reference. And what writes one."""
    table, write = raw
    services.s3.delete_object(Bucket="data", Key=REFERENCE)
    mixed = table.sample(frac=1, random_state=3).reset_index(drop=True)
    write(mixed)
    yield mixed, write
    services.s3.delete_object(Bucket="data", Key=REFERENCE)


def report(services, run_id):
    """A run's report as its JSON says, and the page beside it."""
    listed = services.s3.list_objects_v2(Bucket="reports", Prefix=f"{DAG}/").get("Contents", [])
    keys = [entry["Key"] for entry in sorted(listed, key=lambda entry: entry["LastModified"])]
    newest = [key for key in keys if key.endswith("report.json")][-1]
    document = json.loads(services.s3.get_object(Bucket="reports", Key=newest)["Body"].read())
    assert document["run"] == run_id
    page = services.s3.get_object(Bucket="reports", Key=newest.replace(".json", ".html"))["Body"].read().decode()
    return document, page


def test_a_good_window_has_a_report_and_no_alert(services, one_population):
    run_id = services.airflow.trigger(DAG)
    assert finished(services, run_id, DAG) == "success"
    assert set(states(services, run_id, DAG).values()) == {"success"}
    assert services.airflow.result(DAG, run_id, "detect_drift")["drifted"] == []
    _, page = report(services, run_id)
    assert "<html" in page.lower()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_a_shifted_column_is_named_and_no_other(services, one_population):
    mixed, write = one_population
    assert finished(services, services.airflow.trigger(DAG), DAG) == "success"  # makes the reference
    shifted = mixed.copy()
    shifted.loc[shifted.index[-WINDOW_ROWS:], "f3"] += 15
    write(shifted)
    run_id = services.airflow.trigger(DAG)
    assert finished(services, run_id, DAG) == "success", "drift is told of and fails no run"
    assert services.airflow.result(DAG, run_id, "detect_drift")["drifted"] == ["f3"]
    result = services.airflow.result(DAG, run_id, "generate_report")
    assert result["told"] >= 1
    again = services.airflow.trigger(DAG)
    assert finished(services, again, DAG) == "success"
    assert services.airflow.result(DAG, again, "generate_report")["told"] == 0, "no alert twice for the same window"


def test_bad_quality_fails_the_run_after_its_report(services, one_population):
    mixed, write = one_population
    broken = mixed.copy()
    broken.loc[broken.index[-100:], "f1"] = 100_000
    write(broken)
    run_id = services.airflow.trigger(DAG)
    assert finished(services, run_id, DAG) == "failed"
    state = states(services, run_id, DAG)
    assert (state["validate_schema"], state["check_quality"]) == ("success", "failed")
    assert state["detect_drift"] == state["detect_anomalies"] == "upstream_failed"
    _, page = report(services, run_id)
    assert "f1" in page
    assert "f1" in services.airflow.log(DAG, run_id, "generate_report", 1)
    links = services.airflow.call("GET", f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/generate_report/links")
    address = services.airflow.url + links["extra_links"]["Report"]
    assert services.airflow.session.get(address, timeout=30).text == page, "one click from the task that failed"
    assert requests.get(address, timeout=30).status_code == 401, "not for strangers"


def test_a_missing_column_is_named(services, one_population):
    mixed, write = one_population
    write(mixed.drop(columns="f5"))
    run_id = services.airflow.trigger(DAG)
    assert finished(services, run_id, DAG) == "failed"
    assert states(services, run_id, DAG)["validate_schema"] == "failed"
    assert "f5" in services.airflow.log(DAG, run_id, "validate_schema", 1)
    report(services, run_id)
