"""charts/model-server: how pods are rolled, what they are told, and what the identity that deploys may do."""

import http.server
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from mlops import models
from mlops.cli import parser
from mlops.stores.deployments import MODEL_ANNOTATION, VERSION_ANNOTATION
from tests.charts.conftest import ROOT, Object, environment, find, render


def model_server(values: dict[str, Any] | None = None) -> Object:
    return find(render("model-server", values), "Deployment", "maestro-model-server")["spec"]


def server(deployment: Object) -> Object:
    (container,) = deployment["template"]["spec"]["containers"]
    return container


def test_pods_run_a_command_that_there_is_on_the_port_that_they_show() -> None:
    container = server(model_server())
    assert container["args"][:3] == ["python", "-m", "mlops"]
    options = parser().parse_args(container["args"][3:])
    assert (options.group, options.command) == ("serving", "serve")
    assert options.port == container["ports"][0]["containerPort"]
    patience = container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"]
    assert patience > options.patience, "it waits for MLflow first"


def test_the_version_is_the_deployers_and_not_the_charts() -> None:
    deployment = model_server()
    assert not deployment["template"]["metadata"].get("annotations", {})
    told = environment(server(deployment))
    for key, annotation in (("MODEL_VERSION", VERSION_ANNOTATION), ("MODEL_VERSION_OF", MODEL_ANNOTATION)):
        assert told[key]["fieldRef"]["fieldPath"] == f"metadata.annotations['{annotation}']"


def test_the_model_is_declared() -> None:
    name = environment(server(model_server()))["MODEL_NAME"]
    assert name in models.names()


def test_a_pod_is_ready_before_another_ends_and_drains_before_it_ends() -> None:
    deployment = model_server({"drainSeconds": 7, "terminationGracePeriodSeconds": 20})
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert server(deployment)["lifecycle"]["preStop"]["sleep"]["seconds"] == 7
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] == 27


@pytest.mark.parametrize(("replicas", "budgets"), [(1, 0), (2, 1)])
def test_more_than_one_pod_gets_a_disruption_budget(replicas: int, budgets: int) -> None:
    objects = render("model-server", {"replicas": replicas})
    found = [entry for entry in objects if entry["kind"] == "PodDisruptionBudget"]
    assert len(found) == budgets
    for budget in found:
        labels = model_server()["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_deployer_may_roll_this_deployment_and_see_why_pods_do_not_come_up_and_no_more() -> None:
    objects = render("model-server", name="other", namespace="elsewhere")
    assert find(objects, "Role", "other-deployer")["rules"] == [
        {
            "apiGroups": ["apps"],
            "resources": ["deployments"],
            "resourceNames": ["other-model-server"],
            "verbs": ["get", "patch"],
        },
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]
    binding = find(objects, "RoleBinding", "other-deployer")
    assert binding["roleRef"]["name"] == "other-deployer"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "other-deployer", "namespace": "elsewhere"}]
    assert find(objects, "ServiceAccount", "other-deployer")["automountServiceAccountToken"] is False


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_check_passes_on_a_server_that_is_ready_and_on_no_other(status: int, code: int) -> None:
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ping" else 404)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        result = subprocess.run(
            [sys.executable, ROOT / "charts/model-server/files/check-ping.py"],
            env={**os.environ, "MODEL_SERVER_URL": f"http://127.0.0.1:{listening.server_port}"},
            capture_output=True,
        )
        listening.shutdown()
    assert result.returncode == code
