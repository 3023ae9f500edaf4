"""Pods that have a second are replaced without anybody noticing: no request fails while the release is upgraded."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from infrastructure import install
from infrastructure.services import service
from tests.e2e.asking import TASK, asking_pod
from tests.e2e.disturb import ready, reconnect
from tests.e2e.test_pipeline import ROW
from tests.e2e.test_release import FILES
from tests.e2e.test_security_tls import OPENS

pytestmark = [
    pytest.mark.full,
    pytest.mark.alone,
    pytest.mark.skipif(os.environ.get("PROFILE") != "prod", reason="one pod of each cannot be replaced without a gap"),
]

# What is asked of each; the model server does its work, the others say that they could.
ASKED = {
    "airflow-api-server": "/api/v2/monitor/health",
    "mlflow": "/health",
    "feast": "/health",
    "model-server": "/invocations",
    "sensor-trainer": "/health",
}
# Of each another one, so that each has new pods.
CHANGED = {
    "airflow": {"config": {"core": {"max_active_runs_per_dag": "61"}}},
    **{key: {"resources": {"requests": {"cpu": "21m"}}} for key in ("mlflow", "feast", "modelServer", "sensorTrainer")},
}
# By Service, on a connection of its own each time, ten times a second, until a file is there.
PROGRAM = """
import json, pathlib, ssl, sys, threading, time, urllib.request
plain = ssl._create_unverified_context()  # who answers is another test's
targets, over = json.loads(sys.argv[1]), pathlib.Path("/tmp/over")
said = {name: {"asked": 0, "failed": [], "longest": 0} for name in targets}
def ask(name, address, body):
    found, headers = said[name], {"Content-Type": "application/json"}
    while not over.exists():
        begun = time.monotonic()
        try:
            request = urllib.request.Request(address, body, headers)
            with urllib.request.urlopen(request, timeout=30, context=plain) as answer:
                answer.read()
        except Exception as error:
            found["failed"].append(repr(error))
        took = time.monotonic() - begun
        found["asked"] += 1
        found["longest"] = max(found["longest"], round(took, 1))
        time.sleep(max(0, 0.1 - took))
threads = [
    threading.Thread(target=ask, args=(name, address, body.encode() if body else None))
    for name, (address, body) in targets.items()
]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(said))
"""


def targets():
    found = {}
    for component, path in ASKED.items():
        at = service(component)
        body = json.dumps({"dataframe_split": ROW}) if path == "/invocations" else None
        found[component] = (f"{at.scheme}://{at.name}:{at.port('http')}{path}", body)
    return found


def test_an_upgrade_that_replaces_all_of_them_loses_no_request(services, tmp_path, record_property):
    values = tmp_path / "changed.yaml"
    values.write_text(json.dumps(CHANGED))
    before = {component: ready(component) for component in ASKED}
    assert {component for component, pods in before.items() if len(pods) < 2} == set()
    labels = {**TASK, "app.kubernetes.io/component": "feast-test", **OPENS}
    try:
        with asking_pod("asks-all-the-time", labels) as run, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(run, PROGRAM, json.dumps(targets()))
            begun = time.monotonic()
            try:
                assert install.main([*FILES, str(values)]) == 0
            finally:
                record_property("seconds of the upgrade", round(time.monotonic() - begun))
                run("open('/tmp/over', 'w')")
            said = json.loads(asked.result())
    finally:
        assert install.main([*FILES]) == 0
        reconnect(services)
    record_property("requests", {name: (each["asked"], each["longest"]) for name, each in said.items()})
    assert {component for component in ASKED if ready(component) & before[component]} == set()
    assert {name: each["failed"] for name, each in said.items() if each["failed"]} == {}
    assert all(each["asked"] > 100 for each in said.values())
