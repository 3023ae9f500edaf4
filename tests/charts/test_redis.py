"""charts/redis: what the server is told and what outlives a release; redis-start and the check with a real Redis."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from mlops.config import RedisSettings
from tests.charts.conftest import ROOT, Object, Refused, environment, find, render
from tests.conftest import eventually, free_ports
from tests.servers import REDIS_PASSWORDS

EXTERNAL = {"enabled": True, "host": "redis.example.com"}
PASSWORD = "it's \"a\\ $(id) é\n"


def chart(values: dict[str, Any] | None = None, **shared: Any) -> list[Object]:
    return render("redis", {**(values or {}), "global": {"redis": shared}})


def stateful_set(objects: list[Object]) -> Object:
    return find(objects, "StatefulSet", "maestro-redis")["spec"]


def server(objects: list[Object]) -> Object:
    (container,) = stateful_set(objects)["template"]["spec"]["containers"]
    return container


# What Kubernetes is given


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("maxmemory", "64mb", ["--maxmemory", "64mb"]),
        ("save", "3600 1", ["--save", "3600 1"]),
        ("hz", 20, ["--hz", "20"]),
    ],
)
def test_a_setting_reaches_the_server_as_it_is_written(name: str, value: Any, words: list[str]) -> None:
    program, *arguments = server(chart({"conf": {name: value}}))["args"]
    assert program == "redis-start"
    assert words in [arguments[at : at + 2] for at in range(0, len(arguments), 2)]


@pytest.mark.parametrize("name", ["requirepass", "port", "dir"])
def test_what_the_chart_settles_itself_is_no_setting(name: str) -> None:
    with pytest.raises(Refused, match=f"invalid propertyName '{name}'"):
        chart({"conf": {name: "x"}})


def test_the_password_is_in_no_argument_and_comes_from_the_secret() -> None:
    objects = chart()
    told = environment(server(objects))
    keys = {entry["secretKeyRef"]["key"] for entry in told.values()}
    assert told.keys() == set(REDIS_PASSWORDS)
    assert {entry["secretKeyRef"]["name"] for entry in told.values()} == {"maestro-redis"}
    assert set(find(objects, "Secret", "maestro-redis")["data"]) == keys
    assert len(keys) == len(REDIS_PASSWORDS), "each user has a password of its own"
    assert not [argument for argument in server(objects)["args"] if "$(" in argument]


def test_an_existing_secret_takes_the_place_of_the_charts_own() -> None:
    objects = chart(existingSecret="ours")
    assert not [entry for entry in objects if entry["kind"] == "Secret"]
    assert environment(server(objects))["REDISCLI_AUTH"]["secretKeyRef"]["name"] == "ours"


def test_for_an_external_server_nothing_is_rendered() -> None:
    assert chart(external=EXTERNAL, existingSecret="ours") == []


@pytest.mark.parametrize(
    ("shared", "remedy"),
    [
        ({"external": EXTERNAL}, "key redis-password and set global.redis.existingSecret"),
        (
            {"external": {**EXTERNAL, "users": True}},
            "keys features-password, queue-password, celery-password and monitoring-password",
        ),
        ({"external": {"enabled": True}, "existingSecret": "ours"}, "set global.redis.external.host"),
        ({"external": {"host": "redis.example.com"}}, "set global.redis.external.enabled to true"),
    ],
)
def test_an_external_server_that_is_half_told_is_refused_with_the_remedy(shared: dict[str, Any], remedy: str) -> None:
    with pytest.raises(Refused, match=remedy):
        chart(**shared)


def test_the_claim_has_nothing_that_an_upgrade_of_the_chart_would_change() -> None:
    spec = stateful_set(chart())
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["labels"] == spec["selector"]["matchLabels"]
    assert "storageClassName" not in claim["spec"], "the cluster's default"


def test_the_volume_is_as_values_ask_and_lies_where_redis_start_looks() -> None:
    spec = stateful_set(chart({"persistence": {"size": "3Gi", "storageClass": "fast"}}))
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Gi"
    paths = {mount["name"]: mount["mountPath"] for mount in server(chart())["volumeMounts"]}
    assert f"REDIS_DATA:-{paths['data']}}}" in (ROOT / "images/redis/redis-start").read_text()


# A real server, started as the container is


@contextmanager
def running(folder: Path, values: dict[str, Any] | None = None, end: int = signal.SIGTERM) -> Iterator[redis.Redis]:
    """The server with the arguments that the chart renders, on a folder; ends by the signal."""
    (port,) = free_ports(1)
    arguments = [*server(chart(values))["args"][1:], "--port", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(
        [ROOT / "images/redis/redis-start", *arguments],
        env={"PATH": os.environ["PATH"], "REDIS_DATA": str(folder), **dict.fromkeys(REDIS_PASSWORDS, PASSWORD)},
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis("127.0.0.1", port, password=PASSWORD)
    try:
        eventually(lambda: process.poll() is not None or probe("readinessProbe", port))
        assert process.poll() is None
        yield client
    finally:
        client.close()
        process.send_signal(end)
        process.wait(timeout=240)


def probe(name: str, port: int, password: str = PASSWORD) -> bool:
    """Whether the container's probe holds for a server at the port."""
    program, *arguments = server(chart())[name]["exec"]["command"]
    result = subprocess.run(
        [program, "-p", str(port), *arguments],
        env={"PATH": os.environ["PATH"], "REDISCLI_AUTH": password},
        capture_output=True,
    )
    return result.returncode == 0


def port_of(client: redis.Redis) -> int:
    return int(client.connection_pool.connection_kwargs["port"])


def test_the_server_takes_any_password_and_asks_for_it(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        assert client.ping()
        for wrong in ("wrong", None):
            with pytest.raises(redis.AuthenticationError):
                redis.Redis("127.0.0.1", port_of(client), password=wrong).ping()


def test_the_server_has_the_settings_of_the_values(tmp_path: Path) -> None:
    with running(tmp_path, {"conf": {"maxmemory": "64mb"}}) as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * 2**20)}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert client.config_get("save") == {"save": ""}


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_that_was_answered_is_lost_when_the_server_ends(tmp_path: Path, end: int) -> None:
    with running(tmp_path, end=end) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(20_000):
            pipeline.hset(f"entity-{number}", "value", number)
        assert sum(pipeline.execute()) == 20_000
    with running(tmp_path) as client:
        assert client.dbsize() == 20_000
        assert client.hget("entity-19999", "value") == b"19999"


def test_a_full_server_refuses_writes_and_evicts_nothing(tmp_path: Path) -> None:
    with running(tmp_path, {"conf": {"maxmemory": "3mb"}}) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(10_000):
            pipeline.set(f"key-{number}", "x" * 1000)
        with pytest.raises(redis.OutOfMemoryError):
            pipeline.execute()
        assert client.get("key-0") == b"x" * 1000


def test_a_server_in_a_long_script_is_not_ready_and_is_left_alive(tmp_path: Path) -> None:
    with running(tmp_path, {"conf": {"busy-reply-threshold": 1}}) as client:
        port = port_of(client)
        with subprocess.Popen(
            ["redis-cli", "-p", str(port), "eval", "while true do end", "0"],
            env={"PATH": os.environ["PATH"], "REDISCLI_AUTH": PASSWORD},
            stdout=subprocess.DEVNULL,
        ) as script:
            try:
                eventually(lambda: not probe("readinessProbe", port))
                assert probe("livenessProbe", port)
            finally:
                client.script_kill()
            script.wait(timeout=240)
        assert probe("readinessProbe", port)


@pytest.mark.parametrize(
    ("told", "remedy"),
    [
        ({}, "REDISCLI_AUTH is not set"),
        ({"REDISCLI_AUTH": "x", "FEATURES_PASSWORD": ""}, "FEATURES_PASSWORD is not set"),
        ({**dict.fromkeys(REDIS_PASSWORDS, "x"), "REDIS_DATA": "/nowhere"}, "mount the volume there"),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(told: dict[str, str], remedy: str) -> None:
    result = subprocess.run(
        [ROOT / "images/redis/redis-start"], env={"PATH": os.environ["PATH"], **told}, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert remedy in result.stderr


# The check that `helm test` runs


def check(port: int, password: str = PASSWORD) -> "subprocess.CompletedProcess[str]":
    settings = RedisSettings("127.0.0.1", str(port), "features", password)
    told = {f"MAESTRO_REDIS_{key}".upper(): value for key, value in vars(settings).items() if value is not None}
    return subprocess.run(
        [sys.executable, ROOT / "charts/redis/files/check-store.py"],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
    )


def test_the_check_passes_on_a_server_that_works_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        result = check(port_of(client))
        assert result.returncode == 0, result.stderr
        assert client.dbsize() == 0


def test_the_check_names_a_server_that_lets_the_online_store_at_the_queue(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        client.acl_setuser("features", enabled=True, keys=["*"])
        assert "may write to the queue" in check(port_of(client)).stderr


def test_the_check_names_a_wrong_password_an_evicting_server_and_one_that_is_away(tmp_path: Path) -> None:
    with running(tmp_path, {"conf": {"maxmemory-policy": "allkeys-lru"}}) as client:
        port = port_of(client)
        assert "invalid" in check(port, "wrong").stderr
        assert "set redis.conf.maxmemory-policy to noeviction" in check(port).stderr
    assert "refused" in check(port).stderr
