"""What Prometheus sees of the installed platform: each service, each rule, and what tasks measure."""

import pytest
import requests

from infrastructure.release import wait_until
from infrastructure.services import port_forward
from tests.e2e.runs import finished

DAG = "data_validation_pipeline"
CONF = {"dataset": "shuttle"}


@pytest.fixture(scope="module")
def prometheus():
    with port_forward("prometheus") as url:
        yield lambda path, **asked: requests.get(f"{url}/api/v1/{path}", params=asked, timeout=30).json()["data"]


def test_each_service_is_asked_and_no_rule_is_in_error(prometheus):
    def up():
        targets = prometheus("targets")["activeTargets"]
        return {target["labels"]["job"] for target in targets if target["health"] == "up"}

    # A pod that was replaced a moment ago is asked for a while.
    expected = {
        *(
            "alertmanager",
            "feast",
            "minio",
            "mlflow",
            "model-server",
            "pod-states",
            "postgresql-exporter",
            "prometheus",
        ),
        *("pushgateway", "redis-exporter", "sensor-trainer", "statsd"),
    }
    wait_until(lambda: expected <= up(), 180, "an answer of each service to Prometheus", 2)
    rules = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 25
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] == "err"] == []


def test_what_a_task_took_and_how_many_records_its_pod_processed_are_known(services, prometheus):
    run_id = services.airflow.trigger(DAG, CONF)
    assert finished(services, run_id, DAG) == "success"
    known = {
        "duration": f'airflow_task_duration_count{{dag_id="{DAG}", task_id="select_window"}} > 0',
        "finish": f'airflow_ti_finish{{dag_id="{DAG}", task_id="select_window", state="success"}} > 0',
        "records": f'maestro_command_records_total{{dag_id="{DAG}", run_id="{run_id}"}} > 0',
        "seconds": f'maestro_command_seconds_total{{task_id="generate_report", run_id="{run_id}"}} > 0',
    }
    for name, query in known.items():
        wait_until(lambda query=query: prometheus("query", query=query)["result"], 120, f"the {name} of {run_id}", 2)
