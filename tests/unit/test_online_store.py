import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.config import RedisSettings
from mlops.features.materialization.encode import _stamps
from mlops.result import Failure
from mlops.stores import online_store
from mlops.stores.online_store import CALL, OnlineStore
from tests.clock import Clock
from tests.conftest import free_ports
from tests.servers import PASSWORD, Redis

FIELDS = [b"_ts:view", b"f1"]


@pytest.fixture(scope="module")
def server(run_folder: Path) -> Iterator[Redis]:
    with Redis(run_folder) as server:
        yield server


def settings_for(port: int) -> RedisSettings:
    return RedisSettings("127.0.0.1", str(port), PASSWORD)


def stamp(moment: int, created: int | None = None) -> bytes:
    """The Timestamp of one row, times in nanoseconds."""
    import numpy as np

    (encoded,) = _stamps([np.array([value], np.int64) for value in (moment, created) if value is not None])
    return encoded


def put(store: OnlineStore, *rows: tuple[bytes, bytes, bytes]) -> tuple[int, int]:
    keys, stamps, values = (list(column) for column in zip(*rows, strict=True))
    return tuple(store.put_newer(FIELDS, [(keys, [stamps, values])]))


# Around the epoch, where a varint grows to ten bytes, and around now, where a nanosecond is too small for a double.
MOMENTS = st.one_of(
    st.sampled_from([base + delta for base in (0, 1_790_000_000 * 10**9) for delta in (-(10**9), -1, 0, 1, 10**9)]),
    st.integers(-(2**62), 2**62),
)


@given(st.lists(st.tuples(MOMENTS, st.none() | MOMENTS), min_size=1, max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_newest_row_is_kept_whatever_the_order(server: Redis, rows: list[tuple[int, int | None]]) -> None:
    server.client.flushdb()
    store = OnlineStore(settings_for(server.port))
    newest: tuple[int, float] | None = None
    kept = b""
    for number, (moment, created) in enumerate(rows):
        value = str(number).encode()
        age = (moment, float("-inf") if created is None or created == 0 else created)
        if newest is None or age > newest:
            newest, kept = age, value
        put(store, (b"entity", stamp(moment, created), value))
        assert server.client.hget(b"entity", b"f1") == kept
    found = Timestamp()
    found.ParseFromString(server.client.hget(b"entity", b"_ts:view") or b"")
    assert newest is not None
    assert found.seconds * 10**9 + found.nanos == newest[0], "Feast reads the event time and nothing else"


def test_what_was_set_is_told_from_what_was_as_new(server: Redis) -> None:
    server.client.flushdb()
    store = OnlineStore(settings_for(server.port))
    assert put(store, *[(b"e%d" % i, stamp(10), b"old") for i in range(3 * CALL + 1)]) == (3 * CALL + 1, 0)
    assert put(store, (b"e0", stamp(10), b"again"), (b"e1", stamp(11), b"new"), (b"n", stamp(1), b"n")) == (2, 1)
    assert server.client.hget("e0", "f1") == b"old"


def test_what_feast_wrote_gives_way_to_the_same_event_and_not_to_an_earlier_one(server: Redis) -> None:
    server.client.flushdb()
    server.client.hset("e", mapping={"_ts:view": Timestamp(seconds=5).SerializeToString(), "f1": "feast"})
    store = OnlineStore(settings_for(server.port))
    assert put(store, (b"e", stamp(4_999_999_999, 10**18), b"earlier")) == (0, 1)
    assert put(store, (b"e", stamp(5_000_000_000, 10**18), b"same")) == (1, 0)


def test_other_views_of_an_entity_stay(server: Redis) -> None:
    server.client.flushdb()
    server.client.hset("e", mapping={"_ts:other": Timestamp(seconds=9).SerializeToString(), "f9": "other"})
    assert put(OnlineStore(settings_for(server.port)), (b"e", stamp(1), b"mine")) == (1, 0)
    assert server.client.hget("e", "f9") == b"other"


@pytest.mark.parametrize("persistent", [True, False])
def test_a_restart_in_the_midst_loses_no_call(tmp_path: Path, persistent: bool) -> None:
    """What a server that keeps nothing had acknowledged before is for the caller to write again: see run_id."""
    server = Redis(tmp_path, persistent=persistent)
    server.start()
    store = OnlineStore(settings_for(server.port))
    before = store.run_id()
    acknowledged = 0

    def batches() -> Iterator[tuple[list[bytes], list[list[bytes]]]]:
        nonlocal acknowledged
        for number in range(60):
            if number == 30:
                acknowledged = server.client.dbsize()
                server.kill()
                server.start()
            keys = [struct.pack("<I", number * CALL + row) for row in range(CALL)]
            yield keys, [[stamp(7)] * CALL, keys]

    written = store.put_newer(FIELDS, batches())
    missing = 60 * CALL - server.client.dbsize()
    assert store.run_id() != before
    assert sum(written) == 60 * CALL
    assert missing == 0 if persistent else 0 < missing <= acknowledged
    server.kill()


def test_a_script_that_the_server_forgot_is_loaded_again(server: Redis) -> None:
    server.client.flushdb()
    store = OnlineStore(settings_for(server.port))

    def batches() -> Iterator[tuple[list[bytes], list[list[bytes]]]]:
        for number in range(4):
            server.client.script_flush()
            yield [b"%d" % number], [[stamp(7)], [b"v"]]

    assert store.put_newer(FIELDS, batches()).written <= 4
    assert server.client.dbsize() == 4


@pytest.mark.parametrize("use", [OnlineStore.run_id, lambda store: put(store, (b"e", stamp(1), b"v"))])
def test_a_server_that_is_away_is_named(use: Callable[[OnlineStore], object]) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Failure, match=rf"Redis at 127.0.0.1:{port} failed .*check that it runs"):
        use(OnlineStore(settings_for(port), patience=0.5))


def test_a_server_that_is_away_is_asked_again_for_as_long_as_the_patience_lasts(clock: Clock) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Failure, match="check that it runs"):
        OnlineStore(settings_for(port), patience=10).run_id()
    assert sum(clock.pauses) == 10


def test_a_server_that_takes_calls_and_fails_them_is_borne_for_as_long_as_one_that_is_away(
    server: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica answers each call that writes with an error, on a connection that works."""
    monkeypatch.setattr(online_store, "time", clock)
    server.client.replicaof("127.0.0.1", "9")
    try:
        with pytest.raises(Failure, match="read only replica"):
            put(OnlineStore(settings_for(server.port), patience=10), (b"e", stamp(1), b"v"))
    finally:
        server.client.replicaof("NO", "ONE")
    assert sum(clock.pauses) == pytest.approx(10, abs=1)


def test_patience_begins_anew_once_a_call_was_answered(
    server: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three troubles, each 40 s after the one before, are not one of 80 s."""
    server.client.flushdb()
    monkeypatch.setattr(online_store, "time", clock)
    monkeypatch.setattr(online_store, "_UNANSWERED", 0)

    def batches() -> Iterator[tuple[list[bytes], list[list[bytes]]]]:
        for number in range(4):
            server.client.script_flush()
            yield [b"%d" % number], [[stamp(7)], [b"v"]]
            clock.now += 40

    assert OnlineStore(settings_for(server.port), patience=60).put_newer(FIELDS, batches()) == (4, 0)


def test_a_wrong_password_is_told_at_once(server: Redis) -> None:
    store = OnlineStore(replace(settings_for(server.port), password="wrong"))
    with pytest.raises(Failure, match="check the password in the Secret that"):
        put(store, (b"e", stamp(1), b"v"))


def test_a_full_server_is_told_with_the_remedy(server: Redis) -> None:
    server.client.flushdb()
    server.client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(Failure, match=r"raise redis\.maxmemory"):
            put(OnlineStore(settings_for(server.port)), *[(b"%d" % i, stamp(1), b"v" * 1000) for i in range(20_000)])
    finally:
        server.client.config_set("maxmemory", "0")
