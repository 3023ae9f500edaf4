"""What Prometheus sees of the installed platform: each service, each rule, and what tasks measure."""

from contextlib import suppress

import pytest
import requests

from infrastructure import dashboard
from infrastructure.release import wait_until
from infrastructure.services import port_forward
from tests.e2e.runs import finished

DAG = "data_validation_pipeline"
CONF = {"dataset": "shuttle"}


@pytest.fixture(scope="module")
def url():
    with port_forward("prometheus") as url:
        yield url


@pytest.fixture(scope="module")
def prometheus(url):
    return lambda path, **asked: requests.get(f"{url}/api/v1/{path}", params=asked, timeout=30).json()["data"]


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


@pytest.fixture
def asked():
    """Each service that answers people has been asked: a latency of the last hour is one of requests."""
    features = {"entities": {"machine": ["shuttle"]}, "features": ["sensor_windows:f1"]}
    for component, path, body in (
        ("model-server", "invocations", {}),
        ("feast", "get-online-features", features),
        ("sensor-trainer", "predict", {}),
    ):
        with port_forward(component) as url:
            requests.post(f"{url}/{path}", json=body, timeout=60)


@pytest.mark.usefixtures("asked")
def test_every_panel_is_answered_and_has_data_after_make_demo(url, tmp_path):
    """But those that say why they need not have any (noValue)."""
    assert dashboard.draw(url, tmp_path / "page.html") == [], "no query is in error"

    def empty():
        prometheus = dashboard.Prometheus.at(url)
        return [
            (one["title"], panel["title"])
            for one in dashboard.dashboards()
            for panel in one["panels"]
            if "noValue" not in panel["fieldConfig"]["defaults"] and not dashboard.series(prometheus, panel)
        ]

    with suppress(TimeoutError):  # a service is asked for its numbers every 30 s
        wait_until(lambda: not empty(), 180, "data of every panel", 20)
    assert empty() == []
