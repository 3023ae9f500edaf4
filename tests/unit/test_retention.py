"""Old folders of DAG runs go, those of registered models never do."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.retention import commands
from mlops.retention.folders import folder_of, kept_for, old

NOW = datetime(2026, 11, 28, tzinfo=UTC)
KEYS = st.sampled_from(
    [
        "runs/a/1/t/x.parquet",
        "runs/a/1/u/y",
        "runs/a/2/t/x",
        "runs/b/1/t/x",
        "runs/x.parquet",
        "runs/a/z",
        "other/a/1/t/x",
    ]
)


@given(
    st.dictionaries(KEYS, st.integers(0, 20).map(lambda days: NOW - timedelta(days=days))),
    st.sets(st.sampled_from(["runs/a/1/", "runs/b/1/"])),
)
def test_a_folder_goes_as_a_whole_when_nothing_in_it_is_young_and_no_model_is_of_it(objects, kept):
    before = NOW - timedelta(days=10)
    removed = {key for keys in old(objects, before, kept).values() for key in keys}
    for key, written in objects.items():
        folder = folder_of(key)
        beside = [when for other, when in objects.items() if folder and folder_of(other) == folder]
        assert (key in removed) == (bool(beside) and max(beside) < before and folder not in kept)
        assert key not in removed or written < before


def test_a_model_keeps_its_own_run_and_those_that_its_run_names():
    texts = ["runs/other/3/split/train.parquet", '{"test": "runs/third/4/t/x", "n": 1}', "no runs/", "1", "truns/a/b/c"]
    assert kept_for("dag/manual__1/train", texts) == {"runs/dag/manual__1/", "runs/other/3/", "runs/third/4/"}
    assert kept_for(None, []) == set()


@pytest.fixture
def later(monkeypatch):
    """The command's clock, forty days on: the store says itself when it was written to."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=40)

    return lambda: monkeypatch.setattr(commands, "datetime", Clock)


def test_what_a_registered_model_was_trained_in_stays_and_the_rest_goes(platform, tracking, later):
    with tracking.new_run(
        "e", "n", {"maestro.run_key": "dag/kept/train", "maestro.test": "runs/dag/tested/t/x.parquet"}
    ) as run:
        pass
    with tracking.new_run("e", "n", {"maestro.run_key": "dag/never-registered/train"}):
        pass
    tracking._client.create_registered_model("m")
    tracking._client.create_model_version("m", f"runs:/{run}/model", run)
    tracking._client.delete_run(run)
    folders = ("dag/kept", "dag/tested", "dag/never-registered", "dag/plain")
    keys = [f"runs/{folder}/{task}/x.parquet" for folder in folders for task in ("split", "train")]
    for key in [*keys, "runs/stray", "datasets/shuttle/shuttle.csv.gz"]:
        platform.data.write_bytes(key, b"x")
    young = platform.result_of("retention", "runs", "--days", "30")
    assert young == {"folders": 0, "objects": 0, "kept_for_models": 2, "dry_run": False}
    later()
    said = {"folders": 2, "objects": 4, "kept_for_models": 2}
    assert platform.result_of("retention", "runs", "--days", "30", "--dry-run") == {**said, "dry_run": True}
    assert len(platform.data.keys("runs/")) == 9
    assert platform.result_of("retention", "runs", "--days", "30") == {**said, "dry_run": False}
    assert platform.data.keys("") == sorted([*keys[:4], "runs/stray", "datasets/shuttle/shuttle.csv.gz"])
    assert platform.result_of("retention", "runs", "--days", "30")["folders"] == 0


def test_where_the_registry_does_not_answer_nothing_is_removed(platform, monkeypatch, later):
    platform.data.write_bytes("runs/dag/1/t/x", b"x")
    later()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    platform.failure_of("retention", "runs", "--days", "30")
    assert platform.data.exists("runs/dag/1/t/x")


def test_a_store_removes_and_keeps_by_itself_what_it_is_told_to_and_others_rules_stay(platform):
    store, client = platform.data, platform.data._client

    def rules():
        return {each["ID"]: each for each in store._rules()}

    def told(*options):
        platform.result_of("ingestion", "buckets", f"--name={store.bucket}", *options)
        return rules()

    assert told() == {}
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 1}}
    client.put_bucket_lifecycle_configuration(Bucket=store.bucket, LifecycleConfiguration={"Rules": [theirs]})
    for days in (90, 60):
        found = told(f"--expire={store.bucket}:{days}", f"--versions={store.bucket}:30")
        assert found.keys() == {"theirs", "maestro-expire", "maestro-versions"}
        assert found["maestro-expire"]["Expiration"]["Days"] == days
        assert found["maestro-versions"]["NoncurrentVersionExpiration"]["NoncurrentDays"] == 30
    store.write_bytes("k", b"first")
    store.write_bytes("k", b"second")
    assert len(client.list_object_versions(Bucket=store.bucket, Prefix="k")["Versions"]) == 2
    assert told().keys() == {"theirs"}
    client.delete_bucket_lifecycle(Bucket=store.bucket)
    told(f"--expire={store.bucket}:90")
    assert told() == {}
    assert "none of the buckets" in platform.failure_of(
        "ingestion", "buckets", "--name=data", "--expire=dta:9", code=65
    )
