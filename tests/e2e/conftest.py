"""The installed platform's services for end-to-end tests, by port-forward. `make e2e` brings it up first."""

import gzip
import io
import os
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta

import boto3
import pandas as pd
import pytest
import requests

from infrastructure.release import (
    NAMESPACE,
    Airflow,
    NotInstalled,
    kubectl,
    object_name,
    port_forward,
    secret,
    wait_until,
)
from tests.e2e.runs import retry_now

# Set before MLflow is imported by a fixture: a stopped server is told within seconds.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "2"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Puts beside a failure how the cluster was at that moment: by the time one looks it is another."""
    report = yield
    if report.failed:
        everywhere = "--all-namespaces"  # a test may have made a release beside the first
        looks = (
            ("get", "pods", everywhere, "--field-selector=status.phase=Pending", "-o", "wide"),
            ("get", "pods", everywhere, "-o", "wide"),
            ("get", "events", everywhere, "--field-selector=type!=Normal", "--sort-by=.lastTimestamp"),
            ("logs", f"deployment/{object_name('airflow-triggerer')}", "--since=10m", "--tail=50"),
        )
        report.sections += [(f"kubectl {' '.join(look)}", kubectl(*look, check=False)[-8000:]) for look in looks]
    return report


class Services:
    """Connections to the platform's services, to be made anew after the pods behind them were replaced."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def connect(self) -> None:
        self.close()
        from mlflow import MlflowClient

        forward = self._stack.enter_context
        self.airflow = Airflow(forward(port_forward("airflow-api-server")))
        self.mlflow = MlflowClient(forward(port_forward("mlflow")))
        self.s3 = boto3.client(
            "s3",
            endpoint_url=forward(port_forward("minio")),
            aws_access_key_id=secret("minio", "root-user"),
            aws_secret_access_key=secret("minio", "root-password"),
            region_name="us-east-1",
        )

    def close(self) -> None:
        self._stack.close()
        self._stack = ExitStack()


@pytest.fixture(scope="session")
def services():
    services = Services()
    services.connect()
    yield services
    services.close()


def wait_between_runs(services, dag_id, minutes):
    """Waits until no run of a DAG is under way and the schedule starts none for some minutes."""

    def undisturbed():
        try:
            due = services.airflow.call("GET", f"/dags/{dag_id}")["next_dagrun_run_after"]
            runs = services.airflow.call("GET", f"/dags/{dag_id}/dagRuns", params={"state": ["queued", "running"]})
            # The first of a platform that was just installed finds no data yet.
            for run in runs["dag_runs"]:
                retry_now(services, run["dag_run_id"], dag_id)
        except requests.RequestException:
            # The test before may have restarted what answers, and failed before it connected anew.
            with suppress(requests.RequestException, OSError, NotInstalled):
                services.connect()
            return False
        left = datetime.fromisoformat(due) - datetime.now(UTC)
        return not runs["total_entries"] and left > timedelta(minutes=minutes)

    wait_until(undisturbed, (minutes + 10) * 60, f"the end of a scheduled run of {dag_id}", 2)


@pytest.fixture(scope="module", autouse=True)
def between_scheduled_runs(request, services):
    """Begins a module's tests when the schedule starts no run of its DAG meanwhile: MINUTES, as long as they take."""
    if dag_id := getattr(request.module, "DAG", None):
        wait_between_runs(services, dag_id, getattr(request.module, "MINUTES", 8))


RAW = "datasets/shuttle/shuttle.csv.gz"


@pytest.fixture
def raw(services):
    """The data set's raw table and a function that puts a changed one in its place; the real one returns afterwards."""
    real = services.s3.get_object(Bucket="data", Key=RAW)["Body"].read()

    def write(table):
        services.s3.put_object(Bucket="data", Key=RAW, Body=gzip.compress(table.to_csv(index=False).encode()))

    yield pd.read_csv(io.BytesIO(real), compression="gzip"), write
    services.s3.put_object(Bucket="data", Key=RAW, Body=real)


# Who reads DAG files: one parses them, the other runs their tasks.
DAG_READERS = (("airflow-dag-processor", "dag-processor"), ("airflow-scheduler", "scheduler"))


@contextmanager
def placed_dags(services, dag_ids, source: str):
    """Puts a file with these DAGs into the release, ready to run, and takes them out of it afterwards."""
    path = f"/opt/maestro/dags/{dag_ids[0]}.py"
    since = datetime.now(UTC).isoformat()
    for component, container in DAG_READERS:
        place = ["kubectl", "-n", NAMESPACE, "exec", "-i", f"deployment/{object_name(component)}", "-c", container]
        subprocess.run([*place, "--", "sh", "-c", f"cat > {path}"], input=source, text=True, check=True)

    def parsed(dag_id: str) -> bool:
        try:
            dag = services.airflow.call("GET", f"/dags/{dag_id}")
        except requests.HTTPError:
            return False
        # One of the same name may be known from an earlier session.
        return not dag["is_stale"] and (dag["last_parsed_time"] or "") > since

    try:
        for dag_id in dag_ids:
            wait_until(lambda dag_id=dag_id: parsed(dag_id), 180, f"the DAG {dag_id}", 1)
            services.airflow.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})
        yield
    finally:
        for component, container in DAG_READERS:
            kubectl("exec", f"deployment/{object_name(component)}", "-c", container, "--", "rm", "-f", path)
        for dag_id in dag_ids:
            services.airflow.call("PATCH", f"/dags/{dag_id}", json={"is_paused": True})


@pytest.fixture
def dag_file(services):
    """Puts a DAG's file into the release until the test ends."""
    with ExitStack() as stack:
        yield lambda dag_id, source: stack.enter_context(placed_dags(services, [dag_id], source))
