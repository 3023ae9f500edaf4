"""The servers that tests use: PostgreSQL, Redis, S3, MLflow and the push gateway, real, and each started in one way.

`shared` are those that all processes of a run use, each started by the first that asks for it. A test that kills or
empties a server starts one of its own.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, ClassVar, Self

import psycopg
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from mlops.config import RedisSettings
from tests.processes import answers, free_ports, is_healthy, running

ROOT = Path(__file__).parents[1]
MINIO = ROOT / ".build/bin/minio"
ACCESS_KEY, SECRET_KEY, REGION = "test-access-key", "test-secret-key", "us-east-1"
PASSWORD = "a,pass=word with anything"
KEEPER = Path(__file__).with_name("keeper.py")
MLFLOW_PLUGIN = Path(__file__).parents[1] / "images/mlflow"  # on Python's path in the image
REDIS_START = Path(__file__).parents[1] / "images/redis/redis-start"
REDIS_PASSWORDS = ("REDISCLI_AUTH", "FEATURES_PASSWORD", "QUEUE_PASSWORD", "CELERY_PASSWORD", "MONITORING_PASSWORD")


class Server(AbstractContextManager):
    """A process in a folder of its own, on ports of its own. It keeps its data while it is down."""

    ending = signal.SIGKILL  # as a machine that loses its power does it
    environment: ClassVar[dict[str, str]] = {}

    def __init__(self, within: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-", dir=within))
        self.command, self.url = self.prepared()
        self._process: subprocess.Popen[bytes] | None = None

    def prepared(self) -> tuple[list[str], str]:
        """The command line, and the address."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        return answers(self.url)

    def start(self) -> None:
        started = running(self.command, self.folder / "log", self.is_ready, self.environment, self.ending)
        self._process = started.__enter__()

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, self.ending)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder)


class PostgreSQL(Server):
    """Its superuser `postgres` needs no password; the address, postgresql://postgres@127.0.0.1:<port>, has no database.

    It refuses to run as root, who lends it to `nobody`.
    """

    # An immediate shutdown leaves what a crash leaves, but for the memory that its processes share.
    ending = signal.SIGQUIT

    def prepared(self) -> tuple[list[str], str]:
        programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
        if programs is None:
            pytest.fail("PostgreSQL's programs are not in /usr/lib/postgresql: apt-get install postgresql")
        unprivileged = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
            lend = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            unprivileged = ["env", "--chdir=/", *lend, "--"]
        initialize = [f"{programs}/initdb", "--no-sync", "--auth=trust", "--username=postgres", f"{self.folder}/data"]
        subprocess.run([*unprivileged, *initialize], check=True, stdout=subprocess.DEVNULL)
        (port,) = free_ports(1)
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder), "fsync": "off"}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        server = [f"{programs}/postgres", "-D", f"{self.folder}/data", "-p", str(port), *settings]
        return [*unprivileged, *server], f"postgresql://postgres@127.0.0.1:{port}"

    def is_ready(self) -> bool:
        try:
            psycopg.connect(f"{self.url}/postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, database: str, *statements: str) -> None:
        execute(f"{self.url}/{database}", *statements)


class Redis(Server):
    """Started by redis-start, with its users, who all have one password; `client` may do everything. Its address is its
    port. It writes each change to disk, as the chart's does, or keeps nothing.
    """

    environment: ClassVar = dict.fromkeys(REDIS_PASSWORDS, PASSWORD)

    def __init__(self, within: Path, *, persistent: bool = True) -> None:
        self._persistent = persistent
        super().__init__(within)
        self.port = int(self.url)
        self.client = redis.Redis(port=self.port, password=PASSWORD)

    def prepared(self) -> tuple[list[str], str]:
        (port,) = free_ports(1)
        keep = ["--save", "", "--appendonly", "yes" if self._persistent else "no"]
        started = ["env", f"REDIS_DATA={self.folder}", str(REDIS_START)]
        return [*started, "--port", str(port), "--bind", "127.0.0.1", *keep], str(port)

    def settings(self, username: str) -> RedisSettings:
        """What a pod is told that comes as this user."""
        return RedisSettings("127.0.0.1", str(self.port), username, PASSWORD)

    def is_ready(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class S3(Server):
    """MinIO as its image has it, behind the guard of images/minio; its root user has the two keys."""

    environment: ClassVar = {
        "MINIO_ROOT_USER": ACCESS_KEY,
        "MINIO_ROOT_PASSWORD": SECRET_KEY,
        "MINIO_REGION": REGION,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }

    def prepared(self) -> tuple[list[str], str]:
        if not MINIO.exists():
            pytest.fail(f"{MINIO} is missing: make {MINIO.relative_to(ROOT)}")
        (port,) = free_ports(1)
        (self.folder / "data").mkdir()
        return [str(MINIO), "server", f"{self.folder}/data", f"--address=127.0.0.1:{port}"], f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        return is_healthy(f"{self.url}/minio/health/ready")


class MLflow(Server):
    """It keeps its runs in SQLite, hands artifacts through and asks for a password, as in the cluster.

    A client whose environment names a workspace (MLFLOW_WORKSPACE) finds nothing of other workspaces.
    """

    writer: ClassVar = {"MLFLOW_TRACKING_USERNAME": "writer", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    reader: ClassVar = {"MLFLOW_TRACKING_USERNAME": "reader", "MLFLOW_TRACKING_PASSWORD": f"another {PASSWORD}"}
    environment: ClassVar = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": str(MLFLOW_PLUGIN),
        "TRACKING_WRITER_PASSWORD": writer["MLFLOW_TRACKING_PASSWORD"],
        "TRACKING_READER_PASSWORD": reader["MLFLOW_TRACKING_PASSWORD"],
    }

    def prepared(self) -> tuple[list[str], str]:
        (port,) = free_ports(1)
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--enable-workspaces"),
            *("--serve-artifacts", "--artifacts-destination", str(self.folder / "artifacts"), "--app-name", "maestro"),
        ]
        return command, f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        return answers(f"{self.url}/health")


class PushGateway(Server):
    """Prometheus' push gateway, which keeps nothing while it is down."""

    def prepared(self) -> tuple[list[str], str]:
        (port,) = free_ports(1)
        # Debian's would keep what it has after five minutes in a file that the next one reads.
        alone = (f"--web.listen-address=127.0.0.1:{port}", "--persistence.file=", "--log.level=error")
        return ["prometheus-pushgateway", *alone], f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        return is_healthy(f"{self.url}/-/ready")

    def samples(self, *names: str) -> list[Sample]:
        """What it shows Prometheus of these metrics; of all that were pushed without a name."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        pushed = [sample for family in families for sample in family.samples if "job" in sample.labels]
        return [sample for sample in pushed if not names or sample.name in names]

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric over all groups, of the series that have these labels."""
        return sum(sample.value for sample in self.samples(name) if labels.items() <= sample.labels.items())


def begin(run: Path) -> IO[str]:
    """Makes the folder one of a run, which goes on until this process ends or closes the file."""
    run.chmod(0o711)  # PostgreSQL runs as nobody
    (run / "kept").touch()
    lock = (run / "lock").open("w")
    fcntl.lockf(lock, fcntl.LOCK_EX)  # of this process only: one that it forks does not hold it
    return lock


def end(run: Path, lock: IO[str]) -> None:
    """Waits until none of the run's shared servers is left, and removes the folder."""
    lock.close()
    with (run / "kept").open() as kept:
        fcntl.flock(kept, fcntl.LOCK_EX)
    shutil.rmtree(run)


def once(run: Path, name: str, make: Callable[[], str]) -> str:
    """What `make` hands back, which one process of the run calls and the others wait for.

    run: the run's folder.
    """
    file = run / name
    with (run / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            text = make()
            file.write_text(text)
    return file.read_text()


def shared(run: Path, kind: type[Server]) -> str:
    """The address of the run's server of this kind. It outlives the process that starts it; see tests/keeper.py."""

    def start() -> str:
        server = kind(run)
        kept = [sys.executable, "-S", str(KEEPER), str(run), str(server.folder), str(int(server.ending))]
        server.command, server.ending = [*kept, *server.command], signal.SIGTERM
        server.start()
        return server.url

    return once(run, kind.__name__, start)


def execute(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def new_database(server: str, template: str = "template1") -> str:
    """The URL of a new database of the server, which is postgresql://postgres@<host>:<port>."""
    name = f"test_{uuid.uuid4().hex}"
    execute(f"{server}/postgres", f"create database {name} template {template}")
    return f"{server}/{name}"


def copied(server: str, name: str, make: Callable[[], str]) -> str:
    """The URL of a copy of the database that `make` makes once a server and hands back the URL of.

    name: what it is renamed to, so that nobody connects to it any more.
    """
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        # Until the connection ends.
        connection.execute("select pg_advisory_lock(hashtext(%s))", [name])
        if not connection.execute("select from pg_database where datname = %s", [name]).rowcount:
            made = make().rpartition("/")[2]
            connection.execute(f"alter database {made} rename to {name}")
    return new_database(server, name)


def airflow_environment(server: PostgreSQL) -> dict[str, str]:
    """What Airflow's programs are told, whose metadata are in the database `airflow` of that server."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    return own | {
        "AIRFLOW_HOME": str(server.folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": server.url.replace("postgresql:", "postgresql+psycopg2:") + "/airflow",
        "PYTHONPATH": str(ROOT),
    }
