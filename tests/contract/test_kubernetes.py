"""A real API server is the judge: it takes what the charts render, and their Roles hold what the code asks for."""

import json
from collections.abc import Iterator
from pathlib import Path

import kubernetes.config.kube_config
import pytest
import yaml
from kubernetes.client.exceptions import ApiException

from mlops.result import Failure
from mlops.stores.deployments import VERSION_ANNOTATION, Deployment
from tests.charts.conftest import Object, containers, find, pod_specs, render
from tests.charts.profiles import PROFILES, command_job
from tests.conftest import eventually
from tests.kube_apiserver import KubeApiserver, Namespace, call

SERVER = "maestro-model-server"


@pytest.fixture(scope="module", params=PROFILES)
def release(request: pytest.FixtureRequest, kube_apiserver: KubeApiserver) -> tuple[Namespace, list[Object]]:
    """A namespace with the service accounts of a release and their rights, and all that is rendered for it."""
    namespace = kube_apiserver.namespace()
    objects = render("maestro", PROFILES[request.param], namespace=namespace.namespace)
    namespace.grant(objects)
    command = command_job(objects, "features", "build")
    command["metadata"]["name"] = command["metadata"].pop("generateName") + "x"
    return namespace, [*objects, command]


def refusals(namespace: Namespace, objects: list[tuple[str, Object]]) -> dict[str, str]:
    """What the server says against those of the objects that it would not take."""
    refused = {}
    for where, entry in objects:
        try:
            namespace.create(entry, dryRun="All", fieldValidation="Strict")
        except ApiException as error:
            refused[where] = error.body
    return refused


def bare_pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Each pod as its controller would make it."""
    claims = {
        f"{entry['kind']}/{entry['metadata']['name']}": entry["spec"]["volumeClaimTemplates"]
        for entry in objects
        if "volumeClaimTemplates" in (entry.get("spec") or {})
    }
    for where, spec in pod_specs(objects):
        claimed = [
            {"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
            for claim in claims.get(where, ())
        ]
        spec = {**spec, "volumes": [*spec.get("volumes", ()), *claimed]}
        yield where, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def test_kubernetes_takes_every_object(release: tuple[Namespace, list[Object]]) -> None:
    namespace, objects = release
    created = ("ServiceAccount", "Role", "RoleBinding")
    others = [entry for entry in objects if entry["kind"] not in created]
    assert not refusals(namespace, [(f"{entry['kind']}/{entry['metadata']['name']}", entry) for entry in others])


def test_every_pod_is_admitted_where_pod_security_is_restricted_and_none_without_its_security_context(
    release: tuple[Namespace, list[Object]],
) -> None:
    namespace, objects = release
    pods = list(bare_pods(objects))
    assert not refusals(namespace, pods)
    for _, pod in pods:
        for holder in (pod["spec"], *containers(pod["spec"])):
            holder.pop("securityContext")
    refused = refusals(namespace, pods)
    assert [where for where, _ in pods if "violates PodSecurity" not in refused.get(where, "")] == []


def test_nobody_but_airflow_the_deployer_and_who_lists_pods_has_rights(release: tuple[Namespace, list[Object]]) -> None:
    namespace, objects = release

    def rights(service_account: str) -> set[str]:
        review = {"spec": {"namespace": namespace.namespace}}
        path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
        rules = call(namespace.client(service_account), "POST", path, review)["status"]["resourceRules"]
        return {json.dumps(rule, sort_keys=True) for rule in rules}

    names = [entry["metadata"]["name"] for entry in objects if entry["kind"] == "ServiceAccount"]
    theirs = {"maestro-airflow", "maestro-deployer", *({"maestro-pod-states"} & set(names))}
    # A server that was just started still makes its own roles, which count for all.
    eventually(lambda: {name for name in names if rights(name) != rights("default")} == theirs, 60)


# The deployer


@pytest.fixture
def model_server(kube_apiserver: KubeApiserver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Namespace:
    """The model server's chart, installed, and the deployer's credentials where the command looks for them."""
    namespace = kube_apiserver.namespace()
    for entry in render("model-server", namespace=namespace.namespace):
        namespace.create(entry)
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(namespace.kubeconfig("maestro-deployer")))
    monkeypatch.setattr(kubernetes.config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    return namespace


def complete(namespace: Namespace) -> None:
    """The controller's part: all pods are of the newest template, and ready."""
    path = namespace.path(f"deployments/{SERVER}", "apps/v1")
    found = call(namespace.admin, "GET", path)
    counts = dict.fromkeys(
        ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), found["spec"]["replicas"]
    )
    status = {"observedGeneration": found["metadata"]["generation"], **counts}
    call(namespace.admin, "PATCH", f"{path}/status", {"status": status})


def test_the_deployers_role_is_what_a_rollout_asks_for(model_server: Namespace) -> None:
    objects = render("model-server", namespace=model_server.namespace)
    template = find(objects, "Deployment", SERVER)["spec"]["template"]
    deployment = Deployment(model_server.namespace, SERVER)
    complete(model_server)
    deployment.set_model_version("m", "2")
    with pytest.raises(Failure, match="not ready after 0 s"):
        deployment.wait_for_rollout("2", 0)  # what the status says is of the version before
    complete(model_server)
    deployment.wait_for_rollout("2", 0)

    deployment.set_model_version("m", "3")
    metadata = {"name": "new", "labels": template["metadata"]["labels"], "annotations": {VERSION_ANNOTATION: "3"}}
    model_server.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    model_server.container("new", "model-server", waiting={"reason": "ErrImagePull", "message": "no such image"})
    with pytest.raises(Failure, match="pod new: ErrImagePull: no such image"):
        deployment.wait_for_rollout("3", 0)

    deployment.set_model_version("m", None)
    with pytest.raises(Failure, match="rolled to version None while version 3 was waited for"):
        deployment.wait_for_rollout("3", 0)
    assert model_server.requests("maestro-deployer") == model_server.granted("maestro-deployer")


def test_another_deployment_is_not_the_deployers_to_touch(model_server: Namespace) -> None:
    other = find(render("model-server", namespace=model_server.namespace), "Deployment", SERVER)
    other["metadata"]["name"] = "other"
    model_server.create(other)
    with pytest.raises(Failure, match="run the step with the identity 'deployer'"):
        Deployment(model_server.namespace, "other").set_model_version("m", "2")
