import itertools
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import datasets
from mlops.datasets.declaration import EVENT_TIME
from mlops.features import windows
from mlops.features.build import build
from mlops.features.repository import VIEWS

START = datetime(2026, 1, 1, tzinfo=UTC)
BUILT = datetime(2026, 3, 1, tzinfo=UTC)
readings = st.one_of(st.none(), st.floats(-1e6, 1e6, allow_nan=False), st.just(1e5))
events = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 200), readings), min_size=0, max_size=40)
VIEW = {view.name: view for view in VIEWS}


def table_of(rows):
    return pd.DataFrame(
        {
            "machine": pd.Series([machine for machine, _, _ in rows], dtype=object),
            EVENT_TIME: pd.Series([START + timedelta(minutes=at) for _, at, _ in rows], dtype="datetime64[ns, UTC]"),
            "f": pd.Series([math.nan if value is None else value for _, _, value in rows], dtype="float64"),
        }
    )


def naive_windows(rows, minutes):
    """What `sensor_windows` says it does, word by word."""
    found = {}
    for machine, at in {(machine, at) for machine, at, _ in rows}:
        before = [(when, value) for name, when, value in rows if name == machine and at - minutes < when <= at]
        values = [value for _, value in before if value is not None]
        last = [value for when, value in before if when == at][-1]
        mean = sum(values) / len(values) if values else None
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) if values else None
        low, high = (min(values), max(values)) if values else (None, None)
        found[(machine, at)] = (last, mean, spread, low, high)
    return found


@given(events, st.integers(1, 60))
def test_each_window_holds_the_readings_that_a_naive_reference_takes(rows, minutes):
    found = windows.sensor_windows(table_of(rows), "machine", ["f"], [minutes])
    expected = naive_windows(rows, minutes)
    assert len(found) == len(expected)
    names = ["f", *(f"f_{statistic}_{minutes}m" for statistic in ("mean", "std", "min", "max"))]
    for row in found.to_dict("records"):
        at = round((row[EVENT_TIME] - START) / timedelta(minutes=1))
        for name, value in zip(names, expected[(row["machine"], at)], strict=True):
            if value is None:
                assert math.isnan(row[name])
            else:
                assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-6)


def test_the_rounding_of_one_large_reading_stays_in_its_windows():
    values = [1e12, *[0.1, 0.2, 0.3] * 40]
    rows = [("a", at, value) for at, value in enumerate(values)]
    found = windows.sensor_windows(table_of(rows), "machine", ["f"], [3])
    assert found["f_mean_3m"].iloc[-1] == pytest.approx(0.2, rel=1e-15)
    assert found["f_std_3m"].iloc[-1] == pytest.approx(np.std([0.1, 0.2, 0.3]), rel=1e-14)


def test_windows_that_do_not_fit_into_one_block_are_the_same(monkeypatch):
    generator = np.random.default_rng(3)
    rows = [("ab"[at % 2], at // 2, value) for at, value in enumerate(generator.normal(size=300))]
    whole = windows.sensor_windows(table_of(rows), "machine", ["f"], [10, 60])
    monkeypatch.setattr(windows, "_VALUES_AT_ONCE", 70)
    pd.testing.assert_frame_equal(whole, windows.sensor_windows(table_of(rows), "machine", ["f"], [10, 60]))


clicks = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 60), st.sampled_from([0, 1, None])), max_size=40
)


def click_table(rows):
    return pd.DataFrame(
        {
            "user": pd.Series([user for user, _, _ in rows], dtype=object),
            EVENT_TIME: pd.Series([START + timedelta(days=day) for _, day, _ in rows], dtype="datetime64[ns, UTC]"),
        }
    ), pd.Series([click for _, _, click in rows], dtype="Int64")


@given(clicks, st.integers(1, 40))
def test_activity_counts_the_events_that_a_naive_reference_counts(rows, days):
    table, clicked = click_table(rows)
    found = windows.activity(table, "user", "user", clicked, days)
    known = [row for row in rows if row[2] is not None]
    moments = {(user, day) for user, day, _ in known}
    assert len(found) == len(moments)
    for row in found.to_dict("records"):
        user, day = row["user"], round((row[EVENT_TIME] - START) / timedelta(days=1))
        before = [(when, click) for name, when, click in known if name == user and when <= day]
        recent = [(when, click) for when, click in before if when > day - days]
        earlier = [when for when, _ in before if when < day]
        for suffix, part in (("", before), (f"_{days}d", recent)):
            assert row[f"user_events{suffix}"] == len(part)
            assert row[f"user_click_rate{suffix}"] == pytest.approx(sum(click for _, click in part) / len(part))
        gap = row["user_seconds_since_last"]
        assert pd.isna(gap) if not earlier else gap == (day - max(earlier)) * 86_400


def until(features, now):
    """The rows of moments up to `now`."""
    return features[features[EVENT_TIME] <= now].reset_index(drop=True)


@given(events, st.integers(0, 200), st.floats(-1e6, 1e6), st.booleans())
def test_what_lies_later_never_changes_a_row(rows, now, value, gone):
    """Whether the later readings are others or are not there."""
    changed = [row if row[1] <= now else (row[0], row[1], value) for row in rows if row[1] <= now or not gone]
    before, after = (windows.sensor_windows(table_of(kind), "machine", ["f"], [10]) for kind in (rows, changed))
    moment = START + timedelta(minutes=now)
    pd.testing.assert_frame_equal(until(before, moment), until(after, moment))


@given(clicks, st.integers(0, 60), st.sampled_from([0, 1, None]), st.booleans())
def test_what_is_clicked_later_never_changes_a_row(rows, now, click, gone):
    changed = [row if row[1] <= now else (row[0], row[1], click) for row in rows if row[1] <= now or not gone]
    before, after = (activity_of(kind) for kind in (rows, changed))
    moment = START + timedelta(days=now)
    pd.testing.assert_frame_equal(until(before, moment), until(after, moment))


def activity_of(rows):
    table, clicked = click_table(rows)
    return windows.activity(table, "user", "user", clicked, 30)


def test_a_profile_is_known_before_the_first_event_and_still_at_the_last():
    table = pd.DataFrame(
        {
            "user_id": ["1", "2", "1"],
            EVENT_TIME: [START + timedelta(minutes=minute) for minute in (5, 3, 9)],
            "age": [30, 40, 30],
        }
    )
    found = windows.profile(table, "user_id", ["age"])
    seconds = ((found[EVENT_TIME] - START) / timedelta(seconds=1)).astype(int)
    assert list(zip(found["user_id"], seconds, found["age"], strict=True)) == [
        ("2", 179, 40),
        ("2", 180, 40),
        ("1", 299, 30),
        ("1", 540, 30),
    ]


@pytest.mark.parametrize("name", VIEW)
def test_a_view_of_the_real_set_has_the_declared_columns_and_one_row_a_moment(tables, name):
    view = VIEW[name]
    raw = tables(view.dataset).raw
    rows = build(view, raw, datasets.get(view.dataset), BUILT)
    assert list(rows.columns) == [view.key.column, "event_timestamp", "created", *view.features]
    assert not rows.duplicated([view.key.column, "event_timestamp"]).any()
    assert rows["event_timestamp"].is_monotonic_increasing
    assert set(rows[view.key.column]) == set(raw[view.key.column])
    types = {"Float64": np.dtype("float64"), "Int64": pd.Int64Dtype(), "String": np.dtype(object)}
    assert all(rows[feature].dtype == types[dtype] for feature, dtype in view.features.items())


def test_rows_without_an_entity_or_a_time_are_left_out(tables):
    raw = tables("movielens").raw.head(1000).copy()
    raw.loc[:9, "user_id"] = None
    raw.loc[10:19, EVENT_TIME] = pd.NaT
    rows = build(VIEW["user_activity"], raw, datasets.get("movielens"), BUILT)
    kept = raw.dropna(subset=["user_id", EVENT_TIME])
    assert rows.groupby("user_id")["user_events"].max().sum() == len(kept)


def test_a_missing_age_stays_missing_and_the_other_ages_whole_numbers(tables):
    raw = tables("movielens").raw.head(1000).copy()
    raw["age"] = raw["age"].astype("float64").mask(raw["user_id"] == raw["user_id"].iloc[0])
    rows = build(VIEW["user_profile"], raw, datasets.get("movielens"), BUILT)
    ages = dict(zip(rows["user_id"], rows["age"], strict=True))
    assert ages.pop(raw["user_id"].iloc[0]) is pd.NA
    assert all(age == int(age) for age in ages.values())


def test_sorted_and_shuffled_tables_give_the_same_features(tables):
    raw = tables("shuttle").raw.head(2000)
    shuffled = raw.sample(frac=1, random_state=1)
    view, dataset = VIEW["sensor_windows"], datasets.get("shuttle")
    pd.testing.assert_frame_equal(build(view, raw, dataset, BUILT), build(view, shuffled, dataset, BUILT))


def test_every_pair_of_views_of_a_service_has_features_of_its_own():
    for first, second in itertools.combinations(VIEWS, 2):
        assert not set(first.features) & set(second.features)
