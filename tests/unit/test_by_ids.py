"""Predictions asked for by ids: features out of a real Redis, as Feast and our materialization write them."""

import json
import time
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.config import RedisSettings
from mlops.features.repository import FeatureServiceSpec, service_named
from mlops.features.served_age import Materialized, Pushed
from mlops.result import Failure, Refused
from mlops.serving import by_ids
from mlops.serving.by_ids import ByIds, Service, rows_of
from mlops.stores.feature_store import PROJECT
from mlops.stores.online_features import OnlineFeatures, unpack
from mlops.stores.online_store import MATERIALIZED, OnlineStore
from mlops.training.families import Prediction
from tests.servers import PASSWORD, Redis
from tests.unit.online_rows import put

SERVICE = Service(service_named("click_through_v1"))
KEYS = ["user_id", "item_id"]
NOW = datetime.now(UTC).timestamp()


@pytest.fixture(scope="module")
def redis(run_folder):
    with Redis(run_folder, persistent=False) as server:
        yield server


@pytest.fixture
def online(redis):
    redis.client.flushall()
    return OnlineFeatures(redis.settings("features"), SERVICE.views)


class Model:
    """Says of each row how many of its features are known, and keeps what it was given."""

    name, version = "clicks", "3"

    def answer(self, data: pd.DataFrame) -> Prediction:
        self.data = data
        share = data.notna().mean(axis=1).to_numpy()
        return Prediction((share > 0.5).astype(int), np.array([0, 1]), np.column_stack([1 - share, share]))


def ask(server: ByIds, content: object) -> tuple[int, dict]:
    status, answer = server.answer(content if isinstance(content, bytes) else json.dumps(content).encode())
    return status, json.loads(json.dumps(answer))


def test_features_are_joined_by_the_keys_of_the_request_and_each_row_gets_its_own(redis, online):
    put(redis, "user_activity", "1", {"user_events": 7, "user_click_rate": 0.5})
    put(redis, "user_activity", "2", {"user_events": -3})
    put(redis, "user_profile", "1", {"age": 30, "gender": "F", "occupation": "künstler"})
    put(redis, "item_activity", "9", {"item_events": 1 << 40})
    model = Model()
    status, answer = ask(
        ByIds(model, SERVICE, online), [{"user_id": "1", "item_id": "9"}, {"user_id": "2", "item_id": "9"}]
    )
    assert status == 200
    assert (answer["model"], answer["version"], answer["feature_service"]) == ("clicks", "3", "click_through_v1")
    first, second = model.data.to_dict("records")
    assert (first["user_events"], first["user_click_rate"], first["item_events"]) == (7.0, 0.5, float(1 << 40))
    assert (first["age"], first["gender"], first["occupation"]) == (30.0, "F", "künstler")
    assert (first["user_id"], first["item_id"], second["user_id"]) == ("1", "9", "2"), "a model may read the ids too"
    assert second["user_events"] == -3.0
    assert second["gender"] is None
    assert np.isnan(second["age"])
    dtypes = model.data.dtypes
    assert {str(dtypes[name]) for name, dtype in SERVICE.spec.features.items() if dtype != "String"} == {"float64"}
    assert len({each["id"] for each in answer["predictions"]}) == 2


def test_what_is_missing_is_said_of_each_row_and_an_entity_that_nobody_knows_is_all_missing(redis, online):
    put(redis, "user_profile", "1", {"age": 30, "gender": "F"})
    _, answer = ask(
        ByIds(Model(), SERVICE, online), [{"user_id": "1", "item_id": "x"}, {"user_id": "2", "item_id": "x"}]
    )
    known, unknown = answer["predictions"]
    everything = set(SERVICE.spec.features)
    assert set(known["missing"]) == everything - {"age", "gender"}
    assert set(unknown["missing"]) == everything
    assert (unknown["stale"], unknown["age_seconds"]) == ([], {})
    assert known["age_seconds"].keys() == {"user_profile"}
    assert 0 <= unknown["score"] < known["score"] <= 1


def test_a_whole_number_is_the_key_of_its_digits(redis, online):
    put(redis, "user_profile", "1", {"age": 30})
    rows = [{"user_id": 1, "item_id": 7}, {"user_id": "1", "item_id": "7"}]
    _, answer = ask(ByIds(Model(), SERVICE, online), rows)
    number, text = answer["predictions"]
    assert "age" not in number["missing"]
    assert (number["missing"], number["score"]) == (text["missing"], text["score"])


def test_values_older_than_the_service_declares_are_stale_unless_a_materialization_has_looked_since(redis, online):
    old = NOW - SERVICE.spec.served_age.longest.total_seconds() - 60
    put(redis, "user_profile", "1", {"age": 30}, event=old)
    put(redis, "user_activity", "1", {"user_events": 1})
    row = {"user_id": "1", "item_id": "1"}
    _, answer = ask(ByIds(Model(), SERVICE, online), row)
    assert answer["predictions"][0]["stale"] == ["age"]
    assert answer["predictions"][0]["age_seconds"]["user_profile"] == pytest.approx(time.time() - old, abs=5)
    OnlineStore(redis.settings("features")).note_materialized("user_profile", NOW - 60)
    _, answer = ask(ByIds(Model(), SERVICE, online), row)
    assert answer["predictions"][0]["stale"] == []
    assert answer["predictions"][0]["age_seconds"]["user_profile"] == pytest.approx(time.time() - NOW + 60, abs=5)


def test_a_later_note_of_a_materialization_is_not_replaced_by_an_earlier_one(redis, online):
    store = OnlineStore(redis.settings("features"))
    for moment in (20.0, 10.0):
        store.note_materialized("user_profile", moment)
    assert online.materialized() == {"user_profile": 20.0}
    store.note_materialized("user_profile", 30.5)
    assert online.materialized() == {"user_profile": 30.5}


def test_what_was_pushed_is_as_old_as_its_event_whatever_was_materialized():
    event = NOW - 3600
    assert Pushed(within=pd.Timedelta(minutes=15)).known_at(event, NOW) == event
    assert Materialized.known_at(SERVICE.spec.served_age, event, NOW) == NOW
    assert Materialized.known_at(SERVICE.spec.served_age, event, event - 1) == event
    assert Materialized.known_at(SERVICE.spec.served_age, event, None) == event


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "no JSON"),
        (b"[" * 5_000, "no JSON"),
        (b"\xff", "no JSON"),
        (b" " * (by_ids.MOST_BYTES + 1), "send fewer rows"),
        ([], "the list is empty: give at least one row with 'user_id', 'item_id'"),
        (["1"], 'row 0: "1" is no object'),
        ({"user_id": "1"}, "row 0: 'item_id' is missing: the model is asked by 'user_id', 'item_id'"),
        ([{"user_id": "1", "item_id": "2"}, {}], "row 1: 'user_id', 'item_id' is missing"),
        ({"user_id": "1", "item_id": "2", "age": 3}, "row 0: 'age' is unknown"),
        ({"user_id": 1.5, "item_id": "2"}, "row 0: 'user_id' is 1.5: give a text or a whole number"),
        ({"user_id": True, "item_id": "2"}, "row 0: 'user_id' is true: give a text or a whole number"),
        ({"user_id": None, "item_id": "2"}, "'user_id' is null: give a text or a whole number"),
        ({"user_id": "", "item_id": "2"}, "'user_id' has 0 characters"),
        ({"user_id": "x" * 501, "item_id": "2"}, "'user_id' has 501 characters"),
        ({"user_id": "\ud800", "item_id": "2"}, "holds what is no text"),
        ([{"user_id": "1", "item_id": "2"}] * 1001, "there are 1001 rows: send at most 1000"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_request_that_is_wrong_is_refused_with_what_is_wrong(online, body, message):
    status, answer = ask(ByIds(Model(), SERVICE, online), body)
    assert (status, answer["error_code"]) == (400, "BAD_REQUEST")
    assert message in answer["message"]
    assert len(answer["message"]) < 500


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    )
)
def test_no_request_is_anything_but_rows_or_refused(content):
    try:
        rows = rows_of(json.dumps(content).encode(), KEYS)
    except Refused:
        return
    assert all(row.keys() == set(KEYS) for row in rows)


@pytest.mark.parametrize(
    ("service", "message"),
    [(None, "trained on no feature service: send its columns to /invocations"), (SERVICE, "set onlineFeatures")],
)
def test_a_server_that_cannot_join_features_says_why(service, message):
    status, answer = ask(ByIds(Model(), service, None), {"user_id": "1", "item_id": "2"})
    assert status == 404
    assert message in answer["message"]


def test_without_redis_the_answer_is_that_it_is_away_and_with_it_again_predictions(run_folder):
    with Redis(run_folder) as server:
        asked = ByIds(Model(), SERVICE, OnlineFeatures(server.settings("features"), SERVICE.views))
        row = {"user_id": "1", "item_id": "2"}
        assert ask(asked, row)[0] == 200
        server.kill()
        status, answer = ask(asked, row)
        assert (status, answer["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        assert f"Redis at 127.0.0.1:{server.port} failed" in answer["message"]
        assert PASSWORD not in answer["message"]
        server.start()
        assert ask(asked, row)[0] == 200


def test_a_wrong_password_is_a_failure_that_names_the_secret(redis):
    settings = RedisSettings("127.0.0.1", str(redis.port), "features", "wrong")
    with pytest.raises(Failure, match=r"global\.redis\.existingSecret"):
        OnlineFeatures(settings, SERVICE.views).read([{"user_id": "1", "item_id": "2"}])


@given(st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text())
def test_a_value_is_read_as_feast_writes_it(value):
    from feast.protos.feast.types.Value_pb2 import Value

    kind = {int: "int64_val", float: "double_val", str: "string_val"}.get(type(value))
    packed = (Value(**{kind: value}) if kind else Value(null_val=0)).SerializeToString()
    assert unpack(packed) == value


def test_a_value_of_another_type_or_cut_off_is_a_failure():
    from feast.protos.feast.types.Value_pb2 import Value

    with pytest.raises(Failure, match="protobuf tag"):
        unpack(Value(bool_val=True).SerializeToString())
    with pytest.raises(Failure, match="cut off"):
        unpack(b"\x20\xff")
    assert unpack(None) is None
    assert unpack(Value(double_val=float("nan")).SerializeToString()) is None


def test_keys_and_fields_are_those_that_feast_itself_computes():
    from feast.infra.online_stores.helpers import _mmh3, _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from mlops.stores.online_features import View, _entity_key, _fields

    entity = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val="né")])
    assert _entity_key("user_id", "né") == _redis_key(PROJECT, entity, entity_key_serialization_version=3)
    assert _fields(View("v", "k", ["a", "b"])) == [b"_ts:v", _mmh3("v:a"), _mmh3("v:b")]


def test_the_hash_of_materializations_is_one_that_the_user_of_features_may_touch():
    assert MATERIALIZED.endswith(PROJECT)


def test_a_service_of_one_entity_is_asked_by_it_alone():
    spec: FeatureServiceSpec = service_named("sensor_failure_v1")
    assert Service(spec).keys == ["machine"]
    assert service_named("gone") is None
