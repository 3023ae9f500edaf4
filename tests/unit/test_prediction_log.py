"""The log of predictions, in a real S3: what is written, what a store that is away costs, and later labels."""

import json
import threading
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from prometheus_client import CollectorRegistry

from mlops import datasets
from mlops.config import S3Settings
from mlops.result import EXIT_REFUSED, Failure
from mlops.serving import labels, prediction_log
from mlops.serving.by_ids import Joined
from mlops.serving.prediction_log import PredictionLog, prefix, schema
from mlops.stores.object_store import ObjectStore
from tests.processes import eventually

MODEL, KEYS = "click-through-activity", ["user_id", "item_id"]
JOINED = Joined({}, ["age"], ["user_events"], {"user_activity": 7.0, "user_profile": 90.5})


@pytest.fixture
def store(platform):
    found = ObjectStore(platform.s3, platform.s3.predictions_bucket)
    found.ensure()
    return found


def new_log(store: ObjectStore, share: float = 1.0, **options) -> PredictionLog:
    log = PredictionLog(store, MODEL, "3", KEYS, share, CollectorRegistry(), **{"interval": 60.0, **options})
    log.start()
    return log


def add(log: PredictionLog, rows: int, start: int = 0) -> None:
    numbers = [str(start + row) for row in range(rows)]
    keys = [{"user_id": number, "item_id": "9"} for number in numbers]
    log.add(numbers, keys, [1] * rows, [0.75] * rows, [JOINED] * rows)


def counted(log: PredictionLog) -> dict[str, float]:
    samples = [sample for metric in log._counted.collect() for sample in metric.samples]
    return {sample.labels["result"]: sample.value for sample in samples if sample.name.endswith("_total")}


def written(store: ObjectStore) -> pl.DataFrame:
    return store.scan_parts(prefix(MODEL)).collect()


def test_what_is_held_is_written_when_the_log_ends_by_the_day_of_the_prediction(store):
    began = datetime.now(UTC)
    log = new_log(store)
    add(log, 3)
    assert store.keys("") == [], "nothing is written while somebody waits"
    log.close()
    (key,) = store.keys("")
    assert key.startswith(f"{MODEL}/date={began:%Y-%m-%d}/") and key.endswith(".parquet")
    table = written(store)
    assert table.schema == schema(KEYS)
    row = table.row(0, named=True)
    assert began <= row.pop("time") <= datetime.now(UTC)
    assert row == {
        "id": "0",
        "model": MODEL,
        "version": "3",
        "user_id": "0",
        "item_id": "9",
        "prediction": "1",
        "score": 0.75,
        "features_age_seconds": 90.5,
        "missing": ["age"],
        "stale": ["user_events"],
    }
    assert counted(log) == {"written": 3, "dropped": 0}


def test_a_batch_is_written_when_it_is_full_and_when_its_time_has_come(store, monkeypatch):
    done = threading.Event()
    write = store.write_bytes
    monkeypatch.setattr(store, "write_bytes", lambda *args: (write(*args), done.set()))
    monkeypatch.setattr(prediction_log, "BATCH", 10)
    full = new_log(store)
    add(full, 10)
    assert done.wait(30)
    done.clear()
    timed = new_log(store, interval=0.05)
    add(timed, 1, start=10)
    assert done.wait(30)
    for log in (full, timed):
        log.close()
    assert written(store).height == 11


def test_predictions_without_keys_and_features_are_logged_without_them(store):
    log = new_log(store)
    keys = [{}, {"user_id": float("nan"), "item_id": None}, {"user_id": 7.0, "item_id": 7.5}]
    log.add(["a", "b", "c"], keys, ["x", 2.5, 1], [0.5, 2.5, 1.0])
    log.close()
    rows = written(store).sort("id").to_dicts()
    assert [(row["user_id"], row["item_id"]) for row in rows] == [(None, None), (None, None), ("7", "7.5")]
    assert {row["features_age_seconds"] for row in rows} == {None}
    assert [row["prediction"] for row in rows] == ["x", "2.5", "1"]


def test_a_share_of_the_predictions_is_logged(store):
    log = new_log(store, 0.25)
    for _ in range(40):
        add(log, 100)
    log.close()
    assert 800 < written(store).height < 1200  # 1000 and seven standard deviations


def test_a_store_that_is_away_delays_nothing_drops_what_finds_no_room_and_gets_the_rest_when_it_is_back(platform):
    away = ObjectStore(S3Settings("http://127.0.0.1:9", "a", "b"), platform.s3.predictions_bucket)
    back = ObjectStore(platform.s3, platform.s3.predictions_bucket)
    back.ensure()
    log = new_log(away, capacity=100, interval=0.05, pause=0.05)
    began = datetime.now(UTC)
    add(log, 150)
    add(log, 10, start=500)
    assert datetime.now(UTC) - began < timedelta(seconds=1), "nobody waited for the store"
    assert counted(log) == {"written": 0, "dropped": 60}
    log._store = back
    log.close()
    assert counted(log) == {"written": 100, "dropped": 60}
    assert sorted(map(int, written(back)["id"])) == list(range(100)), "the oldest are kept"


def test_what_cannot_be_written_at_the_end_is_dropped_and_the_end_comes(platform):
    away = ObjectStore(S3Settings("http://127.0.0.1:9", "a", "b"), platform.s3.predictions_bucket)
    log = new_log(away)
    add(log, 5)
    log.close()
    assert counted(log) == {"written": 0, "dropped": 5}


MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


def hold(log: PredictionLog, *seconds: int) -> None:
    """Rows of so many seconds after midnight."""
    base = {"model": MODEL, "version": "1", "prediction": "1", "score": 0.5, "features_age_seconds": None}
    keys = {"user_id": "1", "item_id": "2", "missing": [], "stale": []}
    with log._due:
        log._rows += [{**base, **keys, "id": f"p{at}", "time": MIDNIGHT + timedelta(seconds=at)} for at in seconds]


def test_a_batch_over_midnight_lies_in_two_days(store):
    log = new_log(store)
    hold(log, -1, 1)
    log.close()
    assert [key.split("/")[1] for key in store.keys("")] == ["date=2026-02-28", "date=2026-03-01"]


@pytest.mark.parametrize("arrived", [False, True], ids=["refused", "its answer was lost"])
@pytest.mark.parametrize("failing", [1, 2])
def test_a_write_that_failed_is_repeated_and_no_row_is_there_twice(store, monkeypatch, failing, arrived):
    """Also where more rows have come meanwhile, and where the day changed within the batch."""
    write, tries = store.write_bytes, []
    log = new_log(store, pause=0.05, interval=0.05)

    def fail_once(key, content):
        tries.append(key)
        if len(tries) != failing:
            return write(key, content)
        if arrived:
            write(key, content)
        hold(log, 2)
        raise Failure("the store is away")

    monkeypatch.setattr(store, "write_bytes", fail_once)
    hold(log, -2, -1, 1)
    eventually(lambda: len(tries) >= 3)
    log.close()
    assert sorted(written(store)["id"]) == ["p-1", "p-2", "p1", "p2"]
    assert counted(log) == {"written": 4, "dropped": 0}


def predictions(*rows: tuple[str, float, str]) -> pl.DataFrame:
    """(user, hour, version) of each."""
    made = [
        {"id": str(place), "time": at(hour), "model": MODEL, "version": version, "user_id": user, "item_id": "9"}
        | {"prediction": str(int(place % 2)), "score": place / 10, "features_age_seconds": 1.0}
        | {"missing": [], "stale": []}
        for place, (user, hour, version) in enumerate(rows)
    ]
    return pl.DataFrame(made, schema(KEYS))


def at(hour: float) -> datetime:
    return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=hour)


def of(*rows: tuple[str, float | None, int | None]) -> pl.DataFrame:
    """(user, hour, label) of each."""
    made = [
        {"user_id": user, "item_id": "9", "event_time": None if hour is None else at(hour), "label": label}
        for user, hour, label in rows
    ]
    types = {"user_id": pl.String, "item_id": pl.String, "event_time": pl.Datetime("us", "UTC"), "label": pl.Int64}
    return pl.DataFrame(made, types)


def test_a_label_is_the_first_of_its_keys_that_comes_after_the_prediction_and_in_time():
    said = predictions(("a", 2, "1"), ("a", 5, "1"), ("b", 2, "1"), ("c", 2, "1"), ("d", 2, "1"))
    known = of(("a", 1, 0), ("a", 3, 1), ("a", 4, 0), ("b", 30, 1), ("c", 2, 1), ("c", None, 0), ("d", 3, None))
    found = labels.join(said.lazy(), known.lazy(), KEYS, timedelta(hours=24)).collect().sort("id")
    assert found["label"].to_list() == [1, None, None, 1, None]
    assert found["label_time"].to_list() == [at(3), None, None, at(2), None]
    assert found.columns == [*said.columns, "label", "label_time"]


@pytest.mark.parametrize(
    "written_by",
    [
        lambda table: table.cast({"event_time": pl.Datetime("ns", "UTC")}),
        lambda table: table.cast({"event_time": pl.Datetime("ms")}),
        lambda table: table.with_columns(pl.col("event_time").dt.convert_time_zone("Europe/Berlin")),
        lambda table: table.cast({"user_id": pl.Float64, "item_id": pl.Int32}),
        lambda table: table.cast({"user_id": pl.Categorical}),
    ],
    ids=["nanoseconds", "no zone", "another zone", "numbers", "categories"],
)
def test_labels_are_found_whatever_wrote_their_table(written_by):
    """pandas has nanoseconds before its release 3, and makes whole numbers floats where one is missing."""
    said = predictions(("7", 2, "1"), ("8", 2, "1"))
    known = written_by(of(("7", 3, 1), (None, 3, 1)))
    found = labels.join(said.lazy(), known.lazy(), KEYS, timedelta(hours=24)).collect().sort("id")
    assert found["label"].to_list() == [1, None]
    assert found["label_time"].to_list() == [at(3), None]


def test_each_version_is_measured_on_its_own_labelled_predictions():
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 2, 400)
    rows = [(f"u{place}", 1.0, str(1 + place % 2)) for place in range(400)]
    score = np.where(np.arange(400) % 2 == 0, np.where(truth == 1, 0.9, 0.1), 0.5)
    said = predictions(*rows).with_columns(
        pl.Series("score", score), pl.Series("prediction", (score > 0.4).astype(int).astype(str))
    )
    known = of(*((f"u{place}", 2.0, int(label)) for place, label in enumerate(truth) if place < 300))
    joined = labels.join(said.lazy(), known.lazy(), KEYS, timedelta(hours=24)).collect()
    found = labels.versions(joined, datasets.get("movielens"))
    assert [(name, each.predictions, each.labelled) for name, each in found.items()] == [
        ("1", 200, 150),
        ("2", 200, 150),
    ]
    assert (found["1"].measured["auc"], found["1"].measured["accuracy"]) == (1.0, 1.0)
    assert found["2"].measured["auc"] == 0.5
    assert found["1"].measured["log_loss"] == pytest.approx(-np.log(0.9))


def test_a_version_without_labels_has_no_metric():
    joined = labels.join(predictions(("a", 1, "1")).lazy(), of().lazy(), KEYS, timedelta(hours=1)).collect()
    assert labels.versions(joined, datasets.get("movielens")) == {"1": (1, 0, {})}


JOIN = ("serving", "join-labels", "--model", MODEL, "--since", "2026-03-01", "--until", "2026-03-02")


def log_rows(store: ObjectStore, rows: pl.DataFrame) -> None:
    for day in (1, 2, 3):
        of_day = rows.filter(pl.col("time").dt.day() == day)
        if of_day.height:
            store.write(f"{prefix(MODEL, date(2026, 3, day))}part.parquet", of_day.lazy())


def test_labels_are_joined_by_a_command_that_measures_and_may_be_repeated(platform, store):
    log_rows(store, predictions(("a", 1, "1"), ("b", 1, "1"), ("c", 25, "2"), ("d", 50, "2")))
    platform.data.write("labels.parquet", of(("a", 3, 0), ("b", 3, 1), ("c", 26, 1), ("d", 51, 1)).lazy())
    result = platform.result_of(*JOIN, "--labels", "labels.parquet")
    assert (result["predictions"], result["labelled"]) == (3, 3), "the fourth was made on another day"
    assert result["versions"]["1"]["predictions"] == 2
    assert result["versions"]["1"]["auc"] == 1.0
    assert result["key"] == f"labelled/{MODEL}/2026-03-01_2026-03-02.parquet"
    table = platform.data.scan(result["key"]).collect()
    assert table.sort("user_id")["label"].to_list() == [0, 1, 1]
    assert platform.result_of(*JOIN, "--labels", "labels.parquet") == result


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "labels.parquet", "--keys", "machine"), "have no such key: machine"),
        (("--labels", "empty.parquet"), "has no column event_time, label"),
        (("--labels", "texts.parquet"), "is String: give points in time"),
        (("--labels", "labels.parquet", "--since", "2026-03-09"), "--since 2026-03-09 is later than --until"),
    ],
)
def test_labels_that_cannot_be_joined_are_refused(platform, store, options, message):
    log_rows(store, predictions(("a", 1, "1")))
    platform.data.write("labels.parquet", of(("a", 3, 0)).lazy())
    platform.data.write("empty.parquet", pl.LazyFrame({"user_id": ["a"]}))
    platform.data.write("texts.parquet", pl.LazyFrame({"user_id": ["a"], "event_time": ["2026-03-01"], "label": [1]}))
    assert message in platform.failure_of(*JOIN, *options, code=EXIT_REFUSED)


def test_days_without_a_log_are_a_failure_that_names_them(platform, store):
    platform.data.write("labels.parquet", of(("a", 3, 0)).lazy())
    message = platform.failure_of(*JOIN, "--labels", "labels.parquet")
    assert f"{MODEL}/date=2026-03-01/" in json.loads(message)["error"] if message.startswith("{") else message
