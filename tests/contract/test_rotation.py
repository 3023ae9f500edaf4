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
from tests.charts.profiles import EVERYTHING
from tests.kube_apiserver import KubeApiserver, Namespace, call

KEEP = {"helm.sh/resource-policy": "keep"}
WORKLOADS = ("Deployment", "StatefulSet")


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


@pytest.fixture
def namespace(kube_apiserver: KubeApiserver) -> Namespace:
    """One with the Secrets of a release, and a webhook's, which is somebody's own."""
    made = kube_apiserver.namespace()
    for entry in render("maestro", EVERYTHING):
        if entry["kind"] == "Secret" and entry["metadata"].get("annotations") == KEEP:
            made.create(entry | {"metadata": {"name": entry["metadata"]["name"], "annotations": dict(KEEP)}})
    url = base64.b64encode(b"https://hooks.example.com").decode()
    made.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "slack"}, "data": {"url": url}})
    return made


def labels(objects: list[Object]) -> dict[str, str | None]:
    return {
        entry["metadata"]["name"]: entry["spec"]["template"]["metadata"]["labels"].get(rotate.LABEL)
        for entry in objects
        if entry["kind"] in WORKLOADS
    }


def test_an_upgrade_on_which_nothing_was_rotated_starts_nothing_anew(namespace: Namespace, tmp_path: Path) -> None:
    assert set(labels(in_a_cluster(namespace, tmp_path, {})).values()) == {None}


def test_each_pod_has_the_label_of_what_it_reads_and_of_nothing_else(namespace: Namespace, tmp_path: Path) -> None:
    for secret in call(namespace.admin, "GET", namespace.path("secrets"))["items"]:
        if rotate.is_generated(secret):
            stamps = {rotate.ROTATED + key: f"stamp-{key}" for key in secret["data"]}
            body = {"metadata": {"annotations": stamps}}
            call(namespace.admin, "PATCH", namespace.path(f"secrets/{secret['metadata']['name']}"), body)
    stored = {s["metadata"]["name"]: s for s in call(namespace.admin, "GET", namespace.path("secrets"))["items"]}
    objects = in_a_cluster(namespace, tmp_path, EVERYTHING)
    expected = {
        entry["metadata"]["name"]: rotate.secrets_label(set(rotate.reads(entry["spec"]["template"]["spec"])), stored)
        for entry in objects
        if entry["kind"] in WORKLOADS
    }
    expected["maestro-postgresql"] = None  # it is told while it runs
    assert labels(objects) == expected
    assert len(set(expected.values())) >= 6
