"""PostgreSQL and Redis that a test may kill and start again, with the data they had."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.conftest import eventually, free_ports

PASSWORD = "test-redis"
_PROGRAMS = "/usr/lib/postgresql/15/bin"
_UNPRIVILEGED = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []


class Server:
    """One process on one port. It keeps its data while it is down."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self.command, self.port, self._log = command, port, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd="/", start_new_session=True)
        eventually(self._is_ready, 60)

    def kill(self) -> None:
        """Ends it at once, as a machine that loses its power does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def _is_ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class PostgreSQL(Server):
    @property
    def url(self) -> str:
        """As the superuser, without a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}"

    def execute(self, database: str, *statements: str) -> None:
        with psycopg.connect(f"{self.url}/{database}", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def kill(self) -> None:
        """What an immediate shutdown leaves is what a crash leaves; its processes have let go of the memory then."""
        file = Path(self.command[self.command.index("-D") + 1]) / "postmaster.pid"
        if self._process is not None and file.exists():
            os.kill(int(file.read_text().split()[0]), signal.SIGQUIT)
            self._process.wait()
            self._process = None
        super().kill()

    def _is_ready(self) -> bool:
        try:
            psycopg.connect(f"{self.url}/postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgresql_server() -> Iterator[PostgreSQL]:
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if _UNPRIVILEGED:
        shutil.chown(folder, "nobody", "nogroup")
    initialize = [f"{_PROGRAMS}/initdb", "--no-sync", "--auth=trust", "--username=postgres", f"{folder}/data"]
    subprocess.run([*_UNPRIVILEGED, *initialize], check=True, stdout=subprocess.DEVNULL, cwd="/")
    (port,) = free_ports(1)
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "fsync": "off"}
    settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    command = [*_UNPRIVILEGED, f"{_PROGRAMS}/postgres", "-D", f"{folder}/data", "-p", str(port), *settings]
    server = PostgreSQL(command, port, folder / "log")
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


@contextmanager
def redis_server(folder: Path) -> Iterator[Server]:
    """One that writes each change to disk, as the chart's does."""
    (port,) = free_ports(1)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", PASSWORD, "--dir", str(folder)]
    server = Server(["redis-server", *options, "--appendonly", "yes", "--save", ""], port, folder / "redis.log")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def new_role(server: str) -> str:
    """The name of a role that may log in and nothing else; other tests have roles of their own on the server."""
    name = f"sensors_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"create role {name} login")
    return name


def own_database(server: str) -> str:
    """The URL of a new database and its user of the same name, confined to a schema as postgresql-start does it.

    server: postgresql://postgres@<host>:<port>, without a database.
    """
    name = new_role(server)
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")
        connection.execute(f"revoke all on database {name} from public")
        connection.execute(f"grant connect, temporary on database {name} to {name}")
    with psycopg.connect(f"{server}/{name}", autocommit=True) as connection:
        connection.execute(f"create schema sensors authorization {name}")
        connection.execute("revoke all on schema public from public")
    return f"{server.replace('postgres@', f'{name}@')}/{name}"
