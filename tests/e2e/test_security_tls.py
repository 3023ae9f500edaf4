"""An upgrade to TLS, with what runs on it, and one back: each replaces all pods."""

import json

import pytest

from infrastructure.release import NAMESPACE, RELEASE, kubectl, object_name
from infrastructure.services import service
from tests.e2e.asking import TASK, asking_pod
from tests.e2e.disturb import reconnect
from tests.e2e.runs import finished, states
from tests.e2e.test_pipeline import DAG
from tests.e2e.test_release import VALUES, helm, secrets

pytestmark = [pytest.mark.full, pytest.mark.alone]

UPGRADE = ("upgrade", RELEASE, "charts/maestro", "-n", NAMESPACE, *VALUES, "--wait", "--timeout", "15m")
OPENS = {f"maestro/opens-{need}": "true" for need in ("mlflow", "model-server", "airflow", "sensor-trainer", "s3")}
# Asked in the clear, and by TLS without the authority: of each what became of it.
ASK = """
import json, ssl, sys, urllib.error, urllib.request
said = {}
for name, address in json.loads(sys.argv[1]).items():
    for scheme in ("http", "https"):
        try:
            with urllib.request.urlopen(f"{scheme}://{address}/", timeout=20) as answer:
                said[f"{name} {scheme}"] = str(answer.status)
        except urllib.error.HTTPError as error:
            said[f"{name} {scheme}"] = str(error.code)
        except Exception as error:
            said[f"{name} {scheme}"] = repr(error)
print(json.dumps(said))
"""
WEB = {"mlflow": "http", "model-server": "http", "airflow-api-server": "http", "sensor-trainer": "http", "minio": "api"}


def test_the_platform_goes_over_to_tls_works_and_goes_back(services):
    before = secrets(NAMESPACE)
    try:
        helm(*UPGRADE, "--set", "global.tls.enabled=true")
        reconnect(services)
        check_tls()
        assert helm("test", RELEASE, "-n", NAMESPACE).count("Phase:          Succeeded") == 9
        run_id = services.airflow.trigger(DAG)
        assert finished(services, run_id, DAG) == "success"
        assert set(states(services, run_id, DAG).values()) == {"success"}
        generations = deployed()
        helm(*UPGRADE, "--set", "global.tls.enabled=true")
        assert deployed() == generations, "an upgrade with certificates that hold starts nothing anew"
    finally:
        helm(*UPGRADE)
        reconnect(services)
    assert {name: data for name, data in secrets(NAMESPACE).items() if name in before} == before
    assert helm("test", RELEASE, "-n", NAMESPACE).count("Phase:          Succeeded") == 9


def check_tls():
    """Who asks in the clear, or without the authority, gets nowhere; PostgreSQL and Redis refuse too."""
    addresses = {}
    for component, port in WEB.items():
        found = service(component)
        assert found.scheme == "https"
        addresses[component] = f"{found.name}:{found.port(port)}"
    with asking_pod("asks-in-the-clear", {**TASK, **OPENS}) as run:
        said = json.loads(run(ASK, json.dumps(addresses)))
    assert said
    for what, end in said.items():
        if what.endswith(" https"):
            assert "CERTIFICATE_VERIFY" in end, f"{what}: {end}"
        else:
            # Go says 400 to who speaks no TLS; the others hang up.
            assert end == "400" or not end.isdigit(), f"{what}: {end}"

    def inside(component, command):
        return kubectl("exec", object_name("statefulset", component), "--", "sh", "-c", f"{command} 2>&1 || true")

    clear = "psql 'postgresql://airflow@127.0.0.1/airflow?sslmode=disable' -c 'select 1'"
    assert "no encryption" in inside("postgresql", clear)
    assert inside("redis", "redis-cli ping").strip() == "PONG"
    assert "PONG" not in inside("redis", "/usr/bin/redis-cli ping")


def deployed():
    """The template of each workload: another one where its pods are replaced.

    The dag-processor's is another one with each upgrade: it waits for the settings of that one.
    """
    items = json.loads(kubectl("get", "deployments,statefulsets", "-o", "json"))["items"]
    templates = {item["metadata"]["name"]: item["spec"]["template"] for item in items}
    del templates[object_name("deployment", "airflow-dag-processor").rpartition("/")[2]]
    return templates
