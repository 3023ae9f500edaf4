"""From Parquet files into a real Redis, read back by stock Feast."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from hypothesis import given
from hypothesis import strategies as st

from mlops.features.materialization import commands, offline, write
from mlops.features.materialization.check import compare, expected, sample
from mlops.features.materialization.encode import encode, fields
from mlops.features.materialization.newest import newest, pieces
from mlops.features.materialization.offline import Window, read
from mlops.features.materialization.view import Field as Column
from mlops.features.materialization.view import MaterializedView
from mlops.result import Failure, Refused
from mlops.stores.feature_store import feast_bucket
from mlops.stores.object_store import data_bucket
from mlops.stores.online_store import OnlineStore
from tests.servers import PASSWORD, Redis, new_database
from tests.unit.test_online_store import settings_for

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = Window.before(NOW, days=7)
KINDS: dict[str, tuple[Any, str]] = {
    "ratio": (Float64, "DOUBLE"),
    "small": (Float32, "FLOAT"),
    "count": (Int64, "INT64"),
    "level": (Int32, "INT32"),
    "text": (String, "STRING"),
    "raw": (Bytes, "BYTES"),
    "flag": (Bool, "BOOL"),
    "since": (UnixTimestamp, "UNIX_TIMESTAMP"),
}
VIEW = MaterializedView(
    name="things",
    project="maestro",
    join_keys=(Column("thing", "STRING"),),
    features=tuple(Column(name, kind) for name, (_, kind) in KINDS.items()),
    timestamp="event_timestamp",
    created="created",
    bucket="feast",
    prefix="things/",
)
SCHEMA = pa.schema(
    {
        "thing": pa.string(),
        "event_timestamp": pa.timestamp("us", "UTC"),
        "created": pa.timestamp("us", "UTC"),
        "ratio": pa.float64(),
        "small": pa.float32(),
        "count": pa.int64(),
        "level": pa.int32(),
        "text": pa.string(),
        "raw": pa.binary(),
        "flag": pa.bool_(),
        "since": pa.timestamp("us", "UTC"),
    }
)


@pytest.fixture(scope="module")
def server(run_folder: Path) -> Iterator[Redis]:
    with Redis(run_folder) as server:
        yield server


@pytest.fixture(autouse=True)
def _empty(server: Redis) -> None:
    server.client.flushdb()


def events(count: int, things: int, *, seed: int = 0, created: datetime = NOW) -> pa.Table:
    """Rows at random times of the window, in no order, many of one entity, some of one moment, with nulls."""
    random = np.random.default_rng(seed)
    start = pd.Timestamp(WINDOW.start)
    seconds = random.integers(0, 7 * 86_400, count)
    table = pd.DataFrame(
        {
            "thing": [f"thing-{number}" for number in random.integers(0, things, count)],
            "event_timestamp": start + pd.to_timedelta(seconds, unit="s"),
            "created": pd.Timestamp(created) + pd.to_timedelta(random.integers(0, 100, count), unit="s"),
            "ratio": random.normal(size=count),
            "small": random.normal(size=count).astype(np.float32),
            "count": random.integers(-(2**62), 2**62, count),
            "level": random.integers(-(2**31), 2**31, count).astype(np.int32),
            "text": [f"ä{number}" * (number % 40) for number in range(count)],
            "raw": [bytes([number % 256]) * (number % 3) for number in range(count)],
            "flag": random.integers(0, 2, count).astype(bool),
            "since": start + pd.to_timedelta(random.integers(0, 10**6, count), unit="s"),
        }
    )
    whole = pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False)
    mask = random.random(count) < 0.1
    for name in KINDS:
        place = whole.column_names.index(name)
        column = pa.compute.if_else(pa.array(mask), pa.scalar(None, SCHEMA.field(name).type), whole.column(name))
        whole = whole.set_column(place, name, column)
        mask = np.roll(mask, 1)
    return whole


def reference(table: pa.Table, window: Window = WINDOW) -> pd.DataFrame:
    """Each entity's newest row, said plainly."""
    kept: dict[str, dict[str, Any]] = {}
    for row in table.to_pylist():
        if not window.start <= row["event_timestamp"] <= window.end:
            continue
        best = kept.get(row["thing"])
        if best is None or (row["event_timestamp"], row["created"]) > (best["event_timestamp"], best["created"]):
            kept[row["thing"]] = row
    return pd.DataFrame(kept.values(), dtype=object).set_index("thing").sort_index()


def stored(table: pa.Table, path: Path, row_group_size: int = 700) -> list[Path]:
    pq.write_table(table, path, row_group_size=row_group_size)
    return [path]


def feast_store(folder: Path, port: int) -> FeatureStore:
    """Stock Feast over the same Redis."""
    thing = Entity(name="thing", join_keys=["thing"], value_type=ValueType.STRING)
    view = FeatureView(
        name="things",
        entities=[thing],
        schema=[
            Field(name="thing", dtype=String),
            *(Field(name=name, dtype=kind) for name, (kind, _) in KINDS.items()),
        ],
        source=FileSource(
            path=str(folder / "things.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
        ),
        ttl=timedelta(),
    )
    password = json.dumps(PASSWORD).replace(",", "\\u002c")
    store = FeatureStore(
        config=RepoConfig(
            project="maestro",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={
                "type": "redis",
                "connection_string": f"127.0.0.1:{port},username=features,password={password}",
            },
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    store.apply([thing, view])
    return store


def served(store: FeatureStore, things: list[str]) -> pd.DataFrame:
    answer = store.get_online_features(
        features=[f"things:{name}" for name in KINDS], entity_rows=[{"thing": name} for name in things]
    ).to_dict()
    return pd.DataFrame(answer, dtype=object).set_index("thing")


def assert_serves(store: FeatureStore, want: pd.DataFrame) -> None:
    found = served(store, list(want.index))
    for name in KINDS:
        for key, value in want[name].items():
            assert found.at[key, name] == value or (found.at[key, name] is None and value is None), (key, name)


@pytest.fixture
def store(tmp_path: Path, server: Redis) -> FeatureStore:
    stored(events(1, 1), tmp_path / "things.parquet")  # Feast looks at the file when the view is applied
    return feast_store(tmp_path, server.port)


@pytest.fixture
def online(server: Redis) -> OnlineStore:
    return OnlineStore(settings_for(server.port))


def test_stock_feast_reads_every_value_that_was_written(
    store: FeatureStore, online: OnlineStore, tmp_path: Path
) -> None:
    table = events(5_000, 800)
    rows, written = write.write(stored(table, tmp_path / "t.parquet"), VIEW, WINDOW, online)
    assert rows == len(table)
    assert written == (len(reference(table)), 0)
    assert_serves(store, reference(table))


def test_the_bytes_are_those_that_stock_feast_writes(
    store: FeatureStore, online: OnlineStore, server: Redis, tmp_path: Path
) -> None:
    table = newest(events(3_000, 400), VIEW)
    # Stock Feast makes floats of whole numbers beside nulls, and so loses the last digits of large ones.
    count = pa.compute.shift_right(table["count"], pa.scalar(11, pa.int64()))
    table = table.set_column(table.column_names.index("count"), "count", count)
    stored(table, tmp_path / "things.parquet", row_group_size=10_000)
    store.materialize(WINDOW.start, WINDOW.end)
    theirs = {key: server.client.hgetall(key) for key in server.client.scan_iter()}
    server.client.flushdb()
    without_created = MaterializedView(**{**vars(VIEW), "created": None})
    write.write([tmp_path / "things.parquet"], without_created, WINDOW, online)
    ours = {key: server.client.hgetall(key) for key in server.client.scan_iter()}
    assert len(theirs) == table.num_rows
    names = dict(zip(fields(VIEW), ["event_timestamp", *KINDS], strict=True))
    stock_null = Value(unix_timestamp_val=-(2**63)).SerializeToString()
    for values in theirs.values():  # stock Feast writes a missing time as a number, which it reads as missing again
        values.update({field: b"" for field, value in values.items() if value == stock_null})
    different = {names[field] for key in theirs for field in theirs[key] if theirs[key][field] != ours[key][field]}
    assert different == set()
    assert ours == theirs


@given(
    st.fixed_dictionaries(
        {
            "thing": st.text(max_size=200),
            "ratio": st.none() | st.floats(allow_nan=True),
            "small": st.none() | st.floats(width=32, allow_nan=False),
            "count": st.none() | st.integers(-(2**63), 2**63 - 1),
            "level": st.none() | st.integers(-(2**31), 2**31 - 1),
            "text": st.none() | st.text(max_size=300),
            "raw": st.none() | st.binary(max_size=300),
            "flag": st.none() | st.booleans(),
            "since": st.none() | st.datetimes(timezones=st.just(UTC)),
        }
    )
)
def test_a_value_is_encoded_as_protobuf_encodes_it(row: dict[str, Any]) -> None:
    table = pa.Table.from_pylist([{**row, "event_timestamp": NOW, "created": NOW}], SCHEMA)
    encoded = encode(table, VIEW)
    value = Value(string_val=row["thing"])
    assert encoded.keys.to_pylist() == [
        serialize_entity_key(EntityKey(join_keys=["thing"], entity_values=[value])) + b"maestro"
    ]
    names = {"DOUBLE": "double_val", "FLOAT": "float_val", "BOOL": "bool_val", "UNIX_TIMESTAMP": "unix_timestamp_val"}
    for feature, column in zip(VIEW.features, encoded.columns, strict=True):
        (found,) = column.to_pylist()
        given_value = row[feature.name]
        if given_value is None or given_value != given_value:
            assert found == b""
            continue
        if feature.kind == "UNIX_TIMESTAMP":
            micros = (given_value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
            given_value = abs(micros) // 10**6 * (1 if micros > 0 else -1)
        wanted = Value(**{names.get(feature.kind, f"{feature.kind.lower()}_val"): given_value})
        assert found == wanted.SerializeToString(), feature
    assert fields(VIEW) == [b"_ts:things", *(_mmh3(f"things:{name}") for name in KINDS)]


@pytest.mark.parametrize("keys", [("b", "a"), ("a",)])
def test_an_entity_of_several_keys_is_named_as_feast_names_it(keys: tuple[str, ...]) -> None:
    columns = tuple(Column(name, "INT64") for name in sorted(keys))
    view = MaterializedView(**{**vars(VIEW), "join_keys": columns, "features": (), "created": None})
    table = pa.table({**{name: [-5, 7] for name in keys}, "event_timestamp": [NOW, NOW]})
    entity = EntityKey(join_keys=list(keys), entity_values=[Value(int64_val=7)] * len(keys))
    assert encode(table, view).keys[1].as_py() == serialize_entity_key(entity) + b"maestro"


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 2)), max_size=60),
    st.integers(1, 10),
    st.integers(1, 20),
)
def test_the_newest_rows_are_those_of_a_plain_loop_however_the_rows_are_cut(
    rows: list[tuple[int, int, int]], batch: int, limit: int
) -> None:
    """With all rows held at once; with fewer an entity may come again, and the last word is the online store's."""
    schema = pa.schema({"thing": pa.string(), "event_timestamp": SCHEMA.field(1).type, "created": SCHEMA.field(2).type})
    schema = schema.append(pa.field("row", pa.int64()))
    table = pa.Table.from_pylist(
        [
            {"thing": str(a), "event_timestamp": NOW - timedelta(seconds=b), "created": NOW + timedelta(seconds=c)}
            | {"row": number}
            for number, (a, b, c) in enumerate(rows)
        ],
        schema,
    )
    best: dict[int, tuple[int, int, int]] = {}
    for number, (thing, ago, created) in enumerate(rows):
        best[thing] = max(best.get(thing, (-99, 0, 0)), (-ago, created, -number))
    want = sorted(-number for _, _, number in best.values())
    parts = [table.slice(start, batch) for start in range(0, len(rows), batch)]
    assert [n for piece in pieces(parts, VIEW, limit=1_000) for n in piece["row"].to_pylist()] == want
    entities = pd.DataFrame({"thing": [str(thing) for thing in best]})
    if rows:  # what the check holds to be right is what is written
        should = expected(parts, VIEW, entities)
        assert should["thing"].to_pylist() == entities["thing"].tolist()
        assert should["row"].to_pylist() == [-number for _, _, number in best.values()]
    cut = [piece for piece in pieces(parts, VIEW, limit) if piece.num_rows]
    assert all(len(set(piece["thing"].to_pylist())) == piece.num_rows <= limit + batch for piece in cut)
    assert set(want) <= {n for piece in cut for n in piece["row"].to_pylist()}


def test_no_row_of_a_chunked_table_is_lost() -> None:
    table = pa.concat_tables([events(10, 1_000_000, seed=seed) for seed in range(4)])
    assert table.column("thing").num_chunks == 4
    assert newest(table, VIEW).num_rows == 40
    assert len(encode(newest(table, VIEW), VIEW).keys) == 40


@pytest.mark.parametrize("count", [1, 4_095, 4_096, 4_097, 8_193])
def test_no_entity_is_lost_where_a_part_ends(online: OnlineStore, server: Redis, tmp_path: Path, count: int) -> None:
    """Rows are encoded 4,096 at once."""
    assert write._ENCODED == 4_096
    view = MaterializedView(**{**vars(VIEW), "features": (Column("count", "INT64"),)})
    moments = pa.array([NOW] * count, SCHEMA.field("event_timestamp").type)
    numbers = pa.array(range(count), pa.int64())
    table = pa.table({"thing": numbers.cast(pa.string()), "count": numbers})
    table = table.append_column("event_timestamp", moments).append_column("created", moments)
    rows, written = write.write(stored(table, tmp_path / "t.parquet", 10_000), view, WINDOW, online)
    assert (rows, written) == (count, (count, 0))
    last = encode(table.slice(count - 1), view)
    stored_last = [column[0].as_py() for column in (last.stamps, *last.columns)]
    assert server.client.hgetall(last.keys[0].as_py()) == dict(zip(fields(view), stored_last, strict=True))


def test_the_newest_part_of_a_file_is_read_first(tmp_path: Path) -> None:
    table = events(100, 10).sort_by("event_timestamp")
    found = [
        part["event_timestamp"][0].as_py() for part in read(stored(table, tmp_path / "t.parquet", 20), VIEW, WINDOW)
    ]
    assert len(found) == 5
    assert found == sorted(found, reverse=True)


def test_the_newest_part_is_read_first_also_where_a_file_begins_with_it(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    stored(events(100, 10).sort_by([("event_timestamp", "descending")]), path, 20)
    with offline._opened(path, VIEW) as file:
        assert offline._groups(file, VIEW, WINDOW) == [0, 1, 2, 3, 4]


def test_entities_of_several_keys_are_told_apart() -> None:
    columns = (Column("a", "INT64"), Column("b", "INT64"))
    view = MaterializedView(**{**vars(VIEW), "join_keys": columns, "features": (), "created": None})
    pairs = [(a, b) for a in range(5) for b in range(2)]
    table = pa.table({"a": [a for a, _ in pairs], "b": [b for _, b in pairs], "event_timestamp": [NOW] * len(pairs)})
    assert newest(table, view).num_rows == len(pairs)


def test_the_window_ends_with_its_last_moment_and_skips_what_lies_outside(tmp_path: Path) -> None:
    moments = [WINDOW.start - timedelta(microseconds=1), WINDOW.start, NOW, NOW + timedelta(microseconds=1)]
    table = events(4, 4).set_column(1, "event_timestamp", pa.array(moments, SCHEMA.field("event_timestamp").type))
    for size in (1, 4):
        found = pa.concat_tables(read(stored(table, tmp_path / "t.parquet", size), VIEW, WINDOW))
        assert sorted(found["event_timestamp"].to_pylist()) == moments[1:3]


def test_only_the_columns_that_are_asked_for_are_read_beside_the_event_time(tmp_path: Path) -> None:
    (path,) = stored(events(20, 5), tmp_path / "t.parquet")
    assert {*next(read([path], VIEW, WINDOW, ["thing"])).column_names} == {"thing", "event_timestamp"}
    limited = WINDOW._replace(written=NOW + timedelta(days=1))
    assert {*next(read([path], VIEW, limited, ["thing"])).column_names} == {"thing", "event_timestamp", "created"}
    assert {*next(read([path], VIEW, WINDOW)).column_names} == set(VIEW.columns)


def test_late_and_repeated_events_change_what_is_newer_only(
    store: FeatureStore, online: OnlineStore, tmp_path: Path
) -> None:
    table = events(4_000, 300)
    half = table.slice(0, 2_000)
    write.write(stored(half, tmp_path / "t.parquet"), VIEW, WINDOW, online)
    again = write.write(stored(half, tmp_path / "t.parquet"), VIEW, WINDOW, online)[1]
    assert again == (0, len(reference(half)))
    write.write(stored(table, tmp_path / "t.parquet"), VIEW, WINDOW, online)  # half of it late
    assert_serves(store, reference(table))
    yesterday = Window.before(NOW - timedelta(days=1), days=7)
    assert write.write(stored(table, tmp_path / "t.parquet"), VIEW, yesterday, online)[1].written == 0
    assert_serves(store, reference(table))


def test_an_event_that_was_written_again_takes_the_place_of_itself(
    store: FeatureStore, online: OnlineStore, tmp_path: Path
) -> None:
    """As when features are computed anew. And the row as it was first does not come back."""
    first, corrected = events(500, 500, seed=1), events(500, 500, seed=1, created=NOW + timedelta(days=1))
    corrected = corrected.set_column(5, "count", pa.array(range(500), pa.int64()))
    for table in (first, corrected, first):
        write.write(stored(table, tmp_path / "t.parquet"), VIEW, WINDOW, online)
    assert_serves(store, reference(corrected))


def _in_small_steps(read_: Callable[..., Iterator[pa.Table]] = read) -> None:
    """Many calls out of few rows."""
    offline.BATCH = 100
    write._ENCODED = 50
    vars(write).update(pieces=partial(pieces, limit=200), read=read_)


def _die_half_way(port: int, path: Path) -> None:
    def some(*arguments: Any) -> Iterator[pa.Table]:
        for number, table in enumerate(read(*arguments)):
            if number == 30:
                os.kill(os.getpid(), signal.SIGKILL)
            yield table

    _in_small_steps(some)
    write.write([path], VIEW, WINDOW, OnlineStore(settings_for(port)))


def _write(port: int, path: Path) -> None:
    _in_small_steps()
    write.write([path], VIEW, WINDOW, OnlineStore(settings_for(port)))


def _process(target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process


def test_a_run_that_died_half_way_is_completed_by_the_next(
    store: FeatureStore, online: OnlineStore, server: Redis, tmp_path: Path
) -> None:
    table = events(6_000, 3_000)
    (path,) = stored(table, tmp_path / "t.parquet")
    died = _process(_die_half_way, server.port, path)
    died.join(240)
    try:
        assert died.exitcode == -signal.SIGKILL
    finally:
        died.kill()  # one that lives must not write into another test's store
    assert 0 < server.client.dbsize() < len(reference(table))
    write.write([path], VIEW, WINDOW, online)
    assert_serves(store, reference(table))


def test_two_overlapping_runs_leave_the_newest_and_never_go_back(
    store: FeatureStore, server: Redis, tmp_path: Path
) -> None:
    """One reads the files of yesterday, the other those of today, in which half of the events have come late."""
    today = events(8_000, 300)
    yesterday = today.slice(0, 4_000)
    paths = [*stored(yesterday, tmp_path / "yesterday.parquet", 300), *stored(today, tmp_path / "today.parquet", 300)]
    processes = [_process(_write, server.port, path) for path in paths]
    watched, last = encode(newest(today, VIEW), VIEW).keys[:20].to_pylist(), dict[bytes, tuple[int, int]]()
    while any(process.is_alive() for process in processes):
        for key in watched:
            found = _moment(server.client.hget(key, "_ts:things"))
            assert found >= last.get(key, (0, 0)), "a reader saw an older value after a newer one"
            last[key] = found
    assert [process.exitcode for process in processes] == [0, 0]
    assert_serves(store, reference(today))


def _moment(stamp: bytes | None) -> tuple[int, int]:
    from google.protobuf.timestamp_pb2 import Timestamp

    found = Timestamp()
    found.ParseFromString(stamp or b"")
    return found.seconds, found.nanos


def test_a_file_without_a_column_is_refused_with_its_name(tmp_path: Path) -> None:
    paths = stored(events(3, 3).drop_columns(["ratio", "flag"]), tmp_path / "t.parquet")
    with pytest.raises(Refused, match=r"no column flag, ratio in the offline store: build the features"):
        list(read(paths, VIEW, WINDOW))


@pytest.mark.parametrize("name", ["thing", "event_timestamp"])
def test_rows_that_nobody_could_be_served_are_refused_and_not_lost_in_silence(tmp_path: Path, name: str) -> None:
    table = events(3, 3)
    column = pa.array([None, *table[name].to_pylist()[1:]], SCHEMA.field(name).type)
    table = table.set_column(table.column_names.index(name), name, column)
    with pytest.raises(Refused, match=f"1 rows of the offline store have no {name}"):
        list(read(stored(table, tmp_path / "t.parquet"), VIEW, WINDOW))


def test_a_column_of_another_type_is_refused_with_both_types() -> None:
    table = newest(events(3, 3), VIEW)
    table = table.set_column(table.column_names.index("count"), "count", pa.array([1.5, 2.0, None][: table.num_rows]))
    with pytest.raises(Refused, match="column count is double in the offline store and declared INT64"):
        encode(table, VIEW)


def test_whole_numbers_that_pandas_made_floats_are_numbers_and_nulls() -> None:
    table = newest(events(3, 10**9), VIEW)
    table = table.set_column(table.column_names.index("count"), "count", pa.array([1.0, float("nan"), None]))
    assert encode(table, VIEW).columns[2].to_pylist() == [Value(int64_val=1).SerializeToString(), b"", b""]


def test_a_type_that_cannot_be_written_is_refused_when_the_view_is_read() -> None:
    with pytest.raises(Refused, match=r"things: tags \(STRING_LIST\) cannot be materialized"):
        MaterializedView(**{**vars(VIEW), "features": (Column("tags", "STRING_LIST"),)})


def test_a_sample_is_of_entities_and_not_of_rows() -> None:
    rows = pa.table({"thing": ["often"] * 500 + [f"rare-{number}" for number in range(99)]})
    drawn = [sample([rows.slice(s, 100) for s in range(0, 599, 100)], VIEW, 10, seed) for seed in range(150)]
    assert all(len(found) == 10 and found["thing"].is_unique for found in drawn)
    often = sum("often" in set(found["thing"]) for found in drawn)
    assert 3 <= often <= 35, "one of a hundred entities is in a tenth of the samples"


def test_a_comparison_tells_what_is_wrong() -> None:
    table = newest(events(50, 10**9), VIEW)
    entities = sample([table], VIEW, 5, 1)
    should = expected([table.slice(0, 20), table.slice(20)], VIEW, entities)
    assert should["thing"].to_pylist() == entities["thing"].tolist()
    moments = [int(moment.timestamp()) * 10**9 for moment in should["event_timestamp"].to_pylist()]
    values = {field.name: should[field.name].to_pylist() for field in VIEW.features}
    right = compare(VIEW, should, values, moments)
    assert (right.counts, right.wrong) == ({"equal": 5}, [])
    values["text"][1] = "other"
    found = compare(VIEW, should, values, [0, moments[1], moments[2] - 10**9, moments[3] + 10**9, moments[4]])
    assert found.counts == {"missing": 1, "different": 1, "older": 1, "newer": 1, "equal": 1}
    assert "different in text: 'other', not" in found.summary


def test_values_are_compared_as_feast_hands_them_out() -> None:
    """Null for what is not a number, whole seconds of a time, the float of a float32; null is like nothing else."""
    since = NOW + timedelta(microseconds=700_000)
    row = {"thing": "a", "event_timestamp": NOW, "created": NOW, "ratio": float("nan"), "small": 0.1, "since": since}
    offline_row = pa.Table.from_pylist([row], SCHEMA)
    moment = int(NOW.timestamp()) * 10**9
    values: dict[str, list[Any]] = {name: [None] for name in KINDS}
    values |= {"small": [float(np.float32(0.1))], "since": [NOW]}
    assert compare(VIEW, offline_row, values, [moment]).counts == {"equal": 1}
    for name, other in (("small", None), ("text", ""), ("count", 0), ("since", since), ("ratio", 0.0)):
        found = compare(VIEW, offline_row, {**values, name: [other]}, [moment])
        assert found.counts == {"different": 1}, name
        assert f"different in {name}: {other!r}, not" in found.summary
    assert compare(VIEW, offline_row, values, [moment + 10**6]).counts == {"equal": 1}, "Feast rounds its times"
    assert compare(VIEW, offline_row, values, [moment + 10**6 + 1]).counts == {"newer": 1}
    nulls = compare(VIEW, offline_row, values, [moment]).null_share
    assert nulls == (len(KINDS) - 2) / len(KINDS)


def test_a_summary_names_three_entities_and_counts_the_others() -> None:
    table = newest(events(5, 10**9), VIEW)
    nothing: dict[str, list[Any]] = {name: [None] * 5 for name in KINDS}
    summary = compare(VIEW, table, nothing, [0] * 5).summary
    assert summary.startswith("5 missing: thing=")
    assert summary.count("missing") == 4
    assert summary.endswith("; and 2 more")


def test_the_keys_of_an_entity_are_ordered_by_their_names_and_its_files_are_those_of_its_folder() -> None:
    keys = [Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in ("b", "a")]
    source = FileSource(path="s3://feast/X/pairs", timestamp_field="event_timestamp")
    schema = [Field(name=name, dtype=String) for name in ("b", "a", "text")]
    found = MaterializedView.of("maestro", FeatureView(name="pairs", entities=keys, schema=schema, source=source))
    assert found.keys == ["a", "b"]
    assert (found.bucket, found.prefix, found.created) == ("feast", "X/pairs/", None)
    assert found.columns == ["a", "b", "event_timestamp", "text"]


# The commands, with a registry in PostgreSQL and the files in S3.


@pytest.fixture
def cluster(
    server: Redis,
    s3_endpoint: str,
    postgresql: str,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlops.stores.feature_store import FeatureStoreConfig, open_configured

    url = new_database(postgresql)
    database = url.rpartition("/")[2]
    for key, value in {
        "AWS_ENDPOINT_URL_S3": s3_endpoint,
        "MAESTRO_FEAST_BUCKET": f"feast-{database}".replace("_", "-"),
        "MAESTRO_FEAST_REGISTRY": url.replace("postgresql:", "postgresql+psycopg2:"),
        "MAESTRO_FEAST_REGISTRY_PASSWORD": "unused",
        "MAESTRO_REDIS_HOST": "127.0.0.1",
        "MAESTRO_REDIS_PORT": str(server.port),
        "MAESTRO_REDIS_USERNAME": "features",
        "MAESTRO_REDIS_PASSWORD": PASSWORD,
    }.items():
        monkeypatch.setenv(key, value)
    for bucket in (feast_bucket(), data_bucket()):
        bucket.ensure()
    config = FeatureStoreConfig.from_environment()
    thing = Entity(name="thing", join_keys=["thing"], value_type=ValueType.STRING)
    schema = [Field(name="thing", dtype=String), *(Field(name=name, dtype=kind) for name, (kind, _) in KINDS.items())]
    view = FeatureView(name="things", entities=[thing], schema=schema, source=config.source("things"), ttl=timedelta())
    open_configured(config).apply([thing, view])


def upload(table: pa.Table, folder: Path, key: str = "things/set.parquet") -> None:
    (path,) = stored(table, folder / "upload.parquet")
    feast_bucket().write_bytes(key, path.read_bytes())


def check(**changes: Any) -> Any:
    options: dict[str, Any] = {
        "days": 7,
        "end": NOW,
        "written": None,
        "sample": 200,
        "max_null_share": 0.5,
        "max_age_hours": None,
    }
    return commands.validate_online(**{**options, **changes})


def test_a_run_and_its_check_say_what_they_did(cluster: None, tmp_path: Path) -> None:
    table = events(3_000, 400)
    upload(table.slice(0, 1_000), tmp_path)
    upload(table.slice(1_000), tmp_path, "things/other.parquet")
    for elsewhere in ("things/_SUCCESS", "things-of-another-view/set.parquet"):
        upload(events(10, 10, seed=9, created=NOW + timedelta(days=1)), tmp_path, elsewhere)
    entities = len(reference(table))
    result = commands.materialize(days=7, end=NOW)
    assert (result["rows_read"], result["rows_written"]) == (3_000, entities)
    again = commands.materialize(days=7, end=NOW)
    assert (again["rows_written"], again["rows_not_newer"]) == (0, entities)
    found = check()["views"]["things"]
    assert (found["sampled"], found["equal"]) == (200, 200)
    assert found["newest_event"] and 0 <= found["age_seconds"] < 86_400
    assert 0.05 < found["null_share"] < 0.15
    earlier = check(end=NOW - timedelta(days=1))["views"]["things"]
    assert earlier["newer"] > 0, "a later run was faster, which is right"


def test_a_check_names_entities_that_are_missing_older_or_other(cluster: None, server: Redis, tmp_path: Path) -> None:
    table = events(300, 3)
    upload(table, tmp_path)
    commands.materialize(days=7, end=NOW)
    keys = dict(
        zip(newest(table, VIEW)["thing"].to_pylist(), encode(newest(table, VIEW), VIEW).keys.to_pylist(), strict=True)
    )
    server.client.delete(keys["thing-0"])
    server.client.hset(keys["thing-1"], fields(VIEW)[1], Value(double_val=5).SerializeToString())
    with pytest.raises(Refused, match=r"1 different, 1 equal, 1 missing: .*; clear materialize_features") as caught:
        check()
    assert "thing=thing-0 missing" in str(caught.value)
    assert "thing=thing-1 different in ratio: 5.0, not" in str(caught.value)
    upload(pa.concat_tables([table, events(300, 3, seed=5)]), tmp_path)
    with pytest.raises(Refused, match="older"):
        check()
    commands.materialize(days=7, end=NOW)
    with pytest.raises(Refused, match="not what it should be"):
        check(max_null_share=0.01)
    with pytest.raises(Refused, match=r"the newest event served is .* h old, 0.001 are allowed"):
        check(max_age_hours=0.001, end=NOW + timedelta(hours=1))


def test_what_the_offline_store_got_since_the_run_began_is_not_compared(cluster: None, tmp_path: Path) -> None:
    """feature_push writes the offline store before the online one, at any moment of a night's run."""
    now = datetime.now(UTC)
    table = events(300, 3, created=now - timedelta(days=1))
    upload(table, tmp_path)
    began = datetime.fromisoformat(commands.materialize(days=7, end=NOW)["began"])
    pushed = events(300, 3, seed=5, created=datetime.now(UTC))
    upload(pa.concat_tables([table, pushed]), tmp_path)
    assert check(written=began)["views"]["things"]["equal"] == 3
    with pytest.raises(Refused, match="older"):
        check(written=now + timedelta(days=1))
    upload(pushed, tmp_path)
    with pytest.raises(Refused, match=r"no feature view has an event up to .* that was written by "):
        check(written=began)


def test_where_nothing_new_has_come_what_was_known_before_is_served(cluster: None, tmp_path: Path) -> None:
    upload(events(30, 3), tmp_path)
    end = NOW + timedelta(days=100)
    assert commands.materialize(days=7, end=end)["rows_read"] == 30
    found = check(end=end)["views"]["things"]
    assert found["equal"] == 3
    assert found["age_seconds"] >= 100 * 86_400, "how old it is, is told"


def test_a_window_before_all_events_is_refused_with_the_remedy(cluster: None, tmp_path: Path) -> None:
    upload(events(30, 3), tmp_path)
    end = NOW - timedelta(days=100)
    assert commands.materialize(days=7, end=end)["rows_read"] == 0
    with pytest.raises(Refused, match=r"no feature view has an event up to .* and build the features"):
        check(end=end)


def test_only_the_partitions_of_the_window_are_fetched(cluster: None, tmp_path: Path) -> None:
    table = events(300, 30)
    days = table["event_timestamp"].cast(pa.date32()).to_pylist()
    for day in sorted(set(days)):
        rows = table.filter(pa.array([other == day for other in days]))
        upload(rows, tmp_path, f"things/set/{day}.parquet")
    end = NOW - timedelta(days=2, hours=12)
    window = offline.recent(feast_bucket(), VIEW, end, 1)
    assert end - timedelta(hours=6) < window.end <= end
    with offline.files(feast_bucket(), VIEW, window) as paths:
        found = pa.concat_tables(read(paths, VIEW, window))
        assert len(paths) == 2
    assert found.num_rows == sum(
        window.start <= moment <= window.end for moment in table["event_timestamp"].to_pylist()
    )


def test_a_view_that_was_never_built_is_named(cluster: None) -> None:
    with pytest.raises(Failure, match=r"no Parquet file in s3://feast-.*/things/: build the features"):
        commands.materialize(days=7, end=NOW)


def test_a_redis_that_lost_what_it_had_is_written_anew(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without persistence, killed when half is written."""
    forgetful = Redis(tmp_path, persistent=False)
    forgetful.start()
    monkeypatch.setenv("MAESTRO_REDIS_PORT", str(forgetful.port))
    table = events(6_000, 3_000)
    upload(table, tmp_path)
    killed = []

    def interrupted(*arguments: Any) -> Iterator[pa.Table]:
        for number, found in enumerate(read(*arguments)):
            if number == 30 and not killed:
                killed.append(forgetful.client.dbsize())
                forgetful.kill()
                forgetful.start()
            yield found

    for target, name, value in (
        (offline, "BATCH", 100),
        (write, "_ENCODED", 50),
        (write, "pieces", partial(pieces, limit=200)),
        (write, "read", interrupted),
    ):
        monkeypatch.setattr(target, name, value)
    result = commands.materialize(days=7, end=NOW)
    assert killed[0] > 0
    assert result["rows_read"] == 12_000
    assert forgetful.client.dbsize() == len(reference(table))
    assert check()["views"]["things"]["equal"] == 200
    forgetful.kill()


def test_a_redis_that_restarts_again_and_again_is_given_up(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(events(30, 3), tmp_path)
    starts = iter(range(1_000))
    monkeypatch.setattr(OnlineStore, "run_id", lambda _: str(next(starts)))
    with pytest.raises(Failure, match="feature view things: Redis was restarted during each of 3 passes"):
        commands.materialize(days=7, end=NOW)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01 00:00:00+00:00", NOW),
        ("2026-03-01T02:00:00+02:00", NOW),
        ("2026-03-01", NOW),
        ("", None),
        ("None", None),
    ],
)
def test_the_end_is_any_iso_time_and_may_be_left_open(text: str, moment: datetime | None) -> None:
    assert commands._moment(text) == moment
