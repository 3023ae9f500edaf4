from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import datasets
from mlops.datasets.declaration import EVENT_TIME, LABEL, SplitByTime, SplitStratified
from mlops.features.engineer import engineer
from mlops.features.split import latest, split, stratified
from mlops.result import Failure
from tests.conftest import cleaned

SHUTTLE, MOVIELENS, ADULT = (datasets.get(name) for name in ("shuttle", "movielens", "adult"))
START = datetime(2026, 1, 1, tzinfo=UTC)
moments = st.lists(st.integers(min_value=0, max_value=50), min_size=2, max_size=60)
fractions = st.floats(min_value=0.05, max_value=0.95)


@given(moments, fractions)
def test_a_split_by_time_puts_every_training_row_before_every_test_row(minutes, fraction):
    times = pd.Series([START + timedelta(minutes=minute) for minute in minutes])
    in_test = latest(times, fraction)
    assert in_test.any()
    assert len(times[~in_test]) <= len(times) * (1 - fraction)
    cutoff = int(len(times) * (1 - fraction))
    assert (~in_test).sum() == (times < sorted(times)[cutoff]).sum(), "no row more is kept from training"
    if not in_test.all():
        assert times[~in_test].max() < times[in_test].min()


@given(st.lists(st.integers(0, 1), min_size=1, max_size=200), fractions, st.integers(0, 1000))
def test_a_stratified_split_keeps_the_share_of_each_class_and_repeats_itself(labels, fraction, seed):
    column = pd.Series(labels)
    in_test = stratified(column, fraction, seed)
    for label in (0, 1):
        rows = (column == label).sum()
        assert abs((in_test & (column == label)).sum() - rows * fraction) <= 0.5
    pd.testing.assert_series_equal(in_test, stratified(column, fraction, seed))


@given(st.data(), st.sampled_from([SplitByTime(0.3), SplitStratified(0.3, seed=1)]))
def test_training_and_test_set_are_disjoint_and_cover_all_rows(data, declared):
    minutes = data.draw(st.lists(st.integers(0, 300), min_size=20, max_size=80))
    table = pd.DataFrame(
        {
            "row": range(len(minutes)),
            EVENT_TIME: [START + timedelta(minutes=minute) for minute in minutes],
            LABEL: data.draw(st.lists(st.integers(0, 1), min_size=len(minutes), max_size=len(minutes))),
        }
    )
    try:
        train, test = split(table, replace(SHUTTLE, split=declared))
    except Failure as failure:
        assert "of the two classes" in str(failure)
        return
    both = pd.concat([train, test]).sort_values("row").reset_index(drop=True)
    pd.testing.assert_frame_equal(both, table)
    for part in (train, test):
        assert part["row"].is_monotonic_increasing and list(part.index) == list(range(len(part)))


def test_a_training_set_of_one_class_is_refused_as_well():
    times = [START + timedelta(minutes=minute) for minute in range(10)]
    table = pd.DataFrame({EVENT_TIME: times, LABEL: [0] * 8 + [0, 1]})
    with pytest.raises(Failure, match=r"the training set has 8 rows and 1 of the two classes"):
        split(table, SHUTTLE)


def test_another_seed_draws_another_test_set():
    labels = pd.Series([0, 1] * 500)
    assert not stratified(labels, 0.2, seed=1).equals(stratified(labels, 0.2, seed=2))


def test_a_test_set_of_one_class_is_refused_with_the_remedy():
    times = [START + timedelta(minutes=minute) for minute in range(10)]
    table = pd.DataFrame({EVENT_TIME: times, LABEL: [0, 1] * 4 + [0, 0]})
    with pytest.raises(Failure, match=r"the test set has 2 rows and 1 of the two classes: .*mlops/datasets/shuttle.py"):
        split(table, SHUTTLE)


def test_the_real_sets_are_split_as_declared(tables):
    for name, share in (("shuttle", 0.2), ("movielens", 0.2), ("adult", 0.2)):
        made = tables(name)
        assert len(made.train) + len(made.test) == len(made.clean)
        assert len(made.test) / len(made.clean) == pytest.approx(share, abs=0.001)


def test_preprocessing_drops_repeated_rows_and_keeps_the_latest(tables):
    raw = tables("movielens").raw
    again = raw.head(1).assign(
        rating=1, timestamp=900_000_000, event_time=pd.Timestamp(900_000_000, unit="s", tz="UTC")
    )
    clean = cleaned(pd.concat([again, raw], ignore_index=True), MOVIELENS)
    assert len(clean) == len(raw)
    kept = clean[(clean["user_id"] == again["user_id"].iloc[0]) & (clean["item_id"] == again["item_id"].iloc[0])]
    assert kept["rating"].tolist() == [1]
    assert clean[EVENT_TIME].is_monotonic_increasing


def test_preprocessing_keeps_repeated_rows_where_they_are_allowed(tables):
    raw = tables("adult").raw
    assert len(cleaned(raw, replace(ADULT, duplicates=None))) == len(raw)


def test_preprocessing_fills_what_is_missing_as_declared(tables):
    made = tables("adult")
    assert (made.clean["workclass"] == "unknown").sum() >= made.raw["workclass"].isna().sum() - 52
    assert not made.clean.isna().any(axis=None)


def test_preprocessing_adds_the_label_and_drops_rows_without_one(tables):
    raw = tables("shuttle").raw.head(1000).copy()
    raw["anomaly"] = raw["anomaly"].astype(float)
    raw.loc[:9, "anomaly"] = np.nan
    clean = cleaned(raw, SHUTTLE)
    assert len(clean) == 990
    assert clean[LABEL].tolist() == raw["anomaly"].iloc[10:].astype(int).tolist()


def test_each_row_is_preprocessed_by_itself(tables):
    raw = tables("adult").raw
    alone = cleaned(raw.head(500), ADULT)
    together = cleaned(raw, replace(ADULT, duplicates=None)).head(500)
    pd.testing.assert_frame_equal(cleaned(raw.head(500), replace(ADULT, duplicates=None)), together)
    assert len(alone) <= 500


def test_the_model_sees_the_features_and_the_label_only(tables):
    for dataset in (SHUTTLE, MOVIELENS, ADULT):
        train = tables(dataset.name).train
        assert list(train.columns) == [*(column.name for column in dataset.features), LABEL]
        assert dataset.label.column not in train.columns
        assert all(train[column.name].dtype == np.float64 for column in dataset.features if column.numeric)


def test_the_training_set_does_not_depend_on_the_rows_of_the_test_set(tables):
    clean = tables("shuttle").clean
    before, test = split(clean, SHUTTLE)
    changed = clean.copy()
    changed.loc[changed[EVENT_TIME] >= test[EVENT_TIME].min(), ["f1", "f2", "f9"]] = 0.0
    after, _ = split(changed, SHUTTLE)
    pd.testing.assert_frame_equal(engineer(before, SHUTTLE), engineer(after, SHUTTLE))


def test_the_commands_hand_on_keys_and_counts(platform, tables):
    platform.data.write_table("runs/raw.parquet", tables("adult").raw)
    clean = platform.result_of("features", "preprocess", "--dataset", "adult", "--data", "runs/raw.parquet")
    assert (clean["rows"], clean["dropped"]) == (48_790, 52)
    made = platform.result_of("features", "engineer", "--dataset", "adult", "--data", str(clean["data"]))
    assert made["features"] == len(ADULT.features)
    pd.testing.assert_frame_equal(platform.data.read_table(str(made["train"])), tables("adult").train)
    pd.testing.assert_frame_equal(platform.data.read_table(str(made["test"])), tables("adult").test)
