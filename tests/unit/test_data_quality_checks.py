from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlops import datasets
from mlops.data_quality import quality, schema
from mlops.data_quality.findings import Alert
from mlops.data_quality.quality import Check, freshness
from mlops.data_quality.window import check_size, latest, span, window_name
from mlops.datasets.declaration import EVENT_TIME, FUTURE, Dataset
from mlops.result import Refused

SHUTTLE, MOVIELENS, ADULT = (datasets.get(name) for name in ("shuttle", "movielens", "adult"))
NOW = datetime(2026, 6, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=30)
TIME = pl.Datetime("us", "UTC")
moments = st.lists(st.integers(min_value=0, max_value=500), min_size=1, max_size=60)


def hours(values: list[int | None]) -> pl.LazyFrame:
    times = [None if value is None else NOW + timedelta(hours=value) for value in values]
    return pl.LazyFrame({"row": range(len(values)), EVENT_TIME: times}, schema_overrides={EVENT_TIME: TIME})


def rows_of(table: pl.LazyFrame) -> list[int]:
    return table.collect()["row"].to_list()


def newest(table: pl.LazyFrame, window: float = 24, now: datetime = LATER) -> pl.LazyFrame:
    return latest(table, SHUTTLE, hours=window, fraction=0.2, now=now).rows


@given(moments, st.integers(1, 100))
@example(values=[0, 1, 24, 25], window=24).via("a row at the very edge")
def test_the_latest_window_is_all_rows_of_the_last_hours_and_no_other(values, window):
    inside = newest(hours(values), window)
    assert sorted(rows_of(inside)) == [row for row, value in enumerate(values) if value > max(values) - window]


@given(st.lists(st.none() | st.integers(0, 500), min_size=1, max_size=60), st.integers(1, 100), st.integers(-10, 510))
def test_what_is_read_of_row_groups_is_what_is_read_of_all_rows(tmp_path_factory, values, window, now):
    """What a file says of its row groups leaves out what a scan need not read, and no row that it must."""
    times = [None if value is None else NOW + timedelta(hours=value) for value in values]
    table = pl.DataFrame(
        {"row": range(len(values)), EVENT_TIME: times}, schema_overrides={EVENT_TIME: pl.Datetime("us", "UTC")}
    )
    file = tmp_path_factory.mktemp("groups") / "table.parquet"
    table.write_parquet(file, row_group_size=5)
    at = NOW + timedelta(hours=now)
    of_groups, of_all = (outcome(rows, window, at) for rows in (pl.scan_parquet(file), table.lazy()))
    assert of_groups == of_all


def outcome(table: pl.LazyFrame, size: float, now: datetime) -> object:
    try:
        window = latest(table, SHUTTLE, hours=size, fraction=0.2, now=now)
    except Refused as refused:
        return str(refused)
    return rows_of(window.rows), rows_of(window.future), window.about


def test_one_row_of_the_year_2096_is_left_out_and_counted():
    table = hours([*range(48), 24 * 365 * 70])
    window = latest(table, SHUTTLE, hours=24, fraction=0.2, now=LATER)
    assert rows_of(window.rows) == list(range(24, 48))
    assert rows_of(window.future) == [48]
    assert (window.about["of"], window.about["future"]) == (49, 1)
    assert str(window.about["latest"]).startswith("2096")
    assert str(window.about["end"]) == (NOW + timedelta(hours=47)).isoformat()


def test_a_clock_that_is_a_little_ahead_makes_no_event_of_the_future():
    table = hours([0, 1])
    for behind, future in ((FUTURE, 0), (FUTURE + timedelta(seconds=1), 1)):
        window = latest(table, SHUTTLE, hours=24, fraction=0.2, now=NOW + timedelta(hours=1) - behind)
        assert window.about["future"] == future


def test_a_set_that_lies_in_the_future_as_a_whole_is_refused_with_what_may_be_wrong():
    with pytest.raises(
        Refused,
        match=r"all of its 2 event times lie in the future, up to 2026-06-01T01.*the unit or zone "
        "that the declaration of dataset shuttle gives them",
    ):
        newest(hours([0, 1]), now=NOW - timedelta(days=1))


@pytest.mark.parametrize("size", [0, -1, 1e9, float("nan"), float("inf")])
def test_a_window_that_is_none_is_refused_with_the_reason(size):
    with pytest.raises(Refused, match="longer than 0 and at most 87,600 hours"):
        check_size(size, 0.2)
    with pytest.raises(Refused, match="above 0, at most 1"):
        check_size(24, size)


def test_rows_without_times_are_taken_as_they_lie():
    table = pl.LazyFrame({"row": range(10)})
    assert rows_of(newest(table)) == [8, 9]
    assert rows_of(newest(hours([None] * 10))) == [8, 9]
    assert span(table) == {"rows": 10, "start": None, "end": None}


def test_a_row_whose_time_is_missing_is_judged_with_the_newest():
    assert rows_of(newest(hours([None, 100, 200]))) == [0, 2]


def test_a_window_has_the_same_name_however_its_times_are_shifted():
    judged = span(hours([0, 5]))
    shifted = span(hours([0, 5]).with_columns(pl.col(EVENT_TIME) + timedelta(seconds=1234)))
    assert (
        window_name(judged, "a" * 64, 0)
        == window_name(shifted, "a" * 64, 1234)
        == f"20260601T000000Z-20260601T050000Z-{'a' * 12}"
    )
    assert window_name(judged, "a" * 64, 0) != window_name(shifted, "a" * 64, 0)
    assert window_name(judged, "a" * 64, 0) != window_name(judged, "b" * 64, 0)


def violations(table: pd.DataFrame, dataset: Dataset) -> list[Alert]:
    return schema.violations(pl.from_pandas(table).lazy(), dataset)


def check(table: pd.DataFrame, dataset: Dataset) -> list[Check]:
    return quality.check(pl.from_pandas(table).lazy(), dataset)


@pytest.mark.parametrize("name", ["shuttle", "movielens", "adult"])
def test_the_real_sets_are_as_declared(tables, name):
    dataset, raw = datasets.get(name), tables(name).raw
    assert violations(raw, dataset) == []
    checks = check(raw, dataset)
    assert [one for one in checks if not one.passed] == []
    assert len(checks) >= len(dataset.columns) - 1


def test_each_column_that_is_not_as_declared_is_named(tables):
    raw = tables("shuttle").raw.tail(100).drop(columns="f2").astype({"f1": object, "f3": float})
    raw["f1"] = raw["f1"].astype(str)
    raw.iloc[0, raw.columns.get_loc("f1")] = "abc"
    raw.iloc[0, raw.columns.get_loc("f3")] = 1.5
    assert {(alert.column, alert.value) for alert in violations(raw, SHUTTLE)} == {
        ("f1", 0.01),
        ("f2", 1),
        ("f3", 0.01),
    }
    assert "such as 'abc'" in next(alert.text for alert in violations(raw, SHUTTLE) if alert.column == "f1")


def test_missing_whole_numbers_are_missing_and_not_of_a_wrong_type(tables):
    raw = tables("shuttle").raw.tail(100).astype({"f1": float})
    raw.iloc[0, raw.columns.get_loc("f1")] = None
    assert violations(raw, SHUTTLE) == []


def test_rows_without_a_time_are_told_of_once(tables):
    raw = tables("movielens").raw.tail(100).copy()
    raw.loc[raw.index[0], EVENT_TIME] = pd.NaT
    assert [alert.column for alert in violations(raw, MOVIELENS)] == [EVENT_TIME]
    raw = raw.astype({"timestamp": str})
    raw.loc[raw.index[0], "timestamp"] = "yesterday"
    assert [alert.column for alert in violations(raw, MOVIELENS)] == ["timestamp"]


def failed(table: pd.DataFrame, dataset=SHUTTLE) -> dict[tuple[str, str], float]:
    return {(one.name, one.column): round(one.value, 6) for one in check(table, dataset) if not one.passed}


def test_missing_values_are_found(tables):
    raw = tables("shuttle").raw.tail(200).astype({"f5": float})
    raw.iloc[:3, raw.columns.get_loc("f5")] = None
    assert failed(raw) == {("missing values", "f5"): 0.015}
    assert quality.missing_shares(pl.from_pandas(raw).lazy(), SHUTTLE)["f5"] == 0.015


def test_values_out_of_range_are_found(tables):
    raw = tables("shuttle").raw.tail(200).copy()
    raw.iloc[:4, raw.columns.get_loc("f1")] = 201
    assert failed(raw) == {("values outside of [0, 200]", "f1"): 0.02}


def test_values_that_are_not_declared_are_found(tables):
    raw = tables("adult").raw.tail(200).copy()
    raw.iloc[:4, raw.columns.get_loc("gender")] = "X"
    assert failed(raw, ADULT) == {("values that are not declared", "gender"): 0.02}


def test_repeated_rows_are_found(tables):
    raw = tables("movielens").raw.tail(200)
    again = pd.concat([raw, raw.head(1).assign(rating=1)], ignore_index=True)
    assert failed(again, MOVIELENS) == {("repeated rows", "all"): round(2 / 201, 6)}


def test_infinite_numbers_are_found_where_no_bound_is_declared(tables):
    free = tuple(replace(c, kind="number", low=None, high=None) if c.name == "f1" else c for c in SHUTTLE.columns)
    raw = tables("shuttle").raw.tail(200).astype({"f1": float})
    raw.iloc[:2, raw.columns.get_loc("f1")] = [float("inf"), float("-inf")]
    assert failed(raw, replace(SHUTTLE, columns=free)) == {("infinite values", "f1"): 0.01}


@pytest.mark.parametrize(("age", "passes"), [(1.0, True), (48.0, True), (48.5, False), (-0.5, True)])
def test_the_newest_event_may_be_twice_as_old_as_rows_come_unless_an_age_is_given(age, passes):
    daily, event = replace(SHUTTLE, cadence=timedelta(days=1)), NOW - timedelta(hours=age)
    fresh = freshness(daily, event, None, NOW)
    assert isinstance(fresh, Check)
    assert (fresh.passed, fresh.threshold) == (passes, 48)
    given_age = freshness(SHUTTLE, event, 6.5, NOW)
    assert isinstance(given_age, Check)
    assert given_age.passed == (age <= 6.5)


def test_a_set_of_ones_own_with_event_times_is_fresh_for_two_days_by_default():
    assert next(field.default for field in fields(Dataset) if field.name == "cadence") == timedelta(days=1)


def test_where_freshness_is_not_checked_that_is_said():
    assert freshness(ADULT, None, 6, NOW) == "Freshness is not checked: the set has no event times."
    assert "nothing is added to the set" in str(freshness(SHUTTLE, NOW, None, NOW))
    assert "is given as 0" in str(freshness(SHUTTLE, NOW, 0, NOW))
    assert "no row of the window has a time" in str(freshness(SHUTTLE, None, 6, NOW))


def test_a_failed_check_says_the_column_the_value_and_the_threshold():
    stale = freshness(SHUTTLE, NOW - timedelta(hours=7), 6, NOW)
    assert isinstance(stale, Check)
    assert (stale.alert.column, stale.alert.threshold) == (EVENT_TIME, 6)
    assert stale.alert.text == "the newest event is 7.0 h old, 6 h are allowed"
