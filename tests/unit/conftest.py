"""The platform as a command in a pod sees it, without a cluster."""

import gzip
import json
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from mlops import datasets
from mlops.cli import main
from mlops.config import FeastSettings, FromEnvironment, MLflowSettings, S3Settings
from mlops.features.engineer import engineer
from mlops.features.split import split
from mlops.needs import needs
from mlops.result import JSON
from mlops.stores.object_store import ObjectStore
from mlops.stores.tracking import Tracking
from tests.conftest import ACCESS_KEY, SECRET_KEY, cleaned, enter_workspace, raw_rows
from tests.servers import MLflow, PushGateway

# What a pod is told of each thing that it may need.
KEYS = {record.need: record.keys() for record in FromEnvironment.__subclasses__() if record.need}


@dataclass(frozen=True)
class Platform:
    """Fresh buckets and a fresh model registry, and the command line as one pod after the other would run it."""

    s3: S3Settings
    mlflow: MLflowSettings
    feast: FeastSettings
    run_id: str
    result: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def data(self) -> ObjectStore:
        return ObjectStore(self.s3, self.s3.data_bucket)

    @property
    def reports(self) -> ObjectStore:
        return ObjectStore(self.s3, self.s3.reports_bucket)

    @property
    def offline(self) -> ObjectStore:
        """The bucket of Feast's offline store."""
        return ObjectStore(self.s3, self.feast.bucket)

    @property
    def tracking(self) -> Tracking:
        return Tracking(self.mlflow)

    def run(self, *arguments: str, task: str | None = None) -> tuple[int, str]:
        """(exit code, termination message) of `python -m mlops` with these arguments, as the task (or command).

        As in a pod it is told of what it needs, and of nothing else.
        """
        self.monkeypatch.setenv("MAESTRO_TASK_ID", task or arguments[1])
        self.result.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as pod:
            needed = needs(*arguments[:2])
            told = set().union(*(KEYS[need] for need in needed))
            for name in set().union(*KEYS.values()) - told:
                pod.delenv(name, raising=False)
            if "mlflow-reader" in needed:
                for name, value in MLflow.reader.items():
                    pod.setenv(name, value)
            code = main(arguments)
        return code, self.result.read_text()

    def result_of(self, *arguments: str, task: str | None = None) -> dict[str, JSON]:
        """The result of a command that must succeed."""
        code, message = self.run(*arguments, task=task)
        assert code == 0, message
        result: dict[str, JSON] = json.loads(message)
        return result

    def failure_of(self, *arguments: str, task: str | None = None, code: int = 1) -> str:
        """The cause that a command hands back, which must fail with the code."""
        found, message = self.run(*arguments, task=task)
        assert found == code, message
        return message

    def as_run(self, run_id: str) -> "Platform":
        """The same platform in another DAG run."""
        self.monkeypatch.setenv("MAESTRO_RUN_ID", run_id)
        return replace(self, run_id=run_id)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment of a task pod, whose services are all away."""
    return set_environment(monkeypatch, tmp_path)


def set_environment(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, str]:
    identity = uuid.uuid4().hex[:12]
    values = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "MAESTRO_DATA_BUCKET": f"data-{identity}",
        "MAESTRO_REPORTS_BUCKET": f"reports-{identity}",
        "MAESTRO_NAMESPACE": "maestro",
        "MAESTRO_CODE_VERSION": "0123abcd",
        "MAESTRO_MODEL_SERVER_DEPLOYMENT": "maestro-model-server",
        "MAESTRO_MODEL_SERVER_URL": "http://127.0.0.1:9",
        "MAESTRO_FEAST_BUCKET": f"feast-{identity}",
        "MAESTRO_FEAST_REGISTRY": "postgresql+psycopg2://feast@127.0.0.1:9/feast",
        "MAESTRO_FEAST_REGISTRY_PASSWORD": "none",
        "MAESTRO_REDIS_HOST": "127.0.0.1",
        "MAESTRO_REDIS_PORT": "9",
        "MAESTRO_REDIS_USERNAME": "features",
        "MAESTRO_REDIS_PASSWORD": "none",
        "MAESTRO_SENSOR_TRAINER_URL": "http://127.0.0.1:9",
        "MAESTRO_SENSOR_TRAINER_TOKEN": "none",
        "MAESTRO_AIRFLOW_URL": "http://127.0.0.1:9",
        "MAESTRO_AIRFLOW_USERNAME": "monitoring",
        "MAESTRO_AIRFLOW_PASSWORD": "none",
        "MAESTRO_PROMETHEUS_URL": "http://127.0.0.1:9",
        "MAESTRO_DAG_ID": "ml_pipeline_dag",
        "MAESTRO_RUN_ID": f"manual__2026-01-01T02:00:00+00:00_{identity}",
        "MAESTRO_TASK_ID": "task",
        "MAESTRO_TRY_NUMBER": "1",
        "MAESTRO_RESULT_PATH": str(folder / "termination-log"),
    }
    for key, value in values.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("MAESTRO_SLACK_WEBHOOK_URL", raising=False)
    monkeypatch.delenv("MAESTRO_MAP_INDEX", raising=False)
    return values


@pytest.fixture
def gateway(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PushGateway]:
    """A push gateway, of which commands are told, and for which they wait as long as it takes on a busy machine."""
    monkeypatch.setattr("mlops.stores.metrics.PATIENCE", 240.0)
    with PushGateway(run_folder) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        monkeypatch.setenv("MAESTRO_PUSHGATEWAY_HOST", host)
        monkeypatch.setenv("MAESTRO_PUSHGATEWAY_PORT", port)
        yield server


@pytest.fixture
def tracking(mlflow_uri: str) -> Tracking:
    """With a fresh model registry."""
    return Tracking(MLflowSettings(mlflow_uri))


@pytest.fixture
def platform(
    environment: dict[str, str], s3_endpoint: str, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> Platform:
    return new_platform(s3_endpoint, monkeypatch)


@pytest.fixture(scope="module")
def module_platform(
    s3_endpoint: str, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """For what the tests of a module only read; a test that has a platform of its own sees that one."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_environment(monkeypatch, tmp_path_factory.mktemp("pod"))
        enter_workspace(mlflow_server, monkeypatch)
        yield new_platform(s3_endpoint, monkeypatch)


def new_platform(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """That of the environment, with its buckets."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    stores = (S3Settings.from_environment(), MLflowSettings.from_environment(), FeastSettings.from_environment())
    found = Platform(*stores, os.environ["MAESTRO_RUN_ID"], Path(os.environ["MAESTRO_RESULT_PATH"]), monkeypatch)
    names = (found.s3.data_bucket, found.s3.reports_bucket, found.feast.bucket)
    found.result_of("ingestion", "buckets", *(f"--name={name}" for name in names))
    return found


@pytest.fixture
def put_shuttle(platform: Platform, datasets_dir: Path) -> Callable[..., None]:
    """Puts the shuttle set into the data bucket after a change of its table in place; as it is, to begin with."""
    table = pd.read_csv(datasets_dir / "shuttle/shuttle.csv.gz")

    def put(change: Callable[[pd.DataFrame], object] = lambda table: None) -> None:
        changed = table.copy()
        change(changed)
        content = gzip.compress(changed.to_csv(index=False).encode(), compresslevel=1)
        platform.data.write_bytes(datasets.get("shuttle").object_key("shuttle.csv.gz"), content)

    put()
    return put


@dataclass(frozen=True)
class Tables:
    """The tables that a DAG run makes of one data set, by the same functions and without a store between them."""

    raw: pd.DataFrame
    clean: pd.DataFrame
    train: pd.DataFrame
    test: pd.DataFrame


@pytest.fixture(scope="session")
def tables(datasets_dir: Path) -> Callable[[str], Tables]:
    """The tables of a data set by its name, each made once."""
    made: dict[str, Tables] = {}

    def of(name: str) -> Tables:
        if name not in made:
            dataset = datasets.get(name)
            raw = raw_rows(dataset, datasets_dir / name).to_pandas()
            clean = cleaned(raw, dataset)
            parts = split(pl.from_pandas(clean).lazy(), dataset)
            train, test = (engineer(part, dataset).collect().to_pandas() for part in parts)
            made[name] = Tables(raw, clean, train, test)
        return made[name]

    return of
