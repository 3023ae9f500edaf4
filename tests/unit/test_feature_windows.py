import itertools
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from mlops import datasets
from mlops.datasets.declaration import EVENT_TIME
from mlops.features import windows
from mlops.features.repository import VIEWS
from tests.unit.feature_files import rows_of

START = datetime(2026, 1, 1, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
readings = st.one_of(st.none(), st.floats(-1e6, 1e6, allow_nan=False), st.just(1e5))
events = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 200), readings), min_size=0, max_size=40)
VIEW = {view.name: view for view in VIEWS}


def table_of(rows):
    columns = {
        "machine": [machine for machine, _, _ in rows],
        EVENT_TIME: [START + timedelta(minutes=at) for _, at, _ in rows],
        "f": [value for _, _, value in rows],
    }
    return pl.LazyFrame(columns, schema={"machine": pl.String, EVENT_TIME: TIME, "f": pl.Float64})


def windows_of(rows, minutes):
    return windows.sensor_windows(table_of(rows), "machine", ["f"], minutes).collect()


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
    found = windows_of(rows, [minutes])
    expected = naive_windows(rows, minutes)
    assert len(found) == len(expected)
    names = ["f", *(f"f_{statistic}_{minutes}m" for statistic in ("mean", "std", "min", "max"))]
    for row in found.to_dicts():
        at = round((row[EVENT_TIME] - START) / timedelta(minutes=1))
        for name, value in zip(names, expected[(row["machine"], at)], strict=True):
            if value is None:
                assert row[name] is None
            else:
                assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-6)


def test_the_rounding_of_one_large_reading_stays_in_its_windows():
    values = [1e12, *[0.1, 0.2, 0.3] * 40]
    found = windows_of([("a", at, value) for at, value in enumerate(values)], [3])
    assert found["f_mean_3m"][-1] == pytest.approx(0.2, rel=1e-15)
    assert found["f_std_3m"][-1] == pytest.approx(np.std([0.1, 0.2, 0.3]), rel=1e-14)


def test_what_is_not_a_number_is_a_missing_reading():
    found = windows_of([("a", 0, 1.0), ("a", 1, math.nan), ("a", 2, 3.0)], [10])
    assert found["f"].to_list() == [1.0, None, 3.0]
    assert found["f_mean_10m"].to_list() == [1.0, 1.0, 2.0]


clicks = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 60), st.sampled_from([0, 1, None])), max_size=40
)


def activity_of(rows, days=30):
    columns = {
        "user": [user for user, _, _ in rows],
        EVENT_TIME: [START + timedelta(days=day) for _, day, _ in rows],
        "click": [click for _, _, click in rows],
    }
    table = pl.LazyFrame(columns, schema={"user": pl.String, EVENT_TIME: TIME, "click": pl.Int64})
    return windows.activity(table, "user", "user", pl.col("click"), days).collect()


@given(clicks, st.integers(1, 40))
def test_activity_counts_the_events_that_a_naive_reference_counts(rows, days):
    found = activity_of(rows, days)
    known = [row for row in rows if row[2] is not None]
    moments = {(user, day) for user, day, _ in known}
    assert len(found) == len(moments)
    for row in found.to_dicts():
        user, day = row["user"], round((row[EVENT_TIME] - START) / timedelta(days=1))
        before = [(when, click) for name, when, click in known if name == user and when <= day]
        recent = [(when, click) for when, click in before if when > day - days]
        earlier = [when for when, _ in before if when < day]
        for suffix, part in (("", before), (f"_{days}d", recent)):
            assert row[f"user_events{suffix}"] == len(part)
            assert row[f"user_click_rate{suffix}"] == pytest.approx(sum(click for _, click in part) / len(part))
        gap = row["user_seconds_since_last"]
        assert gap is None if not earlier else gap == (day - max(earlier)) * 86_400


def test_what_an_entity_says_of_itself_later_is_not_carried_back():
    """Who is premium since June was not in January."""
    table = pl.LazyFrame(
        {
            "user_id": ["1", "2", "1", "1"],
            EVENT_TIME: [datetime(2026, month, 1, tzinfo=UTC) for month in (1, 3, 6, 9)],
            "premium": [None, "no", "yes", None],
        }
    )
    found = windows.profile(table, "user_id", ["premium"]).collect()
    assert [(user, moment.month, premium) for user, moment, premium in found.iter_rows()] == [
        ("1", 1, None),
        ("2", 3, "no"),
        ("1", 6, "yes"),
        ("1", 9, "yes"),
    ]


# What is computed of a view from the rows up to a moment, and of it from all rows, is the same up to that moment.


def raw_rows(view, number):
    """Rows of a set like the view's, with everything that may be missing missing now and then."""
    dataset = datasets.get(view.dataset)
    columns = {
        column.name: st.sampled_from(["a", "b", None])
        if column.kind == "identifier"
        else st.sampled_from([*column.values, None])
        if column.kind == "category"
        else st.integers(int(column.low), min(int(column.high), 100)) | st.none()
        for column in dataset.columns
    }
    row = st.fixed_dictionaries({**columns, EVENT_TIME: st.integers(0, number) | st.none()})
    return st.lists(row, max_size=25)


def raw_table(view, rows):
    dataset = datasets.get(view.dataset)
    schema = {column.name: pl.Int64 if column.numeric else pl.String for column in dataset.columns} | {EVENT_TIME: TIME}
    timed = [
        {**row, EVENT_TIME: None if row[EVENT_TIME] is None else START + timedelta(minutes=7 * row[EVENT_TIME])}
        for row in rows
    ]
    return pl.DataFrame(timed, schema=schema)


@pytest.mark.parametrize("name", VIEW)
def test_nothing_that_lies_later_changes_a_row_of_a_view(name):
    view = VIEW[name]

    @given(raw_rows(view, 40), st.integers(0, 40))
    def check(rows, cut):
        raw, moment = raw_table(view, rows), START + timedelta(minutes=7 * cut)
        assert_frame_equal(*until(view, raw, moment))

    check()


@pytest.mark.parametrize("name", VIEW)
def test_nothing_that_lies_later_changes_a_row_of_a_view_of_the_real_set(tables, name):
    view = VIEW[name]
    raw = pl.from_pandas(tables(view.dataset).raw).sort(EVENT_TIME).head(4_000)
    moments = raw[EVENT_TIME].unique().sort()

    @settings(max_examples=5)
    @given(st.integers(0, len(moments) - 1))
    def check(place):
        assert_frame_equal(*until(view, raw, moments[place]))

    check()


def until(view, raw, moment):
    """The view's rows up to the moment: computed from all rows, and from those up to it."""
    whole = rows_of(view, raw).filter(pl.col("event_timestamp") <= moment)
    return whole, rows_of(view, raw.filter(pl.col(EVENT_TIME) <= moment))


@pytest.mark.parametrize("name", VIEW)
def test_a_view_of_the_real_set_has_the_declared_columns_and_one_row_a_moment(tables, name):
    view = VIEW[name]
    raw = tables(view.dataset).raw
    rows = rows_of(view, raw)
    assert rows.columns == [view.key.column, "event_timestamp", "created", *view.features]
    assert not rows.select(view.key.column, "event_timestamp").is_duplicated().any()
    assert rows["event_timestamp"].is_sorted()
    assert set(rows[view.key.column]) == set(raw[view.key.column])
    assert {feature: str(rows.schema[feature]) for feature in view.features} == dict(view.features)


def test_rows_without_an_entity_or_a_time_are_left_out(tables):
    raw = pl.from_pandas(tables("movielens").raw.head(1000)).with_row_index("row")
    row = pl.col("row")
    raw = raw.with_columns(pl.when(row >= 10).then("user_id"), pl.when(~row.is_between(10, 19)).then(EVENT_TIME))
    rows = rows_of(VIEW["user_activity"], raw)
    assert rows.group_by("user_id").agg(pl.col("user_events").max())["user_events"].sum() == 980


def test_a_missing_age_stays_missing_and_the_other_ages_whole_numbers(tables):
    raw = pl.from_pandas(tables("movielens").raw.head(1000))
    first = raw["user_id"][0]
    raw = raw.with_columns(pl.when(pl.col("user_id") != first).then(pl.col("age").cast(pl.Float64)))
    ages = dict(rows_of(VIEW["user_profile"], raw).select("user_id", "age").iter_rows())
    assert ages.pop(first) is None
    assert all(isinstance(age, int) for age in ages.values())


def test_sorted_and_shuffled_tables_give_the_same_features(tables):
    raw = tables("shuttle").raw.head(2000)
    view = VIEW["sensor_windows"]
    assert_frame_equal(rows_of(view, raw), rows_of(view, raw.sample(frac=1, random_state=1)))


def test_every_pair_of_views_of_a_service_has_features_of_its_own():
    for first, second in itertools.combinations(VIEWS, 2):
        assert not set(first.features) & set(second.features)
