from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlops import datasets
from mlops.data_quality.quality import check, missing_shares
from mlops.data_quality.schema import violations
from mlops.data_quality.window import earliest, latest, span, window_name
from mlops.datasets.declaration import EVENT_TIME

SHUTTLE, MOVIELENS, ADULT = (datasets.get(name) for name in ("shuttle", "movielens", "adult"))
NOW = datetime(2026, 6, 1, tzinfo=UTC)
moments = st.lists(st.integers(min_value=0, max_value=500), min_size=1, max_size=60)


def hours(values: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"row": range(len(values)), EVENT_TIME: [NOW + timedelta(hours=value) for value in values]})


@given(moments, st.integers(1, 100))
@example(values=[0, 1, 24, 25], window=24).via("a row at the very edge")
def test_the_latest_window_is_all_rows_of_the_last_hours_and_no_other(values, window):
    inside = latest(hours(values), window, 0.2)
    assert sorted(inside["row"]) == [row for row, value in enumerate(values) if value > max(values) - window]


@given(moments, st.floats(0.05, 0.95))
def test_no_row_of_the_reference_is_later_than_one_that_is_left(values, fraction):
    table = hours(values)
    taken = earliest(table, fraction)
    left = table.drop(taken.index)
    assert len(taken) == max(1, round(len(values) * fraction))
    assert left.empty or taken[EVENT_TIME].max() <= left[EVENT_TIME].min()


def test_rows_without_times_are_taken_as_they_lie():
    table = pd.DataFrame({"row": range(10)})
    assert list(latest(table, 24, 0.2)["row"]) == [8, 9]
    assert list(earliest(table, 0.6)["row"]) == [0, 1, 2, 3, 4, 5]
    assert span(table) == {"rows": 10, "start": None, "end": None}


def test_a_row_whose_time_is_missing_is_judged_with_the_newest():
    table = hours([0, 100, 200])
    table.loc[0, EVENT_TIME] = pd.NaT
    assert list(latest(table, 24, 0.2)["row"]) == [0, 2]


def test_a_window_has_the_same_name_however_its_times_are_shifted():
    table = hours([0, 5])
    shifted = table.assign(**{EVENT_TIME: table[EVENT_TIME] + timedelta(seconds=1234)})
    assert window_name(table, "a" * 64, 0) == window_name(shifted, "a" * 64, 1234)
    assert window_name(table, "a" * 64, 0) != window_name(shifted, "a" * 64, 0)
    assert window_name(table, "a" * 64, 0) != window_name(table, "b" * 64, 0)


@pytest.mark.parametrize("name", ["shuttle", "movielens", "adult"])
def test_the_real_sets_are_as_declared(tables, name):
    dataset, raw = datasets.get(name), tables(name).raw
    assert violations(raw, dataset) == []
    checks = check(raw, dataset, max_age=0, now=NOW)
    assert [one for one in checks if not one.passed] == []
    assert len(checks) >= len(dataset.columns) - 1


def test_each_column_that_is_not_as_declared_is_named(tables):
    raw = tables("shuttle").raw.tail(100).drop(columns="f2").astype({"f1": object, "f3": float})
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
    raw = raw.astype({"timestamp": object})
    raw.loc[raw.index[0], "timestamp"] = "yesterday"
    assert [alert.column for alert in violations(raw, MOVIELENS)] == ["timestamp"]


def failed(table: pd.DataFrame, dataset=SHUTTLE, max_age: float = 0.0) -> dict[tuple[str, str], float]:
    return {
        (one.name, one.column): round(one.value, 6)
        for one in check(table, dataset, max_age=max_age, now=NOW)
        if not one.passed
    }


def test_missing_values_are_found(tables):
    raw = tables("shuttle").raw.tail(200).astype({"f5": float})
    raw.iloc[:3, raw.columns.get_loc("f5")] = None
    assert failed(raw) == {("missing values", "f5"): 0.015}
    assert missing_shares(raw, SHUTTLE)["f5"] == 0.015


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


@pytest.mark.parametrize(("age", "fails"), [(1.0, False), (6.0, False), (7.0, True), (-0.5, False), (-3.0, True)])
def test_the_newest_event_may_be_neither_too_old_nor_of_tomorrow(tables, age, fails):
    raw = tables("shuttle").raw.tail(200)
    raw = raw.assign(**{EVENT_TIME: raw[EVENT_TIME] + (NOW - timedelta(hours=age) - raw[EVENT_TIME].max())})
    assert failed(raw, max_age=6.5) == ({("freshness", EVENT_TIME): age} if fails else {})
    assert failed(raw) == {}, "0 leaves freshness unchecked"


def test_a_failed_check_says_the_column_the_value_and_the_threshold(tables):
    raw = tables("shuttle").raw.tail(200)
    (stale,) = (one.alert for one in check(raw, SHUTTLE, max_age=6, now=NOW) if not one.passed)
    assert (stale.column, stale.threshold) == (EVENT_TIME, 6)
    assert stale.text.endswith("h old, 6 h are allowed")
