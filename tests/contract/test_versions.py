"""A version that stands in more than one place is the same in all of them."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.charts.conftest import ROOT
from tests.conftest import load_module

NODE = load_module(ROOT / "infrastructure/local/config.py")
GO_MOD = ROOT / "infrastructure/local/node/go.mod"


def read(path: Path, pattern: str) -> str:
    """What the one group of the pattern holds, the same wherever it is found in the file."""
    (found,) = set(re.findall(pattern, path.read_text(), re.MULTILINE))
    return str(found)


def test_the_modules_of_kubernetes_belong_together() -> None:
    of_staging = NODE.KUBERNETES_VERSION.replace("v1.", "v0.", 1)
    assert read(GO_MOD, r"^\tk8s\.io/client-go (v\S+)$") == of_staging
    assert read(GO_MOD, r"^replace k8s\.io/\S+ => k8s\.io/\S+ (\S+)$") == of_staging


def test_the_addon_asks_for_the_metrics_server_that_is_built() -> None:
    addon = ROOT / "infrastructure/local/addons/metrics-server.yaml"
    assert read(addon, r"image: localhost/metrics-server:(\S+)$") == NODE.METRICS_SERVER_VERSION


def test_the_go_that_all_is_built_with_is_young_enough_for_the_node() -> None:
    asked, there = read(GO_MOD, r"^go (\S+)$"), NODE.GO_PACKAGE.partition("==")[2]
    assert [*map(int, asked.split("."))] <= [*map(int, there.split("."))]


def test_types_are_checked_for_the_python_that_the_project_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"].startswith(f">={project['tool']['mypy']['python_version']},")


# The version that a chart says it installs, and the file and the pattern that say what is installed.
INSTALLED = {
    "airflow": ("constraints.txt", r"^apache-airflow==(\S+)$"),
    "feast": ("constraints.txt", r"^feast==(\S+)$"),
    "mlflow": ("constraints.txt", r"^mlflow==(\S+)$"),
    "monitoring": ("images/monitoring/Dockerfile", r"^ARG STATSD_EXPORTER_VERSION=(\S+)$"),
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
    commit = read(ROOT / "images/minio/go.mod", r"^\tgithub\.com/minio/minio v0\.0\.0-(\d{14})-\w{12}$")
    for name in ("MINIO_RELEASE", "MINIO_TIME"):
        assert re.sub(r"\D", "", read(dockerfile, rf"^ARG {name}=(\S+)$")) == commit
    said = yaml.safe_load((ROOT / "charts/minio/Chart.yaml").read_text())["appVersion"]
    year, month, day = map(int, said.split("."))
    assert commit.startswith(f"{year:04}{month:02}{day:02}")
