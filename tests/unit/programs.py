"""Stand-ins for the programs that people's commands run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

# What a stand-in for kubectl answers, where it is asked for the Service of a component: the file of that name.
_SERVICES = """*" get service "*)
    component="$*"; component="${{component##*component=}}"
    cat "{folder}/service-${{component%% *}}" 2> /dev/null || echo '{{"items": []}}';;"""

# The ConfigMap in which a release describes the Job of a command, small: JSON is YAML.
_LABELS = {"labels": {"a": "b"}}
_POD = {"metadata": _LABELS, "spec": {"containers": [{"image": "datasets"}]}}
_JOB = {"metadata": _LABELS, "spec": {"template": _POD}}
_NEEDS = ("s3", "feast", "code", "sensor-trainer", "pushgateway", "mlflow", "model-server", "ledger")
_ENVIRONMENTS = {need: [{"name": need.upper(), "value": "x"}] for need in _NEEDS}
_LOADING = [["ingestion", "load", "--dataset", "all"], ["features", "build", "--dataset", "all"]]
DESCRIBED: dict[str, Any] = {
    "metadata": {"name": "our-command", "uid": "u-1"},
    "data": {
        "job.yaml": json.dumps(_JOB),
        "environments.yaml": json.dumps(_ENVIRONMENTS | {"notifications": None}),
        "identities.yaml": json.dumps({"model-server": "our-deployer"}),
        "datasets.yaml": json.dumps(_LOADING),
    },
}


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Puts a shell script of this name into the folder, and the folder before all others of the PATH."""
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def services_case(folder: Path) -> str:
    """The case of a stand-in for kubectl that finds the Services which `put_service` has put into the folder."""
    return _SERVICES.format(folder=folder)


def put_service(
    folder: Path, component: str, ports: Mapping[str, int], annotations: Mapping[str, str], *names: str
) -> None:
    """The Service of a component, our-<component>; or several of other names."""
    spec = {"ports": [{"name": name, "port": number} for name, number in ports.items()]}
    items = [
        {"metadata": {"name": name, "annotations": dict(annotations)}, "spec": spec}
        for name in names or (f"our-{component}",)
    ]
    (folder / f"service-{component}").write_text(json.dumps({"items": items}))
