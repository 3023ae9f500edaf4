"""charts/model-server: how pods are rolled, what they are told, and what the identity that deploys may do."""

import http.server
import json
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from mlops import models
from mlops.cli import parser
from mlops.config import ModelServerSettings
from mlops.stores.deployments import MODEL_ANNOTATION, VERSION_ANNOTATION
from tests.charts.conftest import ROOT, Object, Refused, environment, find, render

TWO = {"models": {"ctr": {"model": "ctr_model", "family": "torch", "onlineFeatures": True, "log": {"share": 0.5}}}}


def model_server(values: dict[str, Any] | None = None, name: str = "maestro-model-server") -> Object:
    return find(render("model-server", values), "Deployment", name)["spec"]


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
    objects = render("model-server", {"replicas": replicas, "autoscaling": {"enabled": False}})
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


@pytest.mark.parametrize("models", [{}, {"ctr": {"model": "ctr_model", "alias": "trial"}}])
def test_where_no_server_is_rolled_the_deployer_may_touch_no_deployment(models: dict[str, Any]) -> None:
    rules = find(render("model-server", {"alias": "staging", "models": models}), "Role", "maestro-deployer")["rules"]
    assert [rule["resources"] for rule in rules] == [["pods"]]


def of_servers(kind: str, values: dict[str, Any]) -> dict[str, Object]:
    return {entry["metadata"]["name"]: entry for entry in render("model-server", values) if entry["kind"] == kind}


BOTH = {"maestro-model-server", "maestro-model-server-ctr"}


def test_each_model_has_a_server_of_its_own_that_no_object_of_the_other_is_about() -> None:
    pods = {name: entry["spec"]["template"] for name, entry in of_servers("Deployment", TWO).items()}
    assert pods.keys() == BOTH
    services, budgets = of_servers("Service", TWO), of_servers("PodDisruptionBudget", TWO)
    scalers, policies = of_servers("HorizontalPodAutoscaler", TWO), of_servers("NetworkPolicy", TWO)
    assert services.keys() == budgets.keys() == scalers.keys() == BOTH
    for name in BOTH:
        selectors = [
            of_servers("Deployment", TWO)[name]["spec"]["selector"]["matchLabels"],
            services[name]["spec"]["selector"],
            budgets[name]["spec"]["selector"]["matchLabels"],
            policies[f"{name}-network"]["spec"]["podSelector"]["matchLabels"],
        ]
        for selector in selectors:
            chosen = {other for other, pod in pods.items() if selector.items() <= pod["metadata"]["labels"].items()}
            assert chosen == {name}, selector
        assert scalers[name]["spec"]["scaleTargetRef"]["name"] == name


def test_a_server_runs_its_familys_image_and_is_told_its_model_and_what_it_opens() -> None:
    first, second = (server(model_server(TWO, name)) for name in sorted(BOTH))
    assert [each["image"].rpartition("/")[2].partition(":")[0] for each in (first, second)] == ["task", "torch"]
    told, its = environment(first), environment(second)
    assert (told["MODEL_NAME"], its["MODEL_NAME"]) == ("sensor-failure", "ctr_model")
    assert (told["MODEL_LOG_SHARE"], its["MODEL_LOG_SHARE"]) == ("0", "0.5")
    assert (told["MODEL_ONLINE_FEATURES"], its["MODEL_ONLINE_FEATURES"]) == ("false", "true")
    added = {name for name in its if name not in told}
    assert {name for name in added if name.startswith("MAESTRO_REDIS_")}
    assert its["AWS_ACCESS_KEY_ID"]["secretKeyRef"]["name"] == "maestro-minio-serving"
    assert {name for name in added if not name.startswith(("MAESTRO_REDIS_", "AWS_"))} == {
        f"MAESTRO_{name}_BUCKET" for name in ("DATA", "REPORTS", "PREDICTIONS")
    }


def test_a_server_goes_where_its_values_have_it_go_and_nowhere_else() -> None:
    policies = of_servers("NetworkPolicy", TWO)
    pods = {
        name: entry["spec"]["template"]["metadata"]["labels"] for name, entry in of_servers("Deployment", TWO).items()
    }

    def ports(name: str) -> set[int]:
        return {port["port"] for rule in policies[f"{name}-network"]["spec"]["egress"] for port in rule["ports"]}

    def opened(name: str) -> set[str]:
        return {label for label in pods[name] if label.startswith("maestro/opens-")}

    assert (ports("maestro-model-server"), opened("maestro-model-server")) == ({53, 5000}, set())
    assert ports("maestro-model-server-ctr") == {53, 5000, 6379, 9000}
    assert opened("maestro-model-server-ctr") == {"maestro/opens-redis", "maestro/opens-s3"}


def test_what_a_model_does_not_say_is_as_for_the_first_and_what_it_says_is_its_own() -> None:
    own = {"ctr": {"drainSeconds": 3, "autoscaling": {"maxReplicas": 9}, "resources": {"limits": {"memory": "2Gi"}}}}
    values = {"models": own, "nodeSelector": {"disk": "fast"}}
    deployment = model_server(values, "maestro-model-server-ctr")
    assert server(deployment)["lifecycle"]["preStop"]["sleep"]["seconds"] == 3
    assert server(deployment)["resources"]["limits"]["memory"] == "2Gi"
    assert server(deployment)["resources"]["requests"]["cpu"] == "100m"
    assert deployment["template"]["spec"]["nodeSelector"] == {"disk": "fast"}
    limits = {
        name: entry["spec"]["maxReplicas"] for name, entry in of_servers("HorizontalPodAutoscaler", values).items()
    }
    assert limits == {"maestro-model-server": 6, "maestro-model-server-ctr": 9}
    assert server(model_server(values))["lifecycle"]["preStop"]["sleep"]["seconds"] == 10


def test_who_deploys_is_told_each_models_server_and_may_roll_those_of_the_alias_production() -> None:
    trial = {"trial": {"model": "sensor-failure", "alias": "staging"}}
    objects = render("model-server", {"models": {**TWO["models"], **trial}})
    servers = json.loads(find(objects, "ConfigMap", "maestro-model-server")["data"]["servers"])
    told = ModelServerSettings("maestro", json.dumps(servers))
    assert told.of("sensor-failure") == ("maestro-model-server", "http://maestro-model-server:8080")
    assert told.of("ctr_model") == ("maestro-model-server-ctr", "http://maestro-model-server-ctr:8080")
    assert told.of("income") is None
    rule = find(objects, "Role", "maestro-deployer")["rules"][0]
    assert set(rule["resourceNames"]) == BOTH, "one of another alias takes what has it, and nobody rolls it"


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"two": {"model": "sensor-failure"}}, 'the model "sensor-failure" has two servers of the alias production'),
        ({"test": {}}, "invalid propertyName 'test'"),
        ({"ctr_model": {}}, "invalid propertyName 'ctr_model'"),
        ({"ctr": {"family": "other"}}, "family"),
        ({"ctr": {"log": {"share": 2}}}, "share"),
        ({"ctr": {"autoscaling": {"minReplicas": 9}}}, "set minReplicas to at most maxReplicas"),
    ],
    ids=str,
)
def test_models_that_cannot_be_are_refused(models: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        render("model-server", {"models": models})


def test_the_check_asks_every_server() -> None:
    pod = find(render("model-server", TWO), "Pod", "maestro-model-server-test")
    (container,) = pod["spec"]["containers"]
    asked = environment(container)["MODEL_SERVER_URL"].split()
    assert asked == ["http://maestro-model-server:8080", "http://maestro-model-server-ctr:8080"]


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
