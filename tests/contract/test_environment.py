"""What charts tell a container in its environment is what the program in it reads, neither less nor more."""

import importlib.util
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import mlflow.environment_variables
import pytest
import yaml
from mlflow.cli import cli

from mlops.config import ModelServerSettings, RunIdentity, SensorSettings, Settings
from tests.charts.conftest import ROOT, Loader, Object, containers, environment
from tests.charts.profiles import maestro, pods

AIRFLOW = Path(next(iter(importlib.util.find_spec("airflow").submodule_search_locations)))
# What the libraries read that the commands use, and in the case of the last the release gate.
LIBRARIES = {"HOME", "PGPASSWORD", "PGCONNECT_TIMEOUT", "MLFLOW_DISABLE_TELEMETRY"}
RELEASE_GATE = {"DATABASE_URL"}


def each() -> Iterator[tuple[str, Object]]:
    """`pod container` and the container, of all containers of the platform."""
    for name, pod in pods(maestro("everything")).items():
        for container in containers(pod["spec"]):
            yield f"{name} {container['name']}", container


def told(name: str) -> set[str]:
    return set(environment(dict(each())[name]))


@pytest.mark.parametrize(
    ("name", "settings", "more"),
    [
        ("task base", Settings, {*RunIdentity.keys().values()}),
        ("datasets load", Settings, set()),
        ("datasets features", Settings, set()),
        ("minio-buckets buckets", Settings, set()),
        ("feast feast", Settings, set()),
        ("feast-apply apply", Settings, RELEASE_GATE),
        ("model-server model-server", ModelServerSettings, set()),
        ("sensor-trainer api", SensorSettings, set()),
        ("sensor-trainer-worker worker", SensorSettings, set()),
    ],
)
def test_a_command_is_told_every_setting_that_it_reads_and_nothing_else(
    name: str, settings: Any, more: set[str]
) -> None:
    assert told(name) - LIBRARIES == set(settings.keys().values()) | more


def test_the_migration_of_the_sensor_trainer_is_told_what_has_no_default() -> None:
    required = {field.metadata["key"] for field in fields(SensorSettings) if field.default is MISSING}
    assert told("sensor-trainer-migrate migrate") - LIBRARIES == required


def test_every_command_of_the_platform_that_a_container_runs_is_among_them() -> None:
    run = {name for name, container in each() if "python -m mlops " in f"{' '.join(container.get('args', ()))} "}
    assert run == {
        "task base",
        "datasets load",
        "datasets features",
        "minio-buckets buckets",
        "feast feast",
        "feast-apply apply",
        "model-server model-server",
        "sensor-trainer api",
        "sensor-trainer-worker worker",
        "sensor-trainer-migrate migrate",
    }


def test_every_variable_of_airflow_and_mlflow_is_one_that_they_know() -> None:
    options = yaml.load((AIRFLOW / "config_templates/config.yml").read_text(), Loader)  # noqa: S506
    known = {f"AIRFLOW__{s}__{o}".upper() for s, section in options.items() for o in section["options"]}
    known |= {"AIRFLOW_CONFIG", *vars(mlflow.environment_variables)}
    known |= {option.envvar for option in cli.commands["server"].params if isinstance(option.envvar, str)}
    # What postgresql-start reads is named for the users that it makes.
    theirs = [container for _, container in each() if "/postgresql:" not in container["image"]]
    names = {name for container in theirs for name in environment(container)}
    asked = {name for name in names if name.startswith(("AIRFLOW_", "MLFLOW_"))}
    assert len(asked) >= 8
    assert asked <= known


def test_every_variable_of_ours_is_read_by_our_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "mlops").rglob("*.py"))
    names = {name for _, container in each() for name in environment(container) if name.startswith("MAESTRO_")}
    assert not [name for name in names if f'"{name}"' not in code]
