import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.config import RedisSettings
from mlops.features.materialization.encode import _stamps
from mlops.result import Failure
from mlops.stores import online_store
from mlops.stores.online_store import TRANSACTION, OnlineStore
from tests.clock import Clock
from tests.conftest import free_ports
from tests.servers import PASSWORD, Redis

FIELDS = [b"_ts:view", b"f1"]
Batch = tuple[pa.Array, list[pa.Array]]


@pytest.fixture(scope="module")
def server(run_folder: Path) -> Iterator[Redis]:
    with Redis(run_folder) as server:
        yield server


def settings_for(port: int) -> RedisSettings:
    return RedisSettings("127.0.0.1", str(port), "default", PASSWORD)


def stamp(moment: int, created: int | None = None) -> bytes:
    """The Timestamp of one row, times in nanoseconds."""
    (encoded,) = _stamps([np.array([value], np.int64) for value in (moment, created) if value is not None]).to_pylist()
    return encoded


def batch(*rows: tuple[bytes, bytes, bytes]) -> Batch:
    """Of keys, stamps and values."""
    keys, *columns = (pa.array(column, pa.binary()) for column in zip(*rows, strict=True))
    return keys, columns


def put(store: OnlineStore, *rows: tuple[bytes, bytes, bytes]) -> tuple[int, int]:
    return tuple(store.put_newer(FIELDS, [batch(*rows)]))


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
    assert put(store, *[(b"e%d" % i, stamp(10), b"old") for i in range(9 * TRANSACTION + 1)]) == (
        9 * TRANSACTION + 1,
        0,
    )
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
    """What a server that keeps nothing had acknowledged before is for the caller to write again: see run_id.

    So is, of one that syncs each second, what it acknowledged while its last sync took long: here it syncs always.
    """
    server = Redis(tmp_path, persistent=persistent)
    server.start()
    server.client.config_set("appendfsync", "always")
    store = OnlineStore(settings_for(server.port))
    before = store.run_id()
    acknowledged = 0

    rows = 500

    def batches() -> Iterator[Batch]:
        nonlocal acknowledged
        for number in range(60):
            if number == 30:
                acknowledged = server.client.dbsize()
                server.kill()
                server.start()
            keys = [struct.pack("<I", number * rows + row) for row in range(rows)]
            yield batch(*((key, stamp(7), key) for key in keys))

    written = store.put_newer(FIELDS, batches())
    missing = 60 * rows - server.client.dbsize()
    assert store.run_id() != before
    assert sum(written) == 60 * rows
    assert missing in (range(1) if persistent else range(1, acknowledged + 1))
    server.kill()


def test_connections_that_break_are_made_anew(server: Redis) -> None:
    server.client.flushdb()

    def batches() -> Iterator[Batch]:
        for number in range(9):
            break_connections(server)
            yield batch((b"%d" % number, stamp(7), b"v"))

    assert sum(OnlineStore(settings_for(server.port)).put_newer(FIELDS, batches())) == 9
    assert server.client.dbsize() == 9


def break_connections(server: Redis) -> None:
    """All but that of the test."""
    server.client.client_kill_filter(_type="normal", skipme=True)


# Races. What others do happens between the look at what is stored and the write, where it does harm.


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Takes what is done once, between the look and the write."""

    def install(action: Callable[[], object]) -> None:
        left = [action]

        def looked(new: bytes, stored: bytes | None, compare: Callable[..., bool] = online_store.newer) -> bool:
            while left:
                left.pop()()
            return compare(new, stored)

        monkeypatch.setattr(online_store, "newer", looked)

    return install


@pytest.mark.parametrize("stored", [None, 1, 10])
@pytest.mark.parametrize(("theirs", "kept"), [(20, b"theirs"), (10, b"theirs"), (5, b"ours")])
def test_what_is_written_between_the_look_and_the_write_stays_unless_it_is_older(
    server: Redis, meanwhile: Callable[..., None], stored: int | None, theirs: int, kept: bytes
) -> None:
    """By Feast itself, which compares nothing: so writes its push source."""
    server.client.flushdb()
    if stored is not None:
        server.client.hset("e", mapping={"_ts:view": stamp(stored, 1), "f1": "before"})
    meanwhile(lambda: server.client.hset("e", mapping={"_ts:view": stamp(theirs, 1), "f1": "theirs"}))
    written = put(OnlineStore(settings_for(server.port)), (b"e", stamp(10, 1), b"ours"), (b"n", stamp(1), b"n"))
    assert server.client.hget("e", "f1") == kept
    assert server.client.hget("n", "f1") == b"n"
    assert written == (2, 0) if kept == b"ours" else (1, 1)


def test_another_view_that_is_written_between_the_look_and_the_write_stays(
    server: Redis, meanwhile: Callable[..., None]
) -> None:
    server.client.flushdb()
    meanwhile(lambda: server.client.hset("e", mapping={"_ts:other": stamp(9), "f9": "other"}))
    assert put(OnlineStore(settings_for(server.port)), (b"e", stamp(1), b"mine")) == (1, 0)
    assert server.client.hmget("e", "f1", "f9") == [b"mine", b"other"]


def test_connections_that_break_between_the_look_and_the_write_lose_nothing(
    server: Redis, meanwhile: Callable[..., None]
) -> None:
    server.client.flushdb()
    meanwhile(lambda: break_connections(server))
    rows = [(b"%d" % number, stamp(7), b"v") for number in range(9 * TRANSACTION)]
    assert put(OnlineStore(settings_for(server.port)), *rows) == (len(rows), 0)
    assert server.client.dbsize() == len(rows)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50)), min_size=1, max_size=80), st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=10)
def test_entities_that_come_again_while_their_transaction_is_on_its_way_end_as_the_newest(
    server: Redis, rows: list[tuple[int, int]], size: int
) -> None:
    server.client.flushdb()
    each = [(b"%d" % entity, stamp(moment), b"%d" % moment) for entity, moment in rows]
    batches = []
    for start in range(0, len(each), size):
        # In one batch an entity has one row, as pieces have it.
        newest = {key: (key, moment, value) for key, moment, value in sorted(each[start : start + size], key=_age)}
        batches.append(batch(*newest.values()))
    written = OnlineStore(settings_for(server.port)).put_newer(FIELDS, batches)
    assert sum(written) == sum(len(keys) for keys, _ in batches)
    for entity in {entity for entity, _ in rows}:
        assert server.client.hget(str(entity), "f1") == b"%d" % max(moment for e, moment in rows if e == entity)


def _age(row: tuple[bytes, bytes, bytes]) -> int:
    return int(row[2])


def test_writers_that_race_for_the_same_entities_leave_the_newest_and_no_mixture(server: Redis) -> None:
    """Three of them, each with rows in another order; and every row is whole: its value is its time."""
    server.client.flushdb()
    random = np.random.default_rng(3)
    entities, turns = 2 * TRANSACTION, 30

    def write(order: list[int]) -> None:
        store = OnlineStore(settings_for(server.port))
        store.put_newer(FIELDS, (batch(*((b"%d" % e, stamp(t), b"%d" % t) for e in range(entities))) for t in order))

    orders = [[int(turn) for turn in random.permutation(turns) + 1] for _ in range(3)]
    threads = [threading.Thread(target=write, args=[order]) for order in orders]
    for thread in threads:
        thread.start()
    last: dict[int, int] = {}
    while any(thread.is_alive() for thread in threads):
        for entity in range(0, entities, 16):
            moment, value = server.client.hmget(str(entity), FIELDS)
            if moment is not None:
                assert moment == stamp(int(value))
                assert int(value) >= last.get(entity, 0), "a reader saw an older value after a newer one"
                last[entity] = int(value)
    assert [server.client.hget(str(entity), "f1") for entity in range(entities)] == [b"%d" % turns] * entities


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
    monkeypatch.setattr(online_store, "_ON_THEIR_WAY", 1)

    def batches() -> Iterator[Batch]:
        for number in range(4):
            break_connections(server)
            yield batch((b"%d" % number, stamp(7), b"v"))
            clock.now += 40

    assert sum(OnlineStore(settings_for(server.port), patience=60).put_newer(FIELDS, batches())) == 4


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
