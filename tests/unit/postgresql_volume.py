"""Servers of postgresql-start and pooler-start, with Debian's programs, as the user whom the image runs them as."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import psycopg2

from tests.conftest import eventually, free_ports
from tests.processes import is_free

SCRIPTS = Path(__file__).parents[2] / "images/postgresql"
PROGRAMS = "/usr/lib/postgresql/15/bin"
# PostgreSQL refuses to run as root.
UNPRIVILEGED = {"cwd": "/", **({"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {})}
PASSWORDS = {"POSTGRES_PASSWORD": "it's-postgres", "AIRFLOW_PASSWORD": 'a"$(id)', "MLFLOW_PASSWORD": "mlflow"}


@contextmanager
def new_volume():
    """A folder as a volume is mounted: writable for the user that runs PostgreSQL, who is not root."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-start-"))
    # The checkout may lie where nobody else may look.
    shutil.copytree(SCRIPTS, folder / "image")
    (folder / "data").mkdir()
    (folder / "tmp").mkdir()
    hand_over(folder)
    yield folder
    shutil.rmtree(folder)


def hand_over(folder):
    """Gives a folder with all in it to the user that runs PostgreSQL."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, "nobody", "nogroup")


def command(volume, port):
    environment = {
        "PATH": f"{volume}/image:{PROGRAMS}:/usr/bin:/bin",
        "PGDATA": str(volume / "data/pgdata"),
        "TMPDIR": str(volume / "tmp"),
        "POSTGRES_SETTINGS": str(volume / "image"),
    }
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": volume / "tmp", "fsync": "off"}
    settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    return [str(volume / "image/postgresql-start"), *settings], environment


@contextmanager
def server(volume, port=None, **environment):
    """A server that is ready; yields its port, a free one where none is given. It ends as in the image, by SIGINT."""
    port = port or free_ports(1)[0]
    words, fixed = command(volume, port)
    process = subprocess.Popen(words, env={**fixed, **environment}, start_new_session=True, **UNPRIVILEGED)
    try:
        password = environment["POSTGRES_PASSWORD"]
        eventually(lambda: process.poll() is not None or answers(port, "postgres", password))
        assert process.poll() is None, "postgresql-start has ended"
        yield port
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=240)


@contextmanager
def pooler(volume, port, name="pooler", **environment):
    """A pooler in front of the server at that port, which listens; yields its process and port."""
    (own,) = free_ports(1)
    (volume / name).mkdir()
    hand_over(volume / name)
    fixed = {
        "PATH": "/usr/sbin:/usr/bin:/bin",
        "TMPDIR": str(volume / name),
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "POOLER_PORT": str(own),
    }
    command = [str(volume / "image/pooler-start")]
    process = subprocess.Popen(command, env={**fixed, **environment}, start_new_session=True, **UNPRIVILEGED)
    try:
        eventually(lambda: process.poll() is not None or not is_free(own))
        assert process.poll() is None, "pooler-start has ended"
        yield process, own
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=240)


def connect(port, user, password, database=None):
    connection = psycopg2.connect(
        host="127.0.0.1", port=port, user=user, password=password, dbname=database or user, connect_timeout=5
    )
    connection.autocommit = True
    return connection


def answers(port, user, password, database=None):
    try:
        connect(port, user, password, database).close()
    except psycopg2.OperationalError:
        return False
    return True


def ask(port, query, user="postgres", password=PASSWORDS["POSTGRES_PASSWORD"], database=None):
    connection = connect(port, user, password, database)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0] if cursor.description else None
    finally:
        connection.close()
