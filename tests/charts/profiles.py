"""The platform as each profile renders it, and the pods of it: those of Jobs, tests and tasks among them."""

import copy
import re
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from infrastructure.commands import make_job
from mlops.airflow.platform import Platform
from mlops.airflow.pods.manifest import TaskTry, make_pod
from tests.charts.conftest import ROOT, Object, find, pod_template, render

# Values that switch on what the defaults leave out, so that it is rendered too.
EVERYTHING: dict[str, Any] = {
    "global": {
        "notifications": {
            "slackWebhookSecret": "slack",
            "mail": {"host": "smtp.example.com", "existingSecret": "mail"},
            "addresses": {"airflow": "https://airflow.example.com", "mlflow": "https://mlflow.example.com"},
        },
        "images": {"pullSecrets": ["registry"]},
        "tls": {"enabled": True},
        "postgresql": {"pooler": {"enabled": True}},
    },
    "postgresql": {
        "pooler": {"replicas": 2},
        "conf": {"max_connections": 1000},
        "backup": {"enabled": True},
        "restore": {"from": "maestro-before", "at": "2026-11-28 09:30:00+00"},
    },
    "minio": {"lifecycle": {"expire": {"logs": 90, "predictions": 365}, "versions": {"data": 30, "mlflow": 30}}},
    "retention": {"enabled": True},
    "mlflow": {"replicas": 2, "retention": {"enabled": True}},
    "modelServer": {
        "models": {
            "clicks": {"model": "click-through-activity", "onlineFeatures": True, "log": {"share": 0.5}},
            "trial": {"model": "sensor-failure", "alias": "staging", "autoscaling": {"minReplicas": 3}},
        }
    },
    "sensorTrainer": {"worker": {"autoscaling": {"minReplicas": 2, "metricSelector": {"release": "maestro"}}}},
    "airflow": {
        **{component: {"replicas": 2} for component in ("apiServer", "scheduler", "dagProcessor", "triggerer")},
        "dags": {"persistence": {"enabled": True}},
        "executor": "CeleryExecutor",
        "taskSizes": {"large": {"queue": "large"}},
        "workers": {
            "hpa": {"enabled": True},
            "sets": {"large": {"queue": "large", "hpa": {"enabled": False}}},
        },
        "retention": {"enabled": True},
    },
}


def of_file(path: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return values


def merge(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """The values of both; where both say something, the second one's count, as with helm's `-f one -f two`."""
    merged = copy.deepcopy(one)
    for key, value in two.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


PRODUCTION = of_file("charts/maestro/values-prod.yaml")
PROFILES: dict[str, dict[str, Any]] = {
    "default": {},
    "minikube": of_file("charts/maestro/values-minikube.yaml"),
    "prod": PRODUCTION,
    "everything": EVERYTHING,
}
CLOUDS = {
    path.stem: merge(PRODUCTION, of_file(f"infrastructure/clouds/{path.name}"))
    for path in sorted((ROOT / "infrastructure/clouds").glob("*.yaml"))
}


@cache
def maestro(profile: str) -> list[Object]:
    """The objects of the platform, the pod of a task, and that of a command which a person runs."""
    objects = render("maestro", {**PROFILES, **CLOUDS}[profile])
    return [*objects, task_pod(objects), command_pod(objects)]


def task_pod(objects: list[Object], identity: str | None = None, needs: Sequence[str] | None = None) -> Object:
    """What the operator makes of the template that the airflow chart renders; with all needs where none are given."""
    task = TaskTry("dag", "task", "run", -1, 1, str(uuid.UUID(int=1)))
    there = platform(objects)
    opened = there.environments if needs is None else needs
    return make_pod(there, task, ["python", "-m", "mlops"], identity=identity, needs=list(opened))


def command_job(objects: list[Object], group: str, command: str, *options: str) -> Object:
    """What `infrastructure.commands` makes of what the umbrella renders."""
    described = find(objects, "ConfigMap", "maestro-command")
    installed = {**described, "metadata": {**described["metadata"], "uid": str(uuid.UUID(int=2))}}
    return make_job(installed, group, command, options)


def command_pod(objects: list[Object]) -> Object:
    """The pod of that Job, for the command of those that people run which opens most."""
    template = command_job(objects, "features", "build")["spec"]["template"]
    metadata = {"name": "maestro-command", **template["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def platform(objects: list[Object]) -> Platform:
    """What the operator reads of what the airflow chart renders."""
    with TemporaryDirectory() as folder:
        for name, content in find(objects, "ConfigMap", "maestro-airflow-pods")["data"].items():
            (Path(folder) / name).write_text(content)
        return Platform.load(Path(folder))


def pods(objects: list[Object]) -> dict[str, Object]:
    """Each pod that the objects are or make, with its metadata, by the object's name.

    The release and a Job's hash are left out of the name; the pod of a task is called `task`.
    """
    found = {}
    for entry in objects:
        name = re.sub(r"-[0-9a-f]{8}$", "", entry["metadata"]["name"].removeprefix("maestro-"))
        if entry["kind"] == "Pod":
            found["task" if name.startswith("dag-task-") else name] = entry
        elif template := pod_template(entry):
            found[name] = template
    return found
