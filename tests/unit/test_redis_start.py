"""redis-start with Debian's Redis."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from mlops.config import RedisSettings
from mlops.result import Failure
from mlops.stores import online_store
from mlops.stores.online_features import OnlineFeatures, View
from tests.certificates import Authority
from tests.conftest import ROOT, eventually, free_ports, running
from tests.servers import REDIS_PASSWORDS

SCRIPT = ROOT / "images/redis/redis-start"
PASSWORD = """it's "a" \\x41 #$(id) pässword"""
PASSWORDS = {"REDISCLI_AUTH": PASSWORD, **{name: f"{name} {PASSWORD}" for name in REDIS_PASSWORDS[1:]}}


@contextmanager
def server(folder: Path) -> Iterator[tuple[redis.Redis, int]]:
    """A client of a server that is ready, and the server's process."""
    (port,) = free_ports(1)
    client = redis.Redis(port=port, password=PASSWORD)
    command = [str(SCRIPT), "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", ""]
    environment = {"REDIS_DATA": str(folder), **PASSWORDS}
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
        assert all(PASSWORD.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def of(client: redis.Redis, user: str) -> redis.Redis:
    """A client of the same server that comes as another user."""
    port = client.connection_pool.connection_kwargs["port"]
    return redis.Redis(port=port, username=user, password=PASSWORDS[f"{user.upper()}_PASSWORD"])


KEYS = {"default": "any", "features": "entity:maestro", "queue": "rq:queue:training", "celery": "airflow:default"}
# What each user asks for, of which others are refused all.
ALLOWED: dict[str, list[tuple[str, ...]]] = {
    "features": [("HSET", KEYS["features"], "f", "1"), ("HGET", KEYS["features"], "f"), ("SCAN", "0")],
    "queue": [("RPUSH", KEYS["queue"], "x"), ("LRANGE", KEYS["queue"], "0", "1"), ("PUBLISH", "rq:pubsub:x", "x")],
    "celery": [
        ("SELECT", "1"),
        ("LPUSH", KEYS["celery"], "x"),
        ("RPOP", KEYS["celery"]),
        ("PUBLISH", "airflow:x", "x"),
    ],
    "monitoring": [("INFO",), ("SLOWLOG", "LEN")],
}
REFUSED: dict[str, list[tuple[str, ...]]] = {
    "features": [*ALLOWED["queue"], *ALLOWED["celery"], ("SET", "other", "x"), ("SELECT", "1"), ("SLOWLOG", "LEN")],
    "queue": [
        *ALLOWED["features"],
        *ALLOWED["celery"][1:],
        ("SET", "other", "x"),
        ("DBSIZE",),
        ("EVAL", "return redis.call('get','x')", "0"),
    ],
    "celery": [
        *ALLOWED["features"],
        *ALLOWED["queue"],
        ("SET", "other", "x"),
        ("SUBSCRIBE", "rq:pubsub:x"),
        ("DBSIZE",),
    ],
    "monitoring": [*ALLOWED["features"], *ALLOWED["queue"], ("SLOWLOG", "GET"), ("MONITOR",), ("GET", "x")],
}
OF_ADMINISTRATION = [
    *[("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "dir", "x")],
    *[("ACL", "LIST"), ("ACL", "SETUSER", "me"), ("SHUTDOWN",), ("MONITOR",), ("BGSAVE",)],
    *[("MODULE", "LIST"), ("REPLICAOF", "NO", "ONE"), ("CLIENT", "LIST"), ("FUNCTION", "LIST"), ("SWAPDB", "0", "1")],
]


@pytest.mark.parametrize("user", ALLOWED)
def test_a_user_may_what_it_is_for_and_nothing_else(tmp_path, user):
    with server(tmp_path) as (client, _):
        client.hset(KEYS["features"], "f", "1")
        theirs = of(client, user)
        for command in ALLOWED[user]:
            theirs.execute_command(*command)
        for command in [*REFUSED[user], *OF_ADMINISTRATION]:
            with pytest.raises(redis.ResponseError, match=r"permission|access at least one of the keys"):
                theirs.execute_command(*command)
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=theirs.connection_pool.connection_kwargs["port"], username=user, password=PASSWORD).ping()


def test_the_data_is_kept_in_its_folder(tmp_path):
    with server(tmp_path) as (client, _):
        client.set("kept", 42)
        eventually(lambda: any(b"kept" in path.read_bytes() for path in tmp_path.rglob("*.aof")))
    with server(tmp_path) as (client, _):
        assert client.get("kept") == b"42"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "REDISCLI_AUTH is not set"),
        ({"REDISCLI_AUTH": ""}, "REDISCLI_AUTH is not set"),
        ({**PASSWORDS, "QUEUE_PASSWORD": ""}, "QUEUE_PASSWORD is not set"),
        ({**PASSWORDS, "REDIS_DATA": "/nowhere"}, "/nowhere is not writable: mount the volume there"),
    ],
)
def test_what_is_missing_is_said(environment, said):
    started = subprocess.run([SCRIPT], env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True)
    assert started.returncode == 1
    assert said in started.stderr


def test_with_a_certificate_only_those_come_in_who_speak_tls_and_each_of_ours_verifies_the_server(tmp_path):
    authority, other = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    folder = authority.certificate(tmp_path / "tls", "localhost")
    (port,) = free_ports(1)
    # As the chart's arguments.
    told = {"port": "0", "tls-port": str(port), "tls-auth-clients": "no", "tls-ca-cert-file": str(authority.ca)}
    told |= {"tls-cert-file": f"{folder}/tls.crt", "tls-key-file": f"{folder}/tls.key", "bind": "127.0.0.1 ::1"}
    command = [str(SCRIPT), *(word for name, value in told.items() for word in (f"--{name}", value))]

    def settings(host="localhost", ca=authority.ca):
        return RedisSettings(host, str(port), "features", PASSWORDS["FEATURES_PASSWORD"], ca and str(ca))

    def said_to(settings):
        try:
            return str(online_store._client(settings).ping())
        except redis.ConnectionError as error:
            return str(error)

    def read_by_a_server(settings):
        return OnlineFeatures(settings, [View("user_profile", "user_id", ["age"])]).read([{"user_id": "1"}])

    ready = ["--tls", "--cacert", str(authority.ca), "-p", str(port), "-a", PASSWORD, "ping"]
    environment = {"REDIS_DATA": str(tmp_path), **PASSWORDS}
    with running(
        command,
        tmp_path / "log",
        lambda: "PONG" in subprocess.run(["redis-cli", *ready], capture_output=True, text=True).stdout,
        environment,
    ):
        assert said_to(settings()) == "True"
        assert "CERTIFICATE_VERIFY_FAILED" in said_to(settings(ca=other.ca))
        assert "match" in said_to(settings("127.0.0.1")), "it is verified for another name"
        assert said_to(settings(ca=None)) != "True"
        assert read_by_a_server(settings()) == [{}]
        with pytest.raises(Failure, match="CERTIFICATE_VERIFY_FAILED"):
            read_by_a_server(settings(ca=other.ca))
        # What the image puts before Debian's, for probes, `make rotate` and people.
        for ca, answer in ((authority.ca, "PONG"), (None, "")):
            asked = [str(ROOT / "images/redis/redis-cli"), "-p", str(port), "ping"]
            environment = {"PATH": "/usr/bin:/bin", "REDISCLI_CA": str(ca or ""), "REDISCLI_AUTH": PASSWORD}
            done = subprocess.run(asked, capture_output=True, text=True, env=environment)
            assert done.stdout.strip() == answer
