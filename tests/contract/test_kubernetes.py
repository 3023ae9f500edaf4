"""A real API server is the judge: it takes what the charts render, and their Roles hold what the code asks for."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import kubernetes.config.kube_config
import pytest
import yaml
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException

from mlops.result import Failure
from mlops.stores.deployments import MODEL_ANNOTATION, VERSION_ANNOTATION, Deployment
from tests.charts.conftest import Object, containers, find, pod_specs, render
from tests.charts.profiles import PROFILES, command_job, task_pod
from tests.conftest import eventually
from tests.kube_apiserver import GRANTING, KubeApiserver, Namespace, call

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
    others = [entry for entry in objects if entry["kind"] not in GRANTING]
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
    eventually(lambda: {name for name in names if rights(name) != rights("default")} == theirs)


# What Airflow's identity may create, with which DAG code can do what it likes


def asked_of_airflow(namespace: Namespace, pod: Object, account: str = "maestro-airflow") -> str:
    """What the server says to Airflow where it would create the pod; nothing where it lets it."""
    try:
        call(namespace.client(account), "POST", namespace.path("pods"), pod, dryRun="All")
    except ApiException as error:
        return str(json.loads(error.body)["message"])
    return ""


def changed(pod: Object, change: Callable[[Object, Object], object]) -> Object:
    """A copy of the pod that was changed, given its spec and its container."""
    other = copy.deepcopy(pod)
    change(other["spec"], other["spec"]["containers"][0])
    return other


def told_of(name: str, key: str) -> Object:
    return {"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def volume(**source: Object) -> Callable[[Object, Object], object]:
    return lambda spec, _: spec["volumes"].append({"name": "x", **source})


OTHERS: dict[str, tuple[Callable[[Object, Object], object], str]] = {
    "another service account": (
        lambda s, _: s.update(serviceAccountName="maestro-airflow"),
        "service account of tasks",
    ),
    "no service account": (lambda s, _: s.pop("serviceAccountName"), "service account of tasks"),
    "another image": (lambda _, c: c.update(image="docker.io/library/busybox"), "one of the images"),
    "an image by another tag": (lambda _, c: c.update(image=f"{c['image']}x"), "one of the images"),
    "a second container": (lambda s, c: s["containers"].append({**c, "name": "more"}), "one container"),
    "an init container": (lambda s, c: s.update(initContainers=[{**c, "name": "more"}]), "one container"),
    "a whole Secret": (lambda _, c: c.update(envFrom=[{"secretRef": {"name": "maestro-minio"}}]), "envFrom"),
    "Airflow's key": (lambda _, c: c["env"].append(told_of("maestro-airflow", "fernet-key")), "mlops/needs.py"),
    "Redis' admin": (lambda _, c: c["env"].append(told_of("maestro-redis", "redis-password")), "mlops/needs.py"),
    "a Secret as a volume": (volume(secret={"secretName": "maestro-airflow"}), "no volumes but"),
    "a projected Secret": (volume(projected={"sources": [{"secret": {"name": "maestro-airflow"}}]}), "no volumes but"),
    "a server's key": (volume(secret={"secretName": "maestro-tls-mlflow"}), "no volumes but"),
    "all of the authority's Secret": (volume(secret={"secretName": "maestro-tls-ca"}), "no volumes but"),
    "another key of the authority's Secret": (
        volume(secret={"secretName": "maestro-tls-ca", "items": [{"key": "tls.key", "path": "x"}]}),
        "no volumes but",
    ),
    "somebody's volume": (volume(persistentVolumeClaim={"claimName": "data-maestro-minio-0"}), "no volumes but"),
    "the node's files": (volume(hostPath={"path": "/"}), "no volumes but|PodSecurity"),
    "the node's network": (lambda s, _: s.update(hostNetwork=True), "nothing of its node|PodSecurity"),
    "a node": (lambda s, _: s.update(nodeName="node"), "nothing of its node"),
}
UNRESTRICTED: dict[str, tuple[Callable[[Object, Object], object], str]] = {
    "root": (lambda _, c: c["securityContext"].update(runAsUser=0), "not root"),
    "root of the pod": (lambda s, _: s["securityContext"].update(runAsUser=0), "not root"),
    "who may be root": (lambda _, c: c["securityContext"].update(runAsNonRoot=False), "not root"),
    "no rights said": (lambda s, _: s.pop("securityContext"), "not root"),
    "no rights of the container said": (lambda _, c: c.pop("securityContext"), "not root"),
    "privileges": (lambda _, c: c["securityContext"].pop("allowPrivilegeEscalation"), "no privileges"),
    "all privileges": (lambda _, c: c["securityContext"].update(privileged=True), "no privileges|privileged"),
    "the kernel's files": (lambda _, c: c["securityContext"].update(procMount="Unmasked"), "no privileges|procMount"),
    "capabilities": (lambda _, c: c["securityContext"]["capabilities"].update(drop=["NET_RAW"]), "all capabilities"),
    "a capability": (lambda _, c: c["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]), "all capabilities"),
    "no seccomp": (lambda s, _: s["securityContext"].pop("seccompProfile"), "seccomp"),
    "its own seccomp": (lambda _, c: c["securityContext"].update(seccompProfile={"type": "Unconfined"}), "seccomp"),
    "a setting of the kernel": (
        lambda s, _: s["securityContext"].update(sysctls=[{"name": "kernel.shm_rmid_forced", "value": "1"}]),
        "the kernel",
    ),
    "no AppArmor": (lambda _, c: c["securityContext"].update(appArmorProfile={"type": "Unconfined"}), "AppArmor"),
    "SELinux": (lambda _, c: c["securityContext"].update(seLinuxOptions={"type": "spc_t"}), "SELinux"),
    "a port of the node": (
        lambda _, c: c.update(ports=[{"containerPort": 80}, {"containerPort": 81, "hostPort": 81}]),
        "no port of its node",
    ),
}


def test_airflow_creates_pods_of_tasks_and_no_others(release: tuple[Namespace, list[Object]]) -> None:
    namespace, objects = release
    asked = [task_pod(objects), task_pod(objects, identity="deployer"), task_pod(objects, needs=())]
    # A policy counts when the server has compiled it.
    eventually(
        lambda: "one of the images" in asked_of_airflow(namespace, changed(asked[0], OTHERS["another image"][0])), 60
    )
    assert [asked_of_airflow(namespace, pod) for pod in asked] == [""] * len(asked)
    for what, (change, said) in OTHERS.items():
        assert re.search(said, asked_of_airflow(namespace, changed(asked[0], change))), what


def test_airflow_creates_restricted_pods_only_where_the_namespace_takes_others(kube_apiserver: KubeApiserver) -> None:
    """As where `helm install` was all, and nobody labelled the namespace."""
    namespace = kube_apiserver.namespace("privileged")
    objects = render("maestro", PROFILES["minikube"], namespace=namespace.namespace)
    namespace.grant(objects)
    pod = task_pod(objects)
    eventually(lambda: "one of the images" in asked_of_airflow(namespace, changed(pod, OTHERS["another image"][0])), 60)
    assert asked_of_airflow(namespace, changed(pod, lambda _, c: c.update(ports=[{"containerPort": 80}]))) == ""
    said = {what: asked_of_airflow(namespace, changed(pod, change)) for what, (change, _) in UNRESTRICTED.items()}
    assert {what: message for what, message in said.items() if not re.search(UNRESTRICTED[what][1], message)} == {}


def test_a_task_pod_is_no_pod_of_a_service_and_airflow_deletes_no_other_one(
    release: tuple[Namespace, list[Object]],
) -> None:
    namespace, objects = release
    pod = task_pod(objects)
    pod["metadata"]["labels"].update({"app.kubernetes.io/name": "mlflow", "app.kubernetes.io/component": "mlflow"})
    eventually(lambda: "task pods only" in asked_of_airflow(namespace, pod))
    airflow = namespace.client("maestro-airflow")
    for name, refused in (("task", False), ("mlflow", True)):
        pod["metadata"].update(name=name, labels={"app.kubernetes.io/component": name})
        namespace.create(pod)
        try:
            call(airflow, "DELETE", namespace.path(f"pods/{name}"), {"gracePeriodSeconds": 0})
            assert not refused, "a pod of MLflow could be deleted"
        except ApiException as error:
            assert refused, error.body
            assert "task pods only" in error.body


# Who makes the pods of workers, with KubernetesExecutor

SCHEDULER = "maestro-airflow-scheduler"
OTHER_WORKERS: dict[str, tuple[Callable[[Object, Object], object], str]] = {
    "another service account": (lambda s, _: s.update(serviceAccountName="maestro-deployer"), "service account"),
    "another image": (lambda _, c: c.update(image="docker.io/library/busybox"), "Airflow's image"),
    "a second container": (lambda s, c: s["containers"].append({**c, "name": "more"}), "one container"),
    "an init container of another image": (
        lambda s, c: s.update(initContainers=[{**c, "name": "before", "image": "x"}]),
        "Airflow's image",
    ),
    "an init container that is told a Secret": (
        lambda s, c: s.update(
            initContainers=[{**c, "name": "before", "env": [told_of("maestro-airflow", "fernet-key")]}]
        ),
        "envFrom",
    ),
    "a whole Secret": (lambda _, c: c.update(envFrom=[{"secretRef": {"name": "maestro-minio"}}]), "envFrom"),
    "Airflow's key": (lambda _, c: c["env"].append(told_of("maestro-airflow", "fernet-key")), "template names"),
    "a Secret as a volume": (volume(secret={"secretName": "maestro-airflow"}), "no volumes but"),
    "a projected Secret": (
        volume(projected={"sources": [{"secret": {"name": "maestro-airflow"}}]}),
        "no volumes but",
    ),
    "a store's volume": (volume(persistentVolumeClaim={"claimName": "data-maestro-minio-0"}), "no volumes but"),
    "DAG files that it could write": (
        volume(persistentVolumeClaim={"claimName": "maestro-airflow-dags"}),
        "DAG files to read",
    ),
    "the node's files": (volume(hostPath={"path": "/"}), "no volumes but|PodSecurity"),
    "a node": (lambda s, _: s.update(nodeName="node"), "nothing of its node"),
}


def test_the_scheduler_makes_labels_and_deletes_pods_of_workers_and_no_others(kube_apiserver: KubeApiserver) -> None:
    namespace = kube_apiserver.namespace()
    values = {"airflow": {"executor": "KubernetesExecutor", "dags": {"persistence": {"enabled": True}}}}
    objects = render("maestro", values, namespace=namespace.namespace)
    namespace.grant(objects)
    told = find(objects, "ConfigMap", "maestro-airflow-pods")["data"]["worker-template.yaml"]
    worker = yaml.safe_load(told)
    eventually(
        lambda: (
            "Airflow's image"
            in asked_of_airflow(namespace, changed(worker, OTHER_WORKERS["another image"][0]), SCHEDULER)
        ),
        60,
    )
    assert asked_of_airflow(namespace, worker, SCHEDULER) == ""
    for what, (change, said) in OTHER_WORKERS.items():
        assert re.search(said, asked_of_airflow(namespace, changed(worker, change), SCHEDULER)), what
    assert "pods of workers only" in asked_of_airflow(namespace, task_pod(objects), SCHEDULER)
    assert "task pods only" in asked_of_airflow(namespace, worker), "what a task may make is no worker"
    scheduler = namespace.client(SCHEDULER)
    namespace.create(worker)
    namespace.create({**worker, "metadata": {"name": "store", "labels": {"app.kubernetes.io/component": "redis"}}})
    adopted = {"metadata": {"labels": {"airflow-worker": "2"}}}
    call(scheduler, "PATCH", namespace.path("pods/worker"), adopted)
    there = call(scheduler, "GET", namespace.path("pods/worker"))
    image = {"spec": {"containers": [{**there["spec"]["containers"][0], "image": "x"}]}}
    as_worker = {"metadata": {"labels": {"app.kubernetes.io/component": "airflow-worker"}}}
    for name, method, body in (
        ("worker", "PATCH", image),
        ("store", "PATCH", as_worker),
        ("store", "DELETE", {"gracePeriodSeconds": 0}),
    ):
        with pytest.raises(ApiException, match="pods of workers only"):
            call(scheduler, method, namespace.path(f"pods/{name}"), body)
    call(scheduler, "DELETE", namespace.path("pods/worker"), {"gracePeriodSeconds": 0})


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


def said_to(client: ApiClient, path: str, patch: Object) -> str:
    """What the server says against a patch; nothing where it takes it."""
    try:
        call(client, "PATCH", path, patch, dryRun="All")
    except ApiException as error:
        return str(error.body)
    return ""


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"replicas": 0}},
        {"spec": {"paused": True}},
        {"spec": {"template": {"metadata": {"annotations": {"other": "x"}}}}},
        {"spec": {"template": {"metadata": {"labels": {"other": "x"}}}}},
        {"spec": {"template": {"spec": {"serviceAccountName": "maestro-deployer"}}}},
        {"spec": {"template": {"spec": {"automountServiceAccountToken": True}}}},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "b"}]}},
        {"metadata": {"annotations": {"other": "x"}}},
    ],
)
def test_of_its_deployment_the_deployer_changes_the_version_and_nothing_else(
    model_server: Namespace, patch: Object
) -> None:
    deployer, path = model_server.client("maestro-deployer"), model_server.path(f"deployments/{SERVER}", "apps/v1")

    eventually(lambda: "changes nothing else" in said_to(deployer, path, patch))
    version = {"metadata": {"annotations": {VERSION_ANNOTATION: "7", MODEL_ANNOTATION: "m"}}}
    assert said_to(deployer, path, {"spec": {"template": version}}) == ""


def test_its_deployments_containers_are_not_the_deployers_to_change(model_server: Namespace) -> None:
    deployer, path = model_server.client("maestro-deployer"), model_server.path(f"deployments/{SERVER}", "apps/v1")
    containers_of = call(model_server.admin, "GET", path)["spec"]["template"]["spec"]["containers"]
    for change in ({"image": "docker.io/library/busybox"}, {"args": ["sh"]}, {"env": [told_of("maestro-minio", "x")]}):
        body = {"spec": {"template": {"spec": {"containers": [{**containers_of[0], **change}]}}}}
        eventually(lambda body=body: "changes nothing else" in said_to(deployer, path, body))


def test_another_deployment_is_not_the_deployers_to_touch(model_server: Namespace) -> None:
    other = find(render("model-server", namespace=model_server.namespace), "Deployment", SERVER)
    other["metadata"]["name"] = "other"
    model_server.create(other)
    with pytest.raises(Failure, match="run the step with the identity 'deployer'"):
        Deployment(model_server.namespace, "other").set_model_version("m", "2")
