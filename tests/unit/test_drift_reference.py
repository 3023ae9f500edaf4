"""What new rows are compared with: how it is made, where it lies, and that it follows the model in production."""

import tracemalloc
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import datasets
from mlops.datasets.declaration import EVENT_TIME
from mlops.drift import reference as references
from mlops.drift.columns import comparable
from mlops.drift.reference import current, earliest, make, store_earliest
from mlops.result import Refused
from mlops.stores.dataset_files import LoadedDataset
from mlops.stores.object_store import ObjectStore, data_bucket
from mlops.stores.trained_on import TrainedOn

SHUTTLE, ADULT = datasets.get("shuttle"), datasets.get("adult")
START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = TrainedOn("sensor-failure", "3", "run3", "d1", (START + timedelta(minutes=99)).isoformat(), 100)


def shuttle(rows: int, shift: int = 0, minutes: np.ndarray | None = None) -> LoadedDataset:
    """f1 is the row's number; a row a minute."""
    times = (
        START
        + timedelta(seconds=shift)
        + pl.Series(np.arange(rows) if minutes is None else minutes) * timedelta(minutes=1)
    )
    columns = {column.name: pl.Series(np.arange(rows) % 200) for column in SHUTTLE.columns if column.numeric}
    table = pl.DataFrame({"machine": ["shuttle"] * rows, **columns, EVENT_TIME: times})
    return LoadedDataset(
        table.with_columns(pl.int_range(rows).alias("f1")).lazy(), "d1", shift, "tables/shuttle/t.parquet"
    )


@pytest.fixture
def store(environment, s3_endpoint, monkeypatch) -> ObjectStore:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    found = data_bucket()
    found.ensure()
    return found


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.floats(0.05, 0.95))
def test_no_row_of_the_reference_is_later_than_one_that_is_left(minutes, fraction):
    table = shuttle(len(minutes), minutes=np.array(minutes)).table
    taken = earliest(table, fraction).collect()
    left = table.collect().filter(~pl.col("f1").is_in(taken["f1"].implode()))
    assert len(taken) >= max(1, round(len(minutes) * fraction))
    assert left.is_empty() or taken[EVENT_TIME].max() < left[EVENT_TIME].min()


def test_rows_without_times_are_taken_as_they_lie():
    table = pl.LazyFrame({"row": range(10)})
    assert earliest(table, 0.6).collect()["row"].to_list() == [0, 1, 2, 3, 4, 5]
    assert (
        earliest(table.with_columns(pl.lit(None, pl.Datetime("us", "UTC")).alias(EVENT_TIME)), 0.6).collect().height
        == 6
    )


def test_the_sample_is_of_rows_in_their_order_of_time(monkeypatch):
    monkeypatch.setattr(references, "_KEPT", 500)
    minutes = np.random.default_rng(7).permutation(2000)
    made = make(shuttle(2000, minutes=minutes).table, SHUTTLE)
    rows = made.sample["f1"].to_numpy().astype(int)
    assert len(set(rows)) == 500
    assert (np.diff(minutes[rows]) > 0).all()
    assert list(made.sample.columns) == list(made.sketches)


def test_of_many_rows_a_part_says_where_to_count_and_all_are_counted(monkeypatch):
    monkeypatch.setattr(references, "_SAMPLE", 10_000)
    monkeypatch.setattr(references, "_SLICE", 7_000)
    table = shuttle(100_000).table
    made = make(table, SHUTTLE)
    f1 = made.sketches["f1"]
    assert (f1.rows, f1.missing, len(f1.edges)) == (100_000, 0, 2048)
    assert f1.resolution < 0.003, "five rows of the sample between each two edges, more or less"
    exact = table.select(comparable(SHUTTLE)).collect()["f1"].to_numpy()
    np.testing.assert_array_equal(f1.below, np.searchsorted(np.sort(exact), f1.edges))
    cut = earliest(table, 0.6).collect().height
    assert cut == pytest.approx(60_000, abs=2000)


def test_what_is_held_of_the_rows_does_not_grow_with_them(tmp_path):
    """Python's and NumPy's memory; that of polars' streams is bounded by the slices that they hand out."""
    peaks = []
    for rows in (300_000, 900_000):
        file = tmp_path / f"{rows}.parquet"
        shuttle(rows).table.sink_parquet(file, row_group_size=1 << 17)
        tracemalloc.start()
        make(pl.scan_parquet(file), SHUTTLE)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_without_a_model_the_earliest_rows_are_stored_once_and_then_stay(store):
    first = current(store, SHUTTLE, lambda _: shuttle(1000), 0.6)
    assert (first.made_now, first.name, first.about["rows"]) == (True, "the earliest 60% of the data", 600)
    again = current(store, SHUTTLE, lambda _: shuttle(5000), 0.6)
    assert (again.made_now, again.about) == (False, first.about)
    assert again.sketches.keys() == first.sketches.keys()
    for name, one in first.sketches.items():
        found = again.sketches[name]
        assert (found.rows, found.missing) == (one.rows, one.missing)
        if name == "anomaly":
            assert found.counts == one.counts
        else:
            for part in ("edges", "below", "at"):
                np.testing.assert_array_equal(getattr(found, part), getattr(one, part))
    assert len(references.sample(store, SHUTTLE)) == 600


def test_the_reference_follows_the_model_in_production_forth_and_back(store):
    raw = shuttle(1000, shift=86_400)
    current(store, SHUTTLE, lambda _: raw, 0.6)
    MODEL.write(store, "shuttle")
    followed = current(store, SHUTTLE, lambda _: raw, 0.6)
    assert (followed.made_now, followed.name) == (True, "the training data of sensor-failure version 3")
    assert followed.about["rows"] == 100, "up to the last event that it learned from, however times are shifted now"
    assert current(store, SHUTTLE, lambda _: raw, 0.6).made_now is False
    TrainedOn("sensor-failure", "4", "run4", "d1", None, 800).write(store, "shuttle")
    assert current(store, SHUTTLE, lambda _: raw, 0.6).about["rows"] == 800, (
        "as many as it learned from, where it tells no time"
    )
    MODEL.write(store, "shuttle")
    assert current(store, SHUTTLE, lambda _: raw, 0.6).about["rows"] == 100
    TrainedOn("sensor-failure", "5", "run5", "d1", None, 0).write(store, "shuttle")
    assert current(store, SHUTTLE, lambda _: raw, 0.6).about["rows"] == 1000, "a run of before, which tells nothing"


def test_a_reference_made_by_hand_stays_until_the_next_model(store):
    MODEL.write(store, "shuttle")
    made = store_earliest(store, SHUTTLE, shuttle(1000), 0.5)
    assert current(store, SHUTTLE, lambda _: shuttle(1000), 0.6).about == made.about
    TrainedOn("sensor-failure", "4", "run4", "d1", None, 800).write(store, "shuttle")
    assert current(store, SHUTTLE, lambda _: shuttle(1000), 0.6).about["rows"] == 800


def test_a_reference_of_rows_as_a_release_before_stored_it_is_counted_and_kept(store):
    old = earliest(shuttle(1000).table, 0.3).collect().to_pandas()
    old.attrs = {
        "data_version": "d0",
        "fraction": 0.3,
        "event_time_shift_seconds": 0,
        "rows": 300,
        "start": "s",
        "end": "e",
    }
    store.write_table("reference/shuttle.parquet", old)
    found = current(store, SHUTTLE, lambda _: shuttle(1000), 0.6)
    assert (found.about["data_version"], found.about["rows"], found.sketches["f1"].rows) == ("d0", 300, 300)
    assert found.name == "the earliest 30% of the data"
    assert current(store, SHUTTLE, lambda _: shuttle(1000), 0.6).made_now is False
    MODEL.write(store, "shuttle")
    assert current(store, SHUTTLE, lambda _: shuttle(1000), 0.6).about["rows"] == 100


@pytest.mark.parametrize("former", [True, False])
def test_a_reference_from_before_a_new_column_is_refused_with_the_remedy(store, former):
    if former:
        store.write_table("reference/shuttle.parquet", shuttle(100).table.drop("f3").collect().to_pandas())
    else:
        current(store, SHUTTLE, lambda _: shuttle(100), 0.6)
        key = "reference/shuttle/sketch.parquet"
        facts, table = store.facts(key), store.scan(key).collect()
        del facts["columns"]["f3"]
        store.write(key, table.lazy(), facts)
    with pytest.raises(Refused, match="lacks f3: make the reference anew with 'python -m mlops drift reference"):
        current(store, SHUTTLE, lambda _: shuttle(100), 0.6)
    store_earliest(store, SHUTTLE, shuttle(100), 0.6)
    assert current(store, SHUTTLE, lambda _: shuttle(100), 0.6).about["rows"] == 60
