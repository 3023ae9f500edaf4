"""A version that stands in more than one place is the same in all of them."""

import re
from pathlib import Path

import pytest
import yaml

from tests.charts.conftest import ROOT
from tests.conftest import load_module

NODE = load_module(ROOT / "infrastructure/local/config.py")
GO_MOD = ROOT / "infrastructure/local/node/go.mod"
BUILDER = ROOT / "images/builder/Dockerfile"


def read(path: Path, pattern: str) -> str:
    """What the one group of the pattern holds, the same wherever it is found in the file."""
    (found,) = set(re.findall(pattern, path.read_text(), re.MULTILINE))
    return str(found)


def required(module: str) -> str:
    return read(GO_MOD, rf"^\t{re.escape(module)} (v\S+)$")


def test_both_local_clusters_run_one_kubernetes_built_of_modules_that_belong_together() -> None:
    assert required("k8s.io/kubernetes") == NODE.KUBERNETES_VERSION
    assert read(ROOT / "infrastructure/minikube/cluster", r"--kubernetes-version (\S+)") == NODE.KUBERNETES_VERSION
    of_staging = NODE.KUBERNETES_VERSION.replace("v1.", "v0.", 1)
    assert read(GO_MOD, r"^replace k8s\.io/\S+ => k8s\.io/\S+ (\S+)$") == of_staging
    assert required("k8s.io/client-go") == of_staging


def test_components_of_the_node_are_called_what_they_are_built_from() -> None:
    """kubeadm asks for images by these versions, and the images are made of the modules."""
    assert required("go.etcd.io/etcd/server/v3") == f"v{NODE.ETCD_VERSION.partition('-')[0]}"
    assert required("github.com/coredns/coredns") == NODE.COREDNS_VERSION
    assert required("sigs.k8s.io/metrics-server") == NODE.METRICS_SERVER_VERSION
    addon = ROOT / "infrastructure/local/addons/metrics-server.yaml"
    assert read(addon, r"image: localhost/metrics-server:(\S+)$") == NODE.METRICS_SERVER_VERSION


def test_the_node_and_the_images_are_built_with_one_go_which_is_young_enough() -> None:
    package, _, version = NODE.GO_PACKAGE.partition("==")
    assert f'"{package}==${{GO_VERSION}}"' in BUILDER.read_text()
    assert read(BUILDER, r"^ARG GO_VERSION=(\S+)$") == version
    asked = tuple(map(int, read(GO_MOD, r"^go (\S+)$").split(".")))
    assert asked[:2] == NODE.GO_MINIMUM
    assert asked <= tuple(map(int, version.split(".")))


def test_packages_are_installed_here_and_in_the_images_by_one_uv() -> None:
    assert read(BUILDER, r"^ARG UV_VERSION=(\S+)$") == read(ROOT / "Makefile", r"^UV_VERSION := (\S+)$")


# The version that a chart says it installs, and the file and the pattern that say what is installed.
INSTALLED = {
    "airflow": ("constraints.txt", r"^apache-airflow==(\S+)$"),
    "feast": ("constraints.txt", r"^feast==(\S+)$"),
    "mlflow": ("constraints.txt", r"^mlflow==(\S+)$"),
    "postgresql": ("images/postgresql/Dockerfile", r"\bpostgresql[-/](\d+)\b"),
}


@pytest.mark.parametrize("chart", INSTALLED)
def test_a_chart_says_the_version_that_its_image_holds(chart: str) -> None:
    said = yaml.safe_load((ROOT / f"charts/{chart}/Chart.yaml").read_text())["appVersion"]
    path, pattern = INSTALLED[chart]
    assert said == read(ROOT / path, pattern)


def test_postgresql_start_opens_clusters_of_the_major_version_that_the_image_holds() -> None:
    assert read(ROOT / "images/postgresql/postgresql-start", r"^MAJOR=(\d+)$") == read(
        ROOT / INSTALLED["postgresql"][0], INSTALLED["postgresql"][1]
    )


def test_minio_is_stamped_with_the_time_of_the_commit_that_it_is_built_from() -> None:
    dockerfile = ROOT / "images/minio/Dockerfile"
    commit = read(dockerfile, r"^ARG MINIO_VERSION=v0\.0\.0-(\d{14})-\w{12}$")
    for name in ("MINIO_RELEASE", "MINIO_TIME"):
        assert re.sub(r"\D", "", read(dockerfile, rf"^ARG {name}=(\S+)$")) == commit
    said = yaml.safe_load((ROOT / "charts/minio/Chart.yaml").read_text())["appVersion"]
    year, month, day = map(int, said.split("."))
    assert commit.startswith(f"{year:04}{month:02}{day:02}")
