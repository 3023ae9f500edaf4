"""An Airflow of its own for these tests, and a Kubernetes API that does as it is told."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

# Airflow reads its configuration when it is imported, so this stands above everything that imports it.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

from tests.conftest import ROOT
from tests.dags.fake_kubernetes import FakeKubernetes
from tests.servers import once

NAMESPACE = "maestro"
POD_TEMPLATE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"labels": {"app.kubernetes.io/part-of": "maestro", "app.kubernetes.io/component": "task"}},
    "spec": {
        "restartPolicy": "Never",
        "serviceAccountName": "maestro-task",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": {"pool": "tasks"},
        "containers": [
            {
                "name": "base",
                "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True},
                "volumeMounts": [{"name": "work", "mountPath": "/work"}],
                "env": [
                    {"name": "MAESTRO_DATA_BUCKET", "value": "data"},
                    {"name": "MAESTRO_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                ],
                "terminationMessagePolicy": "FallbackToLogsOnError",
            },
            {"name": "proxy", "image": "localhost/proxy:1", "securityContext": {"runAsUser": 1}},
        ],
        "volumes": [{"name": "work", "emptyDir": {}}],
    },
}
PLATFORM_ENVIRONMENTS: dict[str, Any] = {
    "s3": [{"name": "AWS_ENDPOINT_URL_S3", "value": "http://minio:9000"}],
    "mlflow": [{"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow:5000"}],
    "mlflow-reader": [{"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow:5000"}],
    "code": [{"name": "MAESTRO_CODE_VERSION", "value": "abc"}],
    "notifications": None,
    "pushgateway": [{"name": "MAESTRO_PUSHGATEWAY_HOST", "value": "pushgateway"}],
}
PLATFORM = {
    "namespace": NAMESPACE,
    "images": {"task": "localhost/maestro/task:abc", "datasets": "localhost/maestro/datasets:abc"},
    "sizes": {
        "small": {"requests": {"cpu": "100m"}, "limits": {"memory": "512Mi"}},
        "medium": {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}},
        "gpu": {"requests": {"cpu": "2"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": 1}},
    },
    "placements": {"gpu": {"nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}},
    "identities": {"deployer": "maestro-deployer"},
    "environments": PLATFORM_ENVIRONMENTS,
    "failedPodTTL": 3600,
    "reportsBucket": "reports",
    "dataBucket": "data",
}


Printed = Callable[..., dict[str, dict]]


@pytest.fixture(scope="session")
def printed_in_its_own_airflow(run_folder: Path) -> Printed:
    """The JSON on the last line that a Python program prints, beside an empty Airflow of its own."""

    def environment(home: Path) -> dict[str, str]:
        own = {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONPATH": str(ROOT)}
        return {**os.environ, **own}

    def migrated() -> str:
        home = Path(tempfile.mkdtemp(prefix="airflow-", dir=run_folder))
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        subprocess.run(migrate, env=environment(home), check=True, capture_output=True)
        return str(home / "airflow.db")

    def printed(home: Path, dags: Path, program: str, *arguments: str) -> dict[str, dict]:
        shutil.copy(once(run_folder, "migrated-airflow", migrated), home)
        command = [sys.executable, "-c", program, *arguments]
        env = environment(home) | {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
        done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, dict] = json.loads(done.stdout.strip().splitlines()[-1])
        return found

    return printed


@pytest.fixture(autouse=True)
def pod_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the chart mounts in Airflow's pods."""
    write_platform(tmp_path, monkeypatch)
    return tmp_path


def write_platform(folder: Path, environment: pytest.MonkeyPatch) -> None:
    (folder / "platform.yaml").write_text(yaml.safe_dump(PLATFORM))
    (folder / "pod-template.yaml").write_text(yaml.safe_dump(POD_TEMPLATE))
    environment.setenv("MAESTRO_POD_CONFIG", str(folder))


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """An API server, and an Airflow connection `kubernetes_default` to it."""
    with FakeKubernetes(NAMESPACE) as server:
        connect(server, monkeypatch)
        yield server


def connect(server: FakeKubernetes, environment: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "kubernetes", "extra": {"kube_config": json.dumps(server.kubeconfig())}}
    environment.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
