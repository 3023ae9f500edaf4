"""The label of pods that read Secrets: Helm computes it in a cluster as `make rotate` does."""

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from infrastructure import rotate
from tests.charts.conftest import ROOT, Loader, Object, render
from tests.charts.profiles import EVERYTHING, PROFILES
from tests.kube_apiserver import KubeApiserver, Namespace, call

KEEP = {"helm.sh/resource-policy": "keep"}
WORKLOADS = ("Deployment", "StatefulSet")


# Stores elsewhere: their passwords in Secrets of one's own, of all users or of each.
OWN = {
    "postgresql": {"external": {"enabled": True, "host": "db.example.com"}, "existingSecret": "databases"},
    "redis": {"external": {"enabled": True, "host": "redis.example.com"}, "existingSecret": "online-store"},
    "s3": {
        "external": {"enabled": True, "endpoint": "https://s3.example.com"},
        "existingSecret": "object-store",
        "users": {"feast": {"existingSecret": "object-store-of-feast"}},
    },
    "mlflow": {"existingSecret": "tracking"},
    "sensorTrainer": {"existingSecret": "trainer"},
    "notifications": {
        "slackWebhookSecret": "slack",
        "mail": {"host": "smtp.example.com", "existingSecret": "mail"},
    },
}
KEYS = {
    "databases": tuple(
        f"{name}-password" for name in ("airflow", "mlflow", "feast", "sensors", "ledger", "monitoring")
    ),
    "online-store": ("redis-password", "features-password", "queue-password", "celery-password", "monitoring-password"),
    "object-store": ("root-user", "root-password"),
    "object-store-of-feast": ("access-key", "secret-key"),
    "tracking": ("writer-password", "reader-password"),
    "trainer": ("token",),
}


def in_a_cluster(namespace: Namespace, folder: Path, values: dict[str, Any]) -> list[Object]:
    """What an upgrade there would apply: Helm looks up what there is."""
    (folder / "kubeconfig").write_text(json.dumps(namespace.server.kubeconfig()))
    (folder / "values.yaml").write_text(json.dumps(values))
    command = ["helm", "template", "maestro", str(ROOT / "charts/maestro"), "--namespace", namespace.namespace]
    command += ["--dry-run=server", f"--kubeconfig={folder}/kubeconfig", f"--values={folder}/values.yaml"]
    path = f"{ROOT}/.build/bin:{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    return [entry for entry in yaml.load_all(done.stdout, Loader) if entry]


def generated() -> list[Object]:
    return [
        entry
        for entry in render("maestro", EVERYTHING)
        if entry["kind"] == "Secret" and entry["metadata"].get("annotations") == KEEP
    ]


@pytest.fixture
def namespace(kube_apiserver: KubeApiserver) -> Namespace:
    """One with the Secrets of a release, and a webhook's, which is somebody's own."""
    made = kube_apiserver.namespace()
    for entry in generated():
        made.create(entry | {"metadata": {"name": entry["metadata"]["name"], "annotations": dict(KEEP)}})
    own(made, "slack", "url")
    own(made, "mail", "from", "to", "username", "password")
    return made


def own(namespace: Namespace, name: str, *keys: str) -> None:
    data = {key: base64.b64encode(f"{name} {key}".encode()).decode() for key in keys}
    namespace.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})


def stored(namespace: Namespace) -> dict[str, Object]:
    return {
        entry["metadata"]["name"]: entry for entry in call(namespace.admin, "GET", namespace.path("secrets"))["items"]
    }


def labels(objects: list[Object]) -> dict[str, str | None]:
    return {
        entry["metadata"]["name"]: entry["spec"]["template"]["metadata"]["labels"].get(rotate.LABEL)
        for entry in objects
        if entry["kind"] in WORKLOADS
    }


def computed(objects: list[Object], secrets: dict[str, Object]) -> dict[str, str | None]:
    """The labels, by what the pods read."""
    found = {
        entry["metadata"]["name"]: rotate.secrets_label(set(rotate.reads(entry["spec"]["template"]["spec"])), secrets)
        for entry in objects
        if entry["kind"] in WORKLOADS
    }
    return found | {name: None for name in found if name == "maestro-postgresql"}  # it is told while it runs


def test_an_upgrade_on_which_nothing_was_rotated_starts_nothing_anew(namespace: Namespace, tmp_path: Path) -> None:
    assert set(labels(in_a_cluster(namespace, tmp_path, {})).values()) == {None}


@pytest.mark.parametrize("profile", ["minikube", "everything"])
def test_each_pod_has_the_label_of_what_it_reads_and_of_nothing_else(
    namespace: Namespace, tmp_path: Path, profile: str
) -> None:
    for name, secret in stored(namespace).items():
        if rotate.is_generated(secret):
            stamps = {rotate.ROTATED + key: f"stamp-{key}" for key in secret["data"]}
            body = {"metadata": {"annotations": stamps}}
            call(namespace.admin, "PATCH", namespace.path(f"secrets/{name}"), body)
    objects = in_a_cluster(namespace, tmp_path, PROFILES[profile])
    expected = computed(objects, stored(namespace))
    assert labels(objects) == expected
    assert len(set(expected.values())) >= 6


@pytest.mark.parametrize("users", [False, True])
def test_a_pod_has_the_label_of_the_secrets_of_ones_own_that_it_reads(
    namespace: Namespace, tmp_path: Path, users: bool
) -> None:
    for name, keys in KEYS.items():
        own(namespace, name, *keys)
    values = json.loads(json.dumps(OWN))
    values["redis"]["external"]["users"] = users
    objects = in_a_cluster(namespace, tmp_path, {"global": values})
    assert labels(objects) == computed(objects, stored(namespace))


def test_every_secret_that_a_chart_makes_can_be_rotated() -> None:
    names_of_users = {"root-user", "access-key"}
    made = {
        (entry["metadata"]["name"].removeprefix("maestro-"), key)
        for entry in generated()
        for key in entry["data"]
        if key not in names_of_users
    }
    assert {(rotation.secret, rotation.key) for rotation in rotate.ROTATIONS.values()} == made
