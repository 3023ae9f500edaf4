import gzip
import hashlib
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from mlops import datasets, models
from mlops.result import EXIT_REFUSED, Failure, Refused
from mlops.stores.dataset_files import DatasetFiles
from mlops.stores.object_store import ObjectStore
from tests.conftest import raw_rows

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
    load = ("ingestion", "load", "--dataset", "shuttle", "--folder", str(tmp_path))
    cause = platform.failure_of(*load, code=EXIT_REFUSED)
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
    assert "global.s3.users" in cause
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
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "shuttle.csv.gz").write_bytes(content)
    with pytest.raises(Refused, match=r"datasets/shuttle/shuttle.csv.gz .*: upload (a whole|the right) file"):
        raw_rows(SHUTTLE, tmp_path)


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "adult.parquet.brotli").write_bytes(b"PAR1 but no more")
    with pytest.raises(Refused, match=r"adult.parquet.brotli cannot be read as parquet"):
        raw_rows(ADULT, tmp_path)


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


@pytest.fixture
def films(tmp_path, datasets_dir):
    """A folder of copies of MovieLens, to be spoiled."""
    return Path(shutil.copytree(datasets_dir / "movielens", tmp_path / "movielens"))


def test_a_join_that_would_repeat_rows_is_refused(films):
    users = films / "ml-100k.user"
    users.write_bytes(users.read_bytes() + users.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(Refused, match=r"ml-100k.user has two rows of one 'user_id'"):
        raw_rows(MOVIELENS, films)


def test_a_row_that_a_join_finds_nothing_for_stays_for_validation_to_see(films):
    with (films / "ml-100k.inter").open("ab") as ratings:
        ratings.write(b"nobody\t242\t3.0\t881250949\n")
    read = raw_rows(MOVIELENS, films)
    assert len(read) == ROWS["movielens"] + 1
    assert read["user_id"][-1] == "nobody" and read["occupation"].null_count() == 1


def test_a_file_without_the_column_to_join_by_is_named(films):
    items = films / "ml-100k.item"
    items.write_bytes(items.read_bytes().replace(b"item_id:token", b"film:token", 1))
    with pytest.raises(Refused, match=r"ml-100k.item has no column 'item_id'"):
        raw_rows(MOVIELENS, films)


HOUSES = """
name = "houses"
description = "Houses and whether they were sold."
rows = [1, 1000]

[source]
file = "day=*/*.csv"
format = "csv"

[[columns]]
name = "day"
kind = "identifier"
feature = false

[[columns]]
name = "price"
kind = "number"
low = 0

[[columns]]
name = "sold"
kind = "integer"
feature = false

[label]
column = "sold"
equals = 1

[event_time]
type = "Timestamp"
column = "day"
zone = "UTC"

[split]
type = "SplitByTime"
"""
SALE = """
name = "house-sale"
description = "Finds houses that will be sold."
dataset = "houses"
"""


def houses(folder, days=2, declaration=HOUSES):
    for day in range(1, days + 1):
        part = folder / f"houses/day=2026-01-{day:02}/part.csv"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(f"price,sold\n{day}.5,0\n{day}.0,1\n")
    (folder / "houses/dataset.toml").write_text(declaration)
    (folder / "houses/house-sale.toml").write_text(SALE)
    return ("ingestion", "load", "--dataset", "houses", "--folder", str(folder))


def test_a_set_that_no_image_knows_is_declared_beside_its_files(platform, tmp_path):
    load = houses(tmp_path)
    assert platform.result_of(*load) == {"houses": {"written": 2, "unchanged": 0, "declared": 2}}
    found = platform.result_of("ingestion", "download", "--dataset", "houses")
    assert (found["rows"], found["columns"]) == (4, 4)
    assert models.get("house-sale").data == datasets.get("houses")
    of_model = platform.result_of("ingestion", "download", "--dataset", models.dataset_of("house-sale"))
    assert of_model == found
    assert "houses" not in datasets.names() and models.dataset_of("sensor-failure") == "shuttle"


def test_files_that_come_later_are_read_with_those_before(platform, tmp_path):
    first = platform.result_of(*houses(tmp_path)), platform.result_of("ingestion", "download", "--dataset", "houses")
    assert platform.result_of(*houses(tmp_path, days=3))["houses"]["written"] == 1
    second = platform.result_of("ingestion", "download", "--dataset", "houses")
    assert second["rows"] == first[1]["rows"] + 2 and second["data_version"] != first[1]["data_version"]
    table = platform.data.read_table(second["data"])
    assert table["price"].tolist() == [1.5, 1.0, 2.5, 2.0, 3.5, 3.0]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda folder: (folder / "houses/dataset.toml").write_text(HOUSES + "x = 1"), "has x, which nobody knows"),
        (
            lambda folder: (folder / "houses/dataset.toml").write_text(HOUSES.replace('"houses"', '"homes"')),
            "declares the name 'homes': it must be 'houses'",
        ),
        (
            lambda folder: (folder / "houses/house-sale.toml").write_text(SALE.replace("houses", "homes")),
            "a model of dataset 'homes'",
        ),
        (
            lambda folder: (folder / "houses/house-sale.toml").rename(folder / "houses/sensor-failure.toml"),
            "declares the name 'house-sale': it must be 'sensor-failure'",
        ),
        (
            lambda folder: (folder / "houses/house-sale.toml").write_text(SALE + 'metric = "r2"\n'),
            "house-sale.toml declares r2, no metric of a binary label: set one of accuracy, f1, auc",
        ),
        (
            lambda folder: (folder / "houses/day=2026-01-02/part.csv").write_text("price,sold\n1,0,\n2,1,\n"),
            "declare trailing_separator=True",
        ),
    ],
)
def test_what_is_declared_or_read_wrong_is_refused_before_anything_is_written(platform, tmp_path, change, cause):
    load = houses(tmp_path)
    change(tmp_path)
    assert cause in platform.failure_of(*load, code=EXIT_REFUSED)
    assert platform.data.keys("") == []


def flats(folder):
    """Another set, with a model of the name that one of the houses has."""
    shutil.copytree(folder / "houses", folder / "flats")
    for name, declared in (("dataset", HOUSES), ("house-sale", SALE)):
        (folder / f"flats/{name}.toml").write_text(declared.replace('"houses"', '"flats"'))


def test_a_model_of_one_set_does_not_take_the_place_of_anothers(platform, tmp_path):
    platform.result_of(*houses(tmp_path))
    flats(tmp_path)
    before = {key: platform.data.read_bytes(key) for key in platform.data.keys("")}
    load = ("ingestion", "load", "--dataset", "flats", "--folder", str(tmp_path))
    cause = platform.failure_of(*load, code=EXIT_REFUSED)
    assert (
        "declares the model 'house-sale' of dataset flats, and dataset houses has a model of that name: take" in cause
    )
    assert {key: platform.data.read_bytes(key) for key in platform.data.keys("")} == before
    assert models.get("house-sale").dataset == "houses"
    platform.result_of(*houses(tmp_path))  # its own set may declare it anew
    platform.data.write_bytes("declarations/models/house-sale.toml", b"of no use")
    assert platform.result_of(*load)["flats"]["declared"] == 2


def test_two_sets_of_one_folder_do_not_have_a_model_of_one_name(platform, tmp_path):
    houses(tmp_path)
    flats(tmp_path)
    load = ("ingestion", "load", "--dataset", "all", "--folder", str(tmp_path))
    assert "of dataset houses, and dataset flats has a model" in platform.failure_of(*load, code=EXIT_REFUSED)
    assert platform.data.keys("") == []


def test_a_set_of_the_platform_is_not_declared_anew(platform, tmp_path):
    houses(tmp_path)
    (tmp_path / "houses").rename(tmp_path / "shuttle")
    (tmp_path / "shuttle/dataset.toml").write_text(HOUSES.replace('"houses"', '"shuttle"'))
    cause = platform.failure_of(
        "ingestion", "load", "--dataset", "shuttle", "--folder", str(tmp_path), code=EXIT_REFUSED
    )
    assert "declares 'shuttle', which a package declares already" in cause


def test_loading_needs_the_address_and_the_keys_of_the_store_and_nothing_else(platform, datasets_dir, monkeypatch):
    for name in ("AWS_DEFAULT_REGION", "MAESTRO_DATA_BUCKET", "MAESTRO_REPORTS_BUCKET"):
        monkeypatch.delenv(name)
    load = ("ingestion", "load", "--dataset", "adult", "--folder", str(datasets_dir))
    assert set(platform.result_of(*load)["adult"]) == {"written", "unchanged"}
    assert ObjectStore(platform.s3, "data").exists(ADULT.object_key("adult.parquet.brotli"))


def test_the_files_of_a_set_are_parsed_once_until_something_changes(platform, datasets_dir, monkeypatch):
    load = ("ingestion", "load", "--dataset", "shuttle", "--folder", str(datasets_dir))
    platform.result_of(*load)
    files = DatasetFiles(platform.data)
    with monkeypatch.context() as patched:
        patched.setattr("mlops.datasets.read.read_dataset", lambda *_: pytest.fail("they were parsed again"))
        first = files.read(SHUTTLE)
    platform.result_of(*load, "--shift-to-now")
    assert files.read(SHUTTLE).key != first.key
    assert files.read(replace(SHUTTLE, columns=SHUTTLE.columns[:5] + SHUTTLE.columns[-1:])).key != first.key
    for rows in range(1, 6):
        platform.data.write_bytes(SHUTTLE.object_key("shuttle.csv.gz"), b"f1,anomaly\n" + b"1,0\n" * rows)
        assert files.read(SHUTTLE).table.collect().height == rows
    assert len(platform.data.keys("tables/shuttle/")) == 4


def test_the_rows_of_the_last_day_are_read_without_the_others(platform, datasets_dir):
    platform.result_of("ingestion", "load", "--dataset", "shuttle", "--folder", str(datasets_dir))
    raw = DatasetFiles(platform.data).read("shuttle")
    newest = raw.table.select(pl.col("event_time").max()).collect().item()
    plan = raw.table.filter(pl.col("event_time") > newest - timedelta(days=1)).explain()
    assert "SELECTION" in plan and "PARQUET SCAN" in plan.upper()
