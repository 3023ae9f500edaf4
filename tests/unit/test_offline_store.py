"""Feast's point-in-time join, over local files and without a server."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops import models
from mlops.datasets.declaration import EVENT_TIME, LABEL
from mlops.features import repository
from mlops.features.repository import VIEWS, service_of
from mlops.features.retrieve import retrieve
from mlops.features.served_age import Pushed
from mlops.result import Failure
from mlops.stores.feature_store import FeatureStoreConfig, open_configured

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def local(tmp_path):
    """A feature store over local files, with the definitions applied."""
    config = FeatureStoreConfig(f"sqlite:///{tmp_path}/registry.db", "127.0.0.1:9", str(tmp_path / "offline"), None)
    store = open_configured(config)
    store.apply(repository.objects(config))
    return store, config


moments = st.integers(0, 12)
known_rows = st.lists(st.tuples(st.sampled_from("ab"), moments, moments, st.none() | st.integers(-5, 5)), max_size=12)
asked_rows = st.lists(st.tuples(st.sampled_from("abc"), moments), min_size=1, max_size=12)


def newest_known(known, user, at):
    """The plain reference: of the user's rows up to the moment the newest, of these the one created last."""
    candidates = [row for row in known if row[0] == user and row[1] <= at]
    return max(candidates, key=lambda row: (row[1], row[2]))[3] if candidates else None


def written(folder, view, rows, parts=1):
    """A view's Parquet files, the rows (key, moment, created, value of its first whole number) spread over them."""
    whole = next(name for name, dtype in view.features.items() if dtype == "Int64")
    empty = {"Float64": "float64", "Int64": "Int64", "String": object}
    (folder / view.name).mkdir(parents=True, exist_ok=True)
    for file in (folder / view.name).iterdir():
        file.unlink()
    for part in range(parts):
        mine = rows[part::parts]
        table = pd.DataFrame(
            {
                view.key.column: pd.Series([row[0] for row in mine], dtype=object),
                "event_timestamp": pd.to_datetime([START + timedelta(seconds=row[1]) for row in mine], utc=True),
                "created": pd.to_datetime([START + timedelta(days=1, seconds=row[2]) for row in mine], utc=True),
                **{
                    name: pd.Series(index=range(len(mine)), dtype=empty[dtype]) for name, dtype in view.features.items()
                },
                whole: pd.Series([row[3] for row in mine], dtype="Int64"),
            }
        )
        table.to_parquet(folder / view.name / f"{part}.parquet", index=False)
    return whole


def test_feasts_point_in_time_join_equals_a_plain_reference(local, tmp_path):
    store, _ = local
    users, items = (view for view in VIEWS if view.name in ("user_activity", "item_activity"))

    @given(known_rows, known_rows, asked_rows, st.integers(1, 3), st.randoms())
    def check(of_users, of_items, asked, parts, random):
        # Rows that arrive late, in any order, in several files; one key, moment and creation has one value.
        of_users, of_items = ({row[:3]: row for row in rows} for rows in (of_users, of_items))
        of_users, of_items = list(of_users.values()), list(of_items.values())
        random.shuffle(of_users)
        user_value = written(tmp_path / "offline", users, of_users, parts)
        item_value = written(tmp_path / "offline", items, of_items, parts)
        asked = [(user, random.choice("abc"), at) for user, at in asked]
        spine = pd.DataFrame(asked, columns=["user_id", "item_id", "at"])
        spine["event_timestamp"] = [START + timedelta(seconds=at) for at in spine.pop("at")]
        references = [f"user_activity:{user_value}", f"item_activity:{item_value}"]
        found = store.get_historical_features(spine, references).to_df()
        assert list(found["user_id"]) == [user for user, _, _ in asked]
        for name, rows, place in ((user_value, of_users, 0), (item_value, of_items, 1)):
            expected = [newest_known(rows, row[place], row[2]) for row in asked]
            assert [None if pd.isna(value) else int(value) for value in found[name]] == expected

    check()


def test_rows_of_one_user_and_moment_all_come_back_in_the_order_they_were_asked_in(local, tmp_path):
    store, _ = local
    users, items = (view for view in VIEWS if view.name in ("user_activity", "item_activity"))
    user_value = written(tmp_path / "offline", users, [("a", 3, 0, 1)])
    item_value = written(tmp_path / "offline", items, [("x", 1, 0, 7), ("y", 2, 0, 8), ("z", 9, 0, 9)])
    spine = pd.DataFrame({"user_id": ["a"] * 4, "item_id": ["y", "x", "z", "y"]})
    spine["event_timestamp"] = START + timedelta(seconds=3)
    found = store.get_historical_features(spine, [f"user_activity:{user_value}", f"item_activity:{item_value}"]).to_df()
    assert found["item_id"].tolist() == ["y", "x", "z", "y"]
    assert found[user_value].tolist() == [1, 1, 1, 1]
    assert found[item_value].fillna(-1).tolist() == [8, 7, -1, 8]


def test_each_row_is_given_its_own_features_and_keeps_its_own_label_whatever_the_order(local, tmp_path):
    store, _ = local
    service = replace(service_of(models.get("click-through-activity")), served_age=Pushed(timedelta()))
    known = {  # the value at a moment tells the view, the entity and the moment
        "user_activity": [(user, at, 0, 100 * number + at) for number, user in enumerate("ab") for at in (0, 4, 8)],
        "item_activity": [
            (item, at, 0, 1_000 * number + at) for number, item in enumerate("xy", 1) for at in (0, 4, 8)
        ],
        "user_profile": [(user, 0, 0, age) for user, age in (("a", 20), ("b", 30))],
    }
    values = {view.name: written(tmp_path / "offline", view, known[view.name]) for view in service.views}
    rows = [(user, item, at) for at in range(1, 12) for user in "ab" for item in "xy"]

    @settings(max_examples=10)
    @given(st.permutations(rows), st.integers(1, len(rows)))
    def check(shuffled, kept):
        asked = shuffled[:kept]
        table = pd.DataFrame(asked, columns=["user_id", "item_id", "at"], index=range(kept, 0, -1))
        table[EVENT_TIME] = [START + timedelta(seconds=at) for at in table.pop("at")]
        table[LABEL] = range(kept)
        found = retrieve(store, service, table)
        assert list(found.columns) == [*service.features, EVENT_TIME, LABEL]
        assert found[LABEL].tolist() == list(range(kept))
        assert found[EVENT_TIME].tolist() == table[EVENT_TIME].tolist()
        for view, place in (("user_activity", 0), ("item_activity", 1), ("user_profile", 0)):
            expected = [newest_known(known[view], row[place], row[2] - 1) for row in asked]  # a second before the event
            assert found[values[view]].tolist() == expected

    check()
    early = pd.DataFrame({"user_id": ["a"], "item_id": ["x"], EVENT_TIME: [START - timedelta(days=1)], LABEL: [1]})
    with pytest.raises(Failure, match="has a value of user_activity, item_activity, user_profile, asked from"):
        retrieve(store, service, early)


def test_a_value_older_than_the_views_ttl_is_missing(local, tmp_path):
    store, config = local
    view = next(view for view in VIEWS if view.name == "user_activity")
    value = written(tmp_path / "offline", view, [("a", 0, 0, 1), ("b", 8, 0, 2)])
    objects = repository.objects(config)
    (limited,) = [entry for entry in objects if entry.name == "user_activity"]
    limited.ttl = timedelta(seconds=5)
    store.apply(objects)
    spine = pd.DataFrame({"user_id": ["a", "b"], "event_timestamp": [START + timedelta(seconds=10)] * 2})
    found = store.get_historical_features(spine, [f"user_activity:{value}"]).to_df()
    assert found[value].isna().tolist() == [True, False]


def test_full_feature_names_carry_their_view(local, tmp_path):
    store, _ = local
    view = next(view for view in VIEWS if view.name == "user_activity")
    value = written(tmp_path / "offline", view, [("a", 0, 0, 1)])
    spine = pd.DataFrame({"user_id": ["a"], "event_timestamp": [START]})
    job = store.get_historical_features(spine, [f"user_activity:{value}"], full_feature_names=True)
    assert job.to_df()[f"user_activity__{value}"].tolist() == [1]
    assert job.to_arrow()[f"user_activity__{value}"].to_pylist() == [1]


def test_a_spine_without_a_time_is_refused(local):
    store, _ = local
    spine = pd.DataFrame({"user_id": ["a"], "event_timestamp": pd.to_datetime([None], utc=True)})
    with pytest.raises(ValueError, match="no missing value"):
        store.get_historical_features(spine, ["user_activity:user_events"]).to_df()
