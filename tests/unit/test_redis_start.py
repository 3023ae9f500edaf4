"""redis-start with Debian's Redis."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.conftest import ROOT, eventually, free_ports, running

SCRIPT = ROOT / "images/redis/redis-start"
PASSWORD = """it's "a" \\x41 #$(id) pässword"""


@contextmanager
def server(folder: Path) -> Iterator[tuple[redis.Redis, int]]:
    """A client of a server that is ready, and the server's process."""
    (port,) = free_ports(1)
    client = redis.Redis(port=port, password=PASSWORD)
    command = [str(SCRIPT), "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", ""]
    environment = {"REDIS_DATA": str(folder), "REDISCLI_AUTH": PASSWORD}
    with running(command, folder / "log", lambda: is_ready(client), environment) as process:
        yield client, process.pid


def is_ready(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_any_password_is_the_one_that_clients_have_to_give_and_no_list_of_processes_shows_it(tmp_path):
    with server(tmp_path) as (client, pid):
        port = client.connection_pool.connection_kwargs["port"]
        for password in (None, "", PASSWORD[:-1], PASSWORD.replace("\\x41", "A")):
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(port=port, password=password).ping()
        for told in ("cmdline", "environ"):
            assert PASSWORD.encode() not in Path(f"/proc/{pid}/{told}").read_bytes()
        assert all(b"requirepass" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_the_data_is_kept_in_its_folder(tmp_path):
    with server(tmp_path) as (client, _):
        client.set("kept", 42)
        eventually(lambda: any(b"kept" in path.read_bytes() for path in tmp_path.rglob("*.aof")), 60)
    with server(tmp_path) as (client, _):
        assert client.get("kept") == b"42"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "REDISCLI_AUTH is not set"),
        ({"REDISCLI_AUTH": ""}, "REDISCLI_AUTH is not set"),
        ({"REDISCLI_AUTH": "x", "REDIS_DATA": "/nowhere"}, "/nowhere is not writable: mount the volume there"),
    ],
)
def test_what_is_missing_is_said(environment, said):
    started = subprocess.run([SCRIPT], env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True)
    assert started.returncode == 1
    assert said in started.stderr
