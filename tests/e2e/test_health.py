"""monitoring_dag on the installed platform: a DAG that fails is in its report by name, and its user may only read."""

import base64
import json
import re
from datetime import UTC, datetime

import pytest
import requests

from infrastructure.release import find, kubectl
from infrastructure.services import port_forward
from tests.e2e.conftest import placed_dags
from tests.e2e.runs import finished

DAG = "monitoring_dag"
# Of this session alone: what failed before is known, and not told of again.
BROKEN = f"e2e_unwell_{datetime.now(UTC):%H_%M_%S}"
SOURCE = f'''
from datetime import timedelta

from airflow.sdk import DAG

from mlops.airflow.authoring.operator import task_pod

with DAG("{BROKEN}", schedule=None, default_args={{"retries": 0}}, tags=["e2e"]):
    task_pod("read", "data-quality", "validate", dataset="no-such-set", data="none", timeout=timedelta(minutes=5))
'''


@pytest.fixture(scope="module")
def run(services):
    """A run that looked after a placed DAG had failed twice."""
    with placed_dags(services, [BROKEN], SOURCE):
        for _ in range(2):
            assert finished(services, services.airflow.trigger(BROKEN), BROKEN) == "failed"
        run_id = services.airflow.trigger(DAG)
        assert finished(services, run_id, DAG) == "success"
        yield run_id


def test_a_dag_that_fails_is_in_the_report_by_name_with_its_error_and_node(services, run):
    key = services.airflow.result(DAG, run, "generate_health_report")["report_json"]
    report = json.loads(services.s3.get_object(Bucket="reports", Key=key)["Body"].read())
    assert "broke" not in report["checks"].values(), report["unseen"]
    (incident,) = [each for each in report["incidents"] if each["subject"] == BROKEN]
    assert "2 runs in a row failed" in incident["text"] and "no-such-set" in incident["text"]
    assert re.search(r"each time on node \S+", incident["text"])
    page = services.s3.get_object(Bucket="reports", Key=key.replace(".json", ".html"))["Body"].read().decode()
    assert BROKEN in page
    assert re.search(rf"^dags/{BROKEN}/runs/[^/]+/tasks/read\?try_number=\d+$", incident["links"][0][1])
    assert report["findings"]["components"]["prometheus"], report["unseen"]


def test_people_were_told_of_it(services, run):
    assert services.airflow.result(DAG, run, "send_alerts")["told"] >= 1
    assert f"{BROKEN}, failing:" in services.airflow.log(DAG, run, "send_alerts", 1)


def test_the_user_by_whom_it_reads_may_change_nothing(services):
    secret = find("service", "airflow-api-server")["metadata"]["annotations"]["maestro/secret-name"]
    data = json.loads(kubectl("get", "secret", secret, "-o", "json"))["data"]
    login = {"username": "monitoring", "password": base64.b64decode(data["read-only-password"]).decode()}
    with port_forward("airflow-api-server") as url:
        token = requests.post(f"{url}/auth/token", json=login, timeout=30).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        assert requests.get(f"{url}/api/v2/dags", headers=headers, timeout=30).ok
        pause = requests.patch(f"{url}/api/v2/dags/{DAG}", json={"is_paused": True}, headers=headers, timeout=30)
        assert pause.status_code == 403
        assert requests.get(f"{url}/api/v2/connections", headers=headers, timeout=30).status_code == 403
        assert requests.get(f"{url}/api/v2/variables", headers=headers, timeout=30).status_code == 403
