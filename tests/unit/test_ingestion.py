import gzip
import hashlib
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from mlops import datasets
from mlops.datasets.read import data_version, read_dataset
from mlops.result import Failure
from mlops.stores.dataset_files import DatasetFiles
from mlops.stores.object_store import ObjectStore

SHUTTLE, MOVIELENS, ADULT = (datasets.get(name) for name in ("shuttle", "movielens", "adult"))
ROWS = {"shuttle": 49_097, "movielens": 100_000, "adult": 48_842}


@pytest.mark.parametrize("name", ROWS)
def test_a_real_set_is_loaded_and_downloaded_whole(platform, datasets_dir, name):
    platform.result_of("ingestion", "load", "--dataset", name, "--folder", str(datasets_dir))
    result = platform.result_of("ingestion", "download", "--dataset", name)
    table = platform.data.read_table(result["data"])
    assert result["rows"] == len(table) == ROWS[name]
    assert {column.name for column in datasets.get(name).columns} <= set(table.columns)
    assert result["columns"] == len(table.columns)


def test_loading_again_writes_nothing_and_a_changed_file_is_written_again(platform, datasets_dir):
    load = ("ingestion", "load", "--dataset", "all", "--folder", str(datasets_dir))
    first, second = platform.result_of(*load), platform.result_of(*load)
    assert first["movielens"] == {"written": 3, "unchanged": 0}
    assert second == {name: {"written": 0, "unchanged": len(datasets.get(name).source.files)} for name in first}
    platform.data.write_bytes(SHUTTLE.object_key("shuttle.csv.gz"), b"broken")
    third = platform.result_of(*load)
    assert third["shuttle"] == {"written": 1, "unchanged": 0}


def test_event_times_are_shifted_to_now_with_all_gaps_kept_and_every_result_says_so(platform, datasets_dir, tables):
    load = ("ingestion", "load", "--dataset", "all", "--folder", str(datasets_dir))
    before = datetime.now(UTC)
    loaded = platform.result_of(*load, "--shift-to-now")
    assert "event_time_shift_seconds" not in loaded["adult"]  # it has no times
    for name in ("shuttle", "movielens"):
        result = platform.result_of("ingestion", "download", "--dataset", name)
        shifted, original = platform.data.read_table(result["data"])["event_time"], tables(name).raw["event_time"]
        assert before - timedelta(seconds=1) <= shifted.max() <= datetime.now(UTC)
        (shift,) = (shifted - original).unique()
        assert shift.total_seconds() == result["event_time_shift_seconds"] == loaded[name]["event_time_shift_seconds"]
        assert datetime.fromisoformat(loaded[name]["newest_event"]) == shifted.max()


def test_a_shift_stays_until_it_is_taken_back_and_the_data_version_is_that_of_the_files(platform, datasets_dir):
    load = ("ingestion", "load", "--dataset", "shuttle", "--folder", str(datasets_dir))
    assert platform.result_of(*load) == {"shuttle": {"written": 1, "unchanged": 0}}
    plain = platform.result_of("ingestion", "download", "--dataset", "shuttle")
    first = platform.result_of(*load, "--shift-to-now")["shuttle"]
    again = platform.result_of(*load)["shuttle"]
    assert again == first and first["event_time_shift_seconds"] > 0
    shifted = platform.result_of("ingestion", "download", "--dataset", "shuttle")
    assert shifted["data_version"] == plain["data_version"]
    assert platform.result_of(*load, "--no-shift-to-now") == {"shuttle": {"written": 0, "unchanged": 1}}
    assert platform.result_of("ingestion", "download", "--dataset", "shuttle") == plain


def test_what_is_downloaded_carries_its_version_and_shift(platform, datasets_dir):
    load = ("ingestion", "load", "--dataset", "shuttle", "--folder", str(datasets_dir))
    platform.result_of(*load, "--shift-to-now")
    result = platform.result_of("ingestion", "download", "--dataset", "shuttle")
    attributes = platform.data.read_table(result["data"]).attrs
    assert attributes == {name: result[name] for name in ("data_version", "event_time_shift_seconds")}
    raw = DatasetFiles(platform.data).read("shuttle")
    assert (raw.data_version, raw.shift_seconds) == tuple(attributes.values())


def test_loading_makes_the_bucket(platform, datasets_dir, monkeypatch):
    monkeypatch.setenv("MAESTRO_DATA_BUCKET", f"{platform.s3.data_bucket}-new")
    platform.result_of("ingestion", "load", "--dataset", "shuttle", "--folder", str(datasets_dir))
    store = ObjectStore(platform.s3, f"{platform.s3.data_bucket}-new")
    assert store.digest(SHUTTLE.object_key("shuttle.csv.gz"))


def test_the_image_says_where_its_files_are(platform, datasets_dir, monkeypatch):
    monkeypatch.setenv("MAESTRO_DATASETS_DIR", str(datasets_dir))
    assert platform.result_of("ingestion", "load", "--dataset", "adult") == {"adult": {"written": 1, "unchanged": 0}}


def test_loading_from_a_folder_without_the_file_says_which_one(platform, tmp_path):
    cause = platform.failure_of("ingestion", "load", "--dataset", "shuttle", "--folder", str(tmp_path))
    assert f"{tmp_path}/shuttle/shuttle.csv.gz not found" in cause
    cause = platform.failure_of("ingestion", "load", "--dataset", "all", "--folder", str(tmp_path))
    assert "holds no dataset" in cause


def test_buckets_are_created_once(platform):
    name = f"extra-{platform.s3.data_bucket}"
    assert platform.result_of("ingestion", "buckets", "--name", name) == {name: "created"}
    assert platform.result_of("ingestion", "buckets", "--name", name) == {name: "present"}


def test_buckets_of_a_store_that_is_starting_are_waited_for(platform, monkeypatch):
    monkeypatch.setattr("mlops.retry._PAUSE", 0.05)
    ensure, asked = ObjectStore.ensure, []

    def starting(store):
        asked.append(store.bucket)
        if len(asked) < 3:
            raise Failure("no answer")
        return ensure(store)

    monkeypatch.setattr(ObjectStore, "ensure", starting)
    name = f"late-{platform.s3.data_bucket}"
    assert platform.result_of("ingestion", "buckets", "--name", name, "--wait", "30") == {name: "created"}
    assert asked == [name] * 3


def test_the_data_version_is_the_digest_of_the_raw_object(platform, datasets_dir):
    platform.result_of("ingestion", "load", "--dataset", "shuttle", "--folder", str(datasets_dir))
    content = (datasets_dir / "shuttle/shuttle.csv.gz").read_bytes()
    result = platform.result_of("ingestion", "download", "--dataset", "shuttle")
    assert result["data_version"] == hashlib.sha256(content).hexdigest()


def test_the_data_version_of_several_files_changes_with_each_of_them():
    files = {"a": b"1", "b": b"2"}
    versions = {
        data_version(changed) for changed in (files, {**files, "a": b"3"}, {**files, "b": b"3"}, {"a": b"2", "b": b"1"})
    }
    assert len(versions) == 4
    assert data_version(files) == data_version(dict(reversed(files.items())))


def test_a_retry_overwrites_its_own_table(platform, datasets_dir, monkeypatch):
    platform.result_of("ingestion", "load", "--dataset", "shuttle", "--folder", str(datasets_dir))
    first = platform.result_of("ingestion", "download", "--dataset", "shuttle")
    monkeypatch.setenv("MAESTRO_TRY_NUMBER", "2")
    assert platform.result_of("ingestion", "download", "--dataset", "shuttle") == first


def test_a_dataset_that_was_not_loaded_is_named_with_the_remedy(platform):
    cause = platform.failure_of("ingestion", "download", "--dataset", "shuttle")
    assert "/datasets/shuttle/shuttle.csv.gz not found at http://127.0.0.1" in cause
    assert "make data" in cause


def test_a_missing_bucket_is_named_with_the_remedy(platform, monkeypatch):
    monkeypatch.setenv("MAESTRO_DATA_BUCKET", "absent-bucket")
    cause = platform.failure_of("ingestion", "download", "--dataset", "shuttle")
    assert "bucket 'absent-bucket' not found at http://127.0.0.1" in cause
    assert "global.buckets" in cause


def test_wrong_keys_are_told_from_a_missing_object_and_stay_secret(platform, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    cause = platform.failure_of("ingestion", "download", "--dataset", "shuttle")
    assert "refuses s3://" in cause
    assert "existingSecret" in cause
    assert "not-the-secret" not in cause
    cause = platform.failure_of("ingestion", "buckets", "--name", "other")
    assert "refuses bucket" in cause


def test_a_store_that_is_away_is_named_with_its_address(platform, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    cause = platform.failure_of("ingestion", "download", "--dataset", "shuttle")
    assert "no answer from http://127.0.0.1:9" in cause
    assert "check that the store runs" in cause


def test_what_is_not_parquet_is_not_read_as_a_table(platform):
    platform.data.write_bytes("runs/broken.parquet", b"not a table")
    cause = platform.failure_of("features", "preprocess", "--dataset", "shuttle", "--data", "runs/broken.parquet")
    assert "runs/broken.parquet is not a Parquet table" in cause


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b""), gzip.compress(b"a,b\n1,2\n")[:-9], gzip.compress(b"a,b\n1\n1,2,3,4\n")],
    ids=["empty", "of another format", "empty when unpacked", "cut off", "rows of unequal length"],
)
def test_a_damaged_file_is_named(content):
    with pytest.raises(Failure, match=r"datasets/shuttle/shuttle.csv.gz cannot be read as csv"):
        read_dataset(SHUTTLE, {"shuttle.csv.gz": content})


def test_a_damaged_parquet_file_is_named():
    with pytest.raises(Failure, match=r"adult.parquet.brotli cannot be read as parquet"):
        read_dataset(ADULT, {"adult.parquet.brotli": b"PAR1 but no more"})


def test_the_clock_gives_each_row_its_minute(tables):
    times = tables("shuttle").raw["event_time"]
    assert times.iloc[0] == pd.Timestamp(datetime(2026, 1, 1, tzinfo=UTC))
    assert (times.diff().dropna() == pd.Timedelta(minutes=1)).all()


def test_seconds_since_1970_become_event_times_and_each_rating_gets_its_user_and_film(tables):
    raw = tables("movielens").raw
    row = raw[(raw["user_id"] == "196") & (raw["item_id"] == "242")].iloc[0]
    assert row["event_time"] == pd.Timestamp(881250949, unit="s", tz="UTC")
    assert (row["age"], row["gender"], row["occupation"], row["genres"]) == (49, "M", "writer", "Comedy")
    assert len(raw) == ROWS["movielens"]


def test_question_marks_of_the_census_are_missing_values(tables):
    raw = tables("adult").raw
    assert not raw.isin(["?"]).any(axis=None)
    assert raw["workclass"].isna().sum() == 2_799


def files_of(datasets_dir, dataset):
    return {name: (datasets_dir / dataset.name / name).read_bytes() for name in dataset.source.files}


def test_a_join_that_would_repeat_rows_is_refused(datasets_dir):
    files = files_of(datasets_dir, MOVIELENS)
    files["ml-100k.user"] += files["ml-100k.user"].splitlines(keepends=True)[1]
    with pytest.raises(Failure, match=r"ml-100k.user has two rows of one 'user_id'"):
        read_dataset(MOVIELENS, files)


def test_a_row_that_a_join_finds_nothing_for_stays_for_validation_to_see(datasets_dir):
    files = files_of(datasets_dir, MOVIELENS)
    files["ml-100k.inter"] += b"nobody\t242\t3.0\t881250949\n"
    read = read_dataset(MOVIELENS, files)
    assert len(read) == ROWS["movielens"] + 1
    assert read["user_id"].iloc[-1] == "nobody" and read["occupation"].isna().sum() == 1


def test_a_file_without_the_column_to_join_by_is_named(datasets_dir):
    files = files_of(datasets_dir, MOVIELENS)
    files["ml-100k.item"] = files["ml-100k.item"].replace(b"item_id:token", b"film:token", 1)
    with pytest.raises(Failure, match=r"ml-100k.item has no column 'item_id'"):
        read_dataset(MOVIELENS, files)
