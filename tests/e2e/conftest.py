"""The installed platform's services for end-to-end tests, by port-forward. `make e2e` brings it up first."""

import fcntl
import io
import os
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from uuid import uuid4

import boto3
import pandas as pd
import pytest
import requests
from xdist.scheduler import LoadScopeScheduling

from infrastructure import dags
from infrastructure.airflow import Airflow
from infrastructure.release import kubectl, selector, wait_until
from infrastructure.services import mlflow_writer, object_store_keys, port_forward
from tests.e2e import features
from tests.e2e.runs import finished

# In names of what a test makes: the release may keep that of an earlier session.
SESSION = uuid4().hex[:8]

# Set before MLflow is imported by a fixture: a stopped server is told within seconds.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "2"


# What is tested side by side: a group a process. Those of one group disturb each other, or the same data.
GROUPS = {
    "health": "operator and node",
    "inference": "operator and node",
    "monitoring": "operator and node",
    "operator": "operator and node",
    "release": "operator and node",
    "security_creds": "operator and node",
    "node": "operator and node",
    "sensors": "sensors and validation",
    "features": "features and training",
    "model_training": "features and training",
    "data_validation": "sensors and validation",
    "security_api": "operator and node",
    "security_mlflow": "pipeline",  # which takes the alias production away from the same model
}


class ByGroup(LoadScopeScheduling):
    """Gives all tests of a group to one process."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0].rpartition("/test_")[2].removesuffix(".py")
        return GROUPS.get(module, module)


def pytest_xdist_make_scheduler(config, log):
    return ByGroup(config, log)


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
            ("logs", "-l", selector("airflow-triggerer"), "--since=10m", "--tail=50"),
        )
        report.sections += [(f"kubectl {' '.join(look)}", kubectl(*look, check=False)[-8000:]) for look in looks]
    return report


def pytest_terminal_summary(terminalreporter):
    """One table: each test, its seconds with what was set up for it, its outcome, and what it measured."""
    took, outcomes, measured = {}, {}, {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            outcomes[report.nodeid] = outcome
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                took[report.nodeid] = took.get(report.nodeid, 0) + report.duration
                measured[report.nodeid] = report.user_properties
    terminalreporter.section("test, time, outcome")
    for name, outcome in outcomes.items():
        terminalreporter.write_line(f"{name.removeprefix('tests/e2e/'):<110} {took.get(name, 0):>6.1f} s  {outcome}")
        for what, value in measured.get(name, ()):
            terminalreporter.write_line(f"    {what}: {value}")


class Services:
    """Connections to the platform's services, to be made anew after the pods behind them were replaced."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def connect(self) -> None:
        self.close()
        from mlflow import MlflowClient

        forward = self._stack.enter_context
        self.airflow = Airflow(forward(port_forward("airflow-api-server")))
        os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = mlflow_writer()
        self.mlflow = MlflowClient(forward(port_forward("mlflow")))
        access_key, secret_key = object_store_keys()
        self.s3 = boto3.client(
            "s3",
            endpoint_url=forward(port_forward("minio", "api")),
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
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


@pytest.fixture(scope="session")
def materialized(services):
    """The id of a run that has filled the online store."""
    run_id = services.airflow.trigger(features.DAG)
    assert finished(services, run_id, features.DAG) == "success"
    return run_id


RAW = "datasets/adult/adult.parquet.brotli"


@contextmanager
def held(run_folder):
    """The raw table is nobody else's until the block ends."""
    with (run_folder / "raw.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def raw(services, run_folder):
    """The raw table of a set that nothing else reads, and what puts a changed one in its place until the test ends."""
    with held(run_folder):
        yield from changeable(services)


def changeable(services):
    real = services.s3.get_object(Bucket="data", Key=RAW)["Body"].read()

    def write(table):
        changed = io.BytesIO()
        table.to_parquet(changed, compression="brotli", index=False)
        services.s3.put_object(Bucket="data", Key=RAW, Body=changed.getvalue())

    yield pd.read_parquet(io.BytesIO(real)), write
    services.s3.put_object(Bucket="data", Key=RAW, Body=real)


@contextmanager
def placed_dags(services, dag_ids, source: str):
    """Puts a file with these DAGs into the release, ready to run, and takes them out of it afterwards."""
    name = f"{dag_ids[0]}.py"
    since = datetime.now(UTC).isoformat()

    def parsed(dag_id: str) -> bool:
        try:
            dag = services.airflow.call("GET", f"/dags/{dag_id}")
        except requests.HTTPError:
            return False
        # One of the same name may be known from an earlier session.
        return not dag["is_stale"] and (dag["last_parsed_time"] or "") > since

    try:
        dags.put({name: source.encode()})
        for dag_id in dag_ids:
            wait_until(lambda dag_id=dag_id: parsed(dag_id), 180, f"the DAG {dag_id}", 1)
            services.airflow.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})
        yield
    finally:
        for dag_id in dag_ids:
            with suppress(requests.HTTPError):  # one that was never seen
                services.airflow.call("PATCH", f"/dags/{dag_id}", json={"is_paused": True})
        dags.put({}, [name])
