"""MLflow and its models, as who has no password, another password, or the key of the bucket finds them."""

import subprocess
from contextlib import contextmanager

import pytest
import requests

from infrastructure.release import NAMESPACE, object_name
from infrastructure.services import mlflow_writer, port_forward, service

MODEL = "sensor-failure"  # which `make demo` puts into production
API = "/api/2.0/mlflow"
LOAD = """
import pathlib, sys, tempfile
from mlops.stores.tracking import Tracking
from mlops.training import families
folder = pathlib.Path(tempfile.mkdtemp())
family = families.get(families.FIRST)
print(family.load(Tracking.from_environment().download_model(sys.argv[1], folder, family.LAYOUT)))
"""
WRITE = """
import mlflow
mlflow.MlflowClient().create_experiment("e2e")
"""


@pytest.fixture
def mlflow():
    with port_forward("mlflow") as url:
        yield url


def in_model_server(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    place = ["kubectl", "-n", NAMESPACE, "exec", object_name("deployment", "model-server"), "--"]
    command = [*place, "python", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def test_without_a_password_mlflow_shows_its_health_and_its_metrics_and_nothing_else(mlflow):
    for path, status in (("/health", 200), ("/metrics", 200), ("/", 401), ("/version", 401)):
        assert requests.get(f"{mlflow}{path}", timeout=30).status_code == status, path
    search = requests.get(f"{mlflow}{API}/experiments/search?max_results=1", timeout=30)
    assert search.status_code == 401
    for method in ("PUT", "GET", "DELETE"):
        answer = requests.request(method, f"{mlflow}/api/2.0/mlflow-artifacts/artifacts/0/a", data=b"x", timeout=30)
        assert answer.status_code == 401, method


def test_the_reader_may_look_and_change_nothing(mlflow):
    reader = ("reader", service("mlflow").secret("reader-password"))
    assert requests.get(f"{mlflow}{API}/registered-models/search", auth=reader, timeout=30).status_code == 200
    answer = requests.post(f"{mlflow}{API}/experiments/create", json={"name": "e2e"}, auth=reader, timeout=30)
    assert answer.status_code == 403
    assert "may only read" in answer.json()["message"]


def test_the_model_server_is_the_reader(services):
    done = in_model_server(WRITE)
    assert done.returncode != 0
    assert "the user reader may only read" in done.stderr


@pytest.mark.parametrize(
    "path",
    [
        "/api/2.0/mlflow-artifacts/mpu/create/0/a",
        "/ajax-api/2.0/mlflow-artifacts/mpu/create/0/a",
        "/api/2.0/mlflow/artifacts/presigned-upload-url",
        "/gateway/mlflow/v1/chat/completions",
        "/api/2.0/mlflow/webhooks",
    ],
)
def test_what_hands_out_the_stores_addresses_or_asks_others_is_closed(mlflow, path):
    answer = requests.post(f"{mlflow}{path}", json={"path": "a", "num_parts": 1}, auth=mlflow_writer(), timeout=30)
    assert answer.status_code == 403
    assert "closed here" in answer.json()["message"]


@pytest.mark.parametrize("source", ["s3://logs/dag_id=ml_pipeline_dag", "s3://data/datasets", "file:///etc"])
def test_no_version_or_experiment_lies_outside_of_the_bucket(mlflow, source):
    for path, said in (
        ("model-versions/create", {"name": MODEL, "source": source}),
        ("experiments/create", {"name": f"e2e {source}", "artifact_location": source}),
    ):
        answer = requests.post(f"{mlflow}{API}/{path}", json=said, auth=mlflow_writer(), timeout=30)
        assert 400 <= answer.status_code < 500, answer.text


@contextmanager
def written(s3, key: str, content: bytes):
    """An object of MLflow's bucket, as one who has the bucket's key can write it."""
    s3.put_object(Bucket="mlflow", Key=key, Body=content)
    try:
        yield
    finally:
        s3.delete_object(Bucket="mlflow", Key=key)


def test_a_model_that_somebody_put_a_file_beside_is_not_loaded(services):
    version = services.mlflow.get_model_version_by_alias(MODEL, "production")
    uri = f"models:/{MODEL}/{version.version}"
    done = in_model_server(LOAD, uri)
    assert done.returncode == 0, done.stderr
    (made,) = services.mlflow.get_run(version.run_id).outputs.model_outputs
    pages = services.s3.get_paginator("list_objects_v2").paginate(Bucket="mlflow")
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    (declared,) = [key for key in keys if f"/{made.model_id}/" in key and key.endswith("/MLmodel")]
    with written(services.s3, declared.replace("MLmodel", "sitecustomize.py"), b"raise SystemExit('code ran')"):
        done = in_model_server(LOAD, uri)
    assert done.returncode != 0
    assert "sitecustomize.py was added" in done.stderr
    assert "code ran" not in done.stderr
