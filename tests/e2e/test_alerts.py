"""Something breaks for real: the right alert, and only it, reaches a receiver in its time, and is over in its time."""

import json
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import pytest

from infrastructure import install
from infrastructure.release import find, kubectl, wait_until
from infrastructure.services import port_forward, session
from tests.e2e.conftest import placed_dags
from tests.e2e.disturb import away, reconnect
from tests.e2e.runs import finished, states
from tests.e2e.test_release import FILES

pytestmark = pytest.mark.full

RECEIVER = "alert-receiver"
LABELS = {"app.kubernetes.io/name": RECEIVER}
# Seconds, as docs/operations.md says: beside an alert's own time, that of scraping, looking and waiting for others; and
# what this machine may take to answer.
ON_THE_WAY, OVER, SLACK = 90, 120, 30
FAILING, FULL, POOL = "e2e_failing", "e2e_full", "e2e-full"
SOURCE = f'''
import time

from airflow.sdk import DAG, task

with DAG("{FAILING}", schedule=None, params={{"fails": True}}, tags=["e2e"]):

    @task
    def fail(params=None):
        if params["fails"]:
            raise RuntimeError("as it was asked to")

    fail()

with DAG("{FULL}", schedule=None, tags=["e2e"]):

    @task(pool="{POOL}")
    def hold():
        time.sleep(3600)

    hold.override(task_id="first")()
    hold.override(task_id="second")()
'''
# Prints what it is sent, a message a line.
PROGRAM = """
import http.server
import sys


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        sys.stdout.write(self.rfile.read(int(self.headers["Content-Length"])).decode().replace("\\n", " ") + "\\n")
        sys.stdout.flush()
        self.send_response(200)
        self.end_headers()

    def log_message(self, *said):
        pass


http.server.ThreadingHTTPServer(("", 8080), Receiver).serve_forever()
"""


def manifest():
    (container,) = find("deployment", "model-server")["spec"]["template"]["spec"]["containers"]
    pod = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "receiver",
                "image": container["image"],
                "command": ["python", "-c", PROGRAM],
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                "securityContext": container["securityContext"],
                "resources": {"requests": {"cpu": "1m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            }
        ],
    }
    port = {"port": 8080}
    service = {"kind": "Service", "metadata": {"name": RECEIVER}, "spec": {"selector": LABELS, "ports": [port]}}
    receiver = {"kind": "Pod", "metadata": {"name": RECEIVER, "labels": LABELS}, "spec": pod}
    return "\n---\n".join(json.dumps({"apiVersion": "v1", **each}) for each in (receiver, service))


@pytest.fixture(scope="module")
def receiver(tmp_path_factory):
    """All alerts that Alertmanager has told of since a moment: (name, labels, status), oldest first."""
    webhook = {"url": f"http://{RECEIVER}:8080", "send_resolved": True}
    routed = {
        "receivers": [{"name": RECEIVER, "webhook_configs": [webhook]}],
        "routes": [{"receiver": RECEIVER, "continue": True}],
    }
    values = tmp_path_factory.mktemp("values") / "receiver.yaml"
    way = {"to": [{"podSelector": {"matchLabels": LABELS}}], "ports": [{"port": 8080}]}
    policies = {"networkPolicies": {"egress": {"alertmanager": [way]}}}
    values.write_text(json.dumps({"global": policies, "monitoring": {"alertmanager": routed}}))
    kubectl("apply", "-f", "-", stdin=manifest())
    kubectl("wait", "--for=condition=Ready", f"pod/{RECEIVER}", "--timeout=120s")
    assert install.main([*FILES, str(values)]) == 0

    def alerts(since):
        messages = map(json.loads, kubectl("logs", RECEIVER, f"--since-time={since.isoformat()}").splitlines())
        found = [alert for message in messages for alert in message["alerts"]]
        return [(alert["labels"]["alertname"], frozenset(alert["labels"].items()), alert["status"]) for alert in found]

    yield alerts
    assert install.main([*FILES]) == 0
    kubectl("delete", "pod,service", RECEIVER, "--wait=false")


@pytest.fixture(scope="module")
def waiting(services, receiver):
    """The run of a pool that is full from now on, and since when."""
    services.airflow.call("POST", "/pools", json={"name": POOL, "slots": 1, "include_deferred": False})
    with placed_dags(services, [FAILING, FULL], SOURCE):
        run_id = services.airflow.trigger(FULL)
        try:
            wait_until(lambda: "running" in states(services, run_id, FULL).values(), 120, "a task that holds the pool")
            yield run_id, time.monotonic()
        finally:
            end(services, run_id)
    services.airflow.call("DELETE", f"/pools/{POOL}")


def end(services, run_id):
    """Ends a run and its tasks, which give their slots back."""
    services.airflow.call("PATCH", f"/dags/{FULL}/dagRuns/{run_id}", json={"state": "success"})


@pytest.fixture
def told(receiver, record_property):
    """Within the block something is broken, and mended at its end: this alert is told of, and none beside it.

    own_seconds: the alert's own time from now on. What is said already is not of it.
    """

    @contextmanager
    def told(name, own_seconds):
        with port_forward("prometheus") as url:
            alerts = session().get(f"{url}/api/v1/alerts", timeout=30).json()["data"]["alerts"]
        said = {frozenset(alert["labels"].items()) for alert in alerts}
        since = datetime.now(UTC)

        def heard():
            return [each for each in receiver(since) if each[1] not in said]

        def told_last(status, seconds, what):
            begun = time.monotonic()
            wait_until(
                lambda: [found for alert, _, found in heard() if alert == name][-1:] == [status],
                seconds + SLACK,
                f"the message that {name} {what}",
                1,
            )
            record_property(f"{name} {what}", f"told after {time.monotonic() - begun:.0f} s of {seconds:.0f}")

        yield partial(told_last, "firing", own_seconds + ON_THE_WAY, "fires")
        told_last("resolved", OVER, "is over")
        assert {alert for alert, _, _ in heard()} == {name}

    return told


def test_a_dag_that_fails(services, waiting, told):
    with told("DagRunFailed", 0) as arrived:
        assert finished(services, services.airflow.trigger(FAILING), FAILING) == "failed"
        arrived()
        assert finished(services, services.airflow.trigger(FAILING, {"fails": False}), FAILING) == "success"


def test_a_pool_that_is_full(services, waiting, told):
    """Its alert comes where a task has waited for ten minutes, and that for a minute."""
    run_id, since = waiting
    with told("PoolStarved", since + 660 - time.monotonic()) as arrived:
        arrived()
        end(services, run_id)


def test_an_online_store_that_is_away(told):
    with told("RedisDown", 60) as arrived, away("redis", kind="statefulset"):
        arrived()


def test_a_scheduler_that_is_stopped(services, told):
    """Nothing for 90 s, and that for a minute. Runs that are late meanwhile are not told of."""
    with told("AirflowSchedulerSilent", 150) as arrived, away("airflow-scheduler"):
        arrived()
    reconnect(services)  # Airflow's API is in the same pod
