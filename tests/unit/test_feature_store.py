"""The feature store on real servers: PostgreSQL, Redis, S3 and MLflow."""

import gzip
import json
import math
import os
import uuid
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from mlops import datasets, models
from mlops.config import RedisSettings
from mlops.datasets.declaration import EVENT_TIME, LABEL, EpochSeconds, SplitByKey
from mlops.features import definitions, repository, update
from mlops.features.repository import NIGHTLY, SERVICES, VIEWS, service_of
from mlops.features.retrieve import retrieve
from mlops.features.served_age import Pushed
from mlops.features.split import split
from mlops.models import network
from mlops.result import Failure
from mlops.stores.collected_readings import CollectedReadings
from mlops.stores.dataset_files import DatasetFiles
from mlops.stores.feature_store import (
    FeatureStoreConfig,
    check_online,
    open_configured,
    open_feature_store,
)
from mlops.stores.online_features import OnlineFeatures
from tests.conftest import answers, cleaned, eventually, free_ports, running
from tests.servers import PASSWORD, Redis, execute, new_database
from tests.unit.conftest import new_platform, set_environment
from tests.unit.feature_files import rows_of
from tests.unit.test_feature_contract import tags_of

START = datetime(2026, 1, 1, tzinfo=UTC)
CREATED = pd.Timestamp("2026-03-01", tz="UTC")


@pytest.fixture(scope="module")
def redis_port(run_folder):
    with Redis(run_folder) as server:
        yield server.port


@pytest.fixture(scope="module")
def another_redis(run_folder):
    with Redis(run_folder) as server:
        yield server


@pytest.fixture
def empty_redis(another_redis, feature_store, monkeypatch):
    """An online store without what other tests have put there."""
    another_redis.client.flushall()
    monkeypatch.setenv("MAESTRO_REDIS_PORT", str(another_redis.port))
    return another_redis.client


@pytest.fixture(autouse=True)
def feature_store(environment, postgresql, redis_port, monkeypatch):
    """An empty registry and bucket of its own for each test."""
    set_feature_store(postgresql, redis_port, monkeypatch)


def set_feature_store(postgresql, redis_port, monkeypatch):
    database = new_database(postgresql)
    values = {
        "MAESTRO_FEAST_BUCKET": database.rpartition("/")[2].replace("_", "-"),
        "MAESTRO_FEAST_REGISTRY": database.replace("postgresql:", "postgresql+psycopg2:"),
        "MAESTRO_FEAST_REGISTRY_PASSWORD": "any",
        "MAESTRO_REDIS_HOST": "127.0.0.1",
        "MAESTRO_REDIS_PORT": str(redis_port),
        "MAESTRO_REDIS_USERNAME": "features",
        "MAESTRO_REDIS_PASSWORD": PASSWORD,
    }
    for key, value in values.items():
        monkeypatch.setenv(key, value)


@pytest.fixture
def loaded(platform, datasets_dir):
    """The platform with both sets that have features in its bucket."""
    return load(platform, datasets_dir)


def load(platform, datasets_dir, *names):
    for name in names or repository.datasets_with_features():
        platform.result_of("ingestion", "load", "--dataset", name, "--folder", str(datasets_dir))
    return platform


@pytest.fixture(scope="module")
def module_store(module_platform, postgresql, redis_port, datasets_dir):
    """The environment of a platform with both sets, the features of both, and the definitions applied."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_feature_store(postgresql, redis_port, monkeypatch)
        own = load(new_platform(module_platform.s3.endpoint, monkeypatch), datasets_dir)
        own.result_of("features", "build", "--dataset", "all")
        apply(own)
        return {key: value for key, value in os.environ.items() if key.startswith(("AWS_", "MAESTRO_", "MLFLOW_"))}


@pytest.fixture
def built(feature_store, module_store, monkeypatch):
    """The platform of module_store, for a test that only reads what is there, in a DAG run of its own."""
    for key, value in module_store.items():
        monkeypatch.setenv(key, value)
    return new_platform(module_store["AWS_ENDPOINT_URL_S3"], monkeypatch).as_run(uuid.uuid4().hex)


# Building


def test_building_writes_each_view_once_and_again_only_for_other_data_or_code(loaded, monkeypatch):
    first = loaded.result_of("features", "build", "--dataset", "all")
    assert first["shuttle"] == {"rows": {"sensor_windows": 49_097}, "partitions": 35, "unchanged": False}
    assert set(first["movielens"]["rows"]) == {"user_activity", "item_activity", "user_profile"}
    assert first["movielens"]["partitions"] == 3 * 8
    before = tables(loaded)
    second = loaded.result_of("features", "build", "--dataset", "all")
    assert [(entry["unchanged"], entry["partitions"]) for entry in second.values()] == [(True, 0), (True, 0)]
    assert tables(loaded) == before
    monkeypatch.setenv("MAESTRO_CODE_VERSION", "another")
    again = loaded.result_of("features", "build", "--dataset", "shuttle")["shuttle"]
    assert not again["unchanged"] and again["partitions"] == 35
    assert len(loaded.offline.scan_parts("sensor_windows/").collect()) == 49_097


def tables(platform):
    """The same of all views."""
    return {key: found for key, found in versions(platform, "").items() if key.endswith(".parquet")}


def versions(platform, prefix):
    """When each object of the offline store was last written."""
    listed = platform.offline._client.list_objects_v2(Bucket=platform.offline.bucket, Prefix=prefix)
    return {entry["Key"]: (entry["ETag"], entry["LastModified"]) for entry in listed["Contents"]}


def test_a_reading_that_comes_late_changes_its_day_and_what_it_reaches(loaded):
    first = loaded.result_of("features", "build", "--dataset", "shuttle")["shuttle"]
    before = versions(loaded, "sensor_windows/")
    late = START + timedelta(days=9, hours=23, minutes=30, seconds=30)
    readings(loaded).add(reading_rows([late], value=7.0), 1, 0, late)
    found = loaded.result_of("features", "build", "--dataset", "shuttle")["shuttle"]
    after = versions(loaded, "sensor_windows/")
    changed = sorted(key for key in after if after[key] != before.get(key))
    days = [f"sensor_windows/shuttle/2026-01-{day}.parquet" for day in (10, 11)]
    assert changed == days, "windows of an hour reach the next day"
    assert found["partitions"] == 2 and found["rows"]["sensor_windows"] == first["rows"]["sensor_windows"] + 1
    whole = rows_of(VIEWS[0], events(loaded, "shuttle")).drop("created")
    stored = loaded.offline.scan_parts("sensor_windows/").collect().drop("created")
    assert_frame_equal(stored.sort("event_timestamp"), whole)


def test_a_build_that_ended_half_way_is_completed_by_the_next(loaded, monkeypatch):
    loaded.result_of("features", "build", "--dataset", "shuttle")
    late = START + timedelta(days=9)
    readings(loaded).add(reading_rows([late + timedelta(seconds=30)], value=7.0), 1, 0, late)
    with monkeypatch.context() as broken:
        broken.setattr(update, "write_build_record", lambda *_: (_ for _ in ()).throw(Failure("the pod was killed")))
        assert "killed" in loaded.failure_of("features", "build", "--dataset", "shuttle")
    assert loaded.result_of("features", "build", "--dataset", "shuttle")["shuttle"]["partitions"] == 2
    assert loaded.result_of("features", "build", "--dataset", "shuttle")["shuttle"]["unchanged"]


def test_features_that_an_earlier_release_built_are_read_and_then_replaced(loaded):
    """They are a file a view, and the note says of no partitions."""
    from mlops.features.build_record import find_build_record

    version = loaded.result_of("ingestion", "download", "--dataset", "shuttle")["data_version"]
    loaded.offline.write("sensor_windows/shuttle.parquet", rows_of(VIEWS[0], events(loaded, "shuttle")).lazy())
    note = {"data_version": version, "shift_seconds": 0, "code_version": "0123abcd", "created": "", "rows": {}}
    loaded.offline.write_bytes("built/shuttle.json", json.dumps(note).encode())
    found = find_build_record(loaded.offline, "shuttle")
    assert found is not None and found.data_version == version
    apply(loaded)
    raw = loaded.result_of("ingestion", "download", "--dataset", "shuttle")
    loaded.result_of("features", "historical", "--model", "sensor-failure-windows", "--data", raw["data"])
    assert loaded.result_of("features", "build", "--dataset", "shuttle")["shuttle"]["partitions"] == 35
    assert "sensor_windows/shuttle.parquet" not in loaded.offline.keys("sensor_windows/")


def readings(platform):
    return CollectedReadings(platform.data, datasets.get("shuttle"))


def reading_rows(moments, value, machine="shuttle"):
    """Readings of a machine, in the columns of its set."""
    columns = {name: [value] * len(moments) for name in repository.SENSORS}
    columns |= {"machine": [machine] * len(moments), "anomaly": [0] * len(moments)}
    return pl.DataFrame({**columns, EVENT_TIME: pl.Series(moments, dtype=pl.Datetime("us", "UTC"))})


def events(platform, name):
    """All rows of a set, with the readings that were collected beside it."""
    table = DatasetFiles(platform.data).read(name).table
    return update.union(table, readings(platform).rows() if name == "shuttle" else None, datasets.get(name)).collect()


def test_a_shifted_set_has_shifted_features_and_says_so(loaded, datasets_dir):
    loaded.result_of("features", "build", "--dataset", "shuttle")
    DatasetFiles(loaded.data).shift_to(datasets.get("shuttle"), START + timedelta(days=365))
    result = loaded.result_of("features", "build", "--dataset", "shuttle")["shuttle"]
    assert not result["unchanged"]
    rows = loaded.offline.scan_parts("sensor_windows/").collect()
    assert len(rows) == 49_097, "partitions of days that it was shifted away from are gone"
    newest = rows["event_timestamp"].max()
    assert START + timedelta(days=365) - timedelta(seconds=1) < newest <= START + timedelta(days=365)
    assert result["event_time_shift_seconds"] == (newest - (START + timedelta(minutes=49_096))).total_seconds()


def test_an_event_of_the_future_is_not_what_a_set_is_shifted_by(loaded, datasets_dir):
    """One row of 2096 would put all others 70 years back."""
    table = pd.read_csv(datasets_dir / "shuttle/shuttle.csv.gz")
    shuttle = replace(datasets.get("shuttle"), event_time=EpochSeconds("f1"), split=SplitByKey(), cadence=None)
    table["f1"] = int(START.timestamp()) - 60 * np.arange(len(table))[::-1]
    table.loc[7, "f1"] = int(datetime(2096, 1, 1, tzinfo=UTC).timestamp())
    loaded.data.write_bytes(shuttle.object_key("shuttle.csv.gz"), gzip.compress(table.to_csv(index=False).encode(), 1))
    now = START + timedelta(days=100)
    assert DatasetFiles(loaded.data).shift_to(shuttle, now).seconds == 100 * 86_400
    rows = DatasetFiles(loaded.data).read(shuttle).table
    assert rows.filter(pl.col(EVENT_TIME) <= now).select(pl.len()).collect().item() == len(table) - 1


def test_a_dataset_without_features_is_refused_before_anything_is_read(platform):
    assert "has no feature view" in platform.failure_of("features", "build", "--dataset", "adult")


# Applying


def model_with(platform, tags, alias="production"):
    """A registered model version that carries the tags and, where it is given, the alias."""
    import mlflow

    client = mlflow.MlflowClient(platform.mlflow.tracking_uri)
    experiment = client.get_experiment_by_name("contract") or client.get_experiment(
        client.create_experiment("contract")
    )
    run = client.create_run(experiment.experiment_id)
    client.create_registered_model("sensor-failure")
    client.create_model_version("sensor-failure", f"{run.info.artifact_uri}/model", run.info.run_id, tags=tags)
    if alias:
        client.set_registered_model_alias("sensor-failure", alias, "1")


def apply(platform):
    return platform.result_of("features", "apply", "--wait", "0")


def test_applying_twice_changes_nothing_the_second_time(platform):
    first, second = apply(platform), apply(platform)
    assert first["views"] == len(VIEWS) and first["services"] == len(SERVICES) and first["changed_lines"] > 0
    assert second["changed_lines"] == 0


def test_what_is_no_longer_declared_leaves_the_registry(platform, monkeypatch):
    apply(platform)
    monkeypatch.setattr(repository, "SERVICES", SERVICES[:1])
    monkeypatch.setattr(repository, "VIEWS", VIEWS[:1])
    apply(platform)
    store = open_feature_store()
    assert [view.name for view in store.list_feature_views()] == ["sensor_windows"]
    assert [service.name for service in store.list_feature_services()] == ["sensor_failure_v1"]
    assert [entity.name for entity in store.list_entities()] == ["machine"]


def without(view, feature):
    return replace(view, features={name: dtype for name, dtype in view.features.items() if name != feature})


def changed_repository(monkeypatch, views):
    by_name = {view.name: view for view in views}
    services = tuple(
        replace(service, views=tuple(by_name[view.name] for view in service.views)) for service in SERVICES
    )
    monkeypatch.setattr(repository, "VIEWS", tuple(views))
    monkeypatch.setattr(repository, "SERVICES", services)


def test_a_change_that_breaks_a_registered_model_is_refused_with_a_diff_and_changes_nothing(platform, monkeypatch):
    service = service_of(models.get("sensor-failure-windows"))
    model_with(platform, tags_of(service.name, service.schema), alias="staging")
    apply(platform)
    before = definitions.describe(repository.objects(FeatureStoreConfig.from_environment()))
    changed_repository(monkeypatch, [without(VIEWS[0], "f1_mean_10m"), *VIEWS[1:]])
    cause = platform.failure_of("features", "apply", "--wait", "0", code=65)
    assert "sensor-failure version 1 (staging) reads sensor_failure_v1:\n- sensor_windows:f1_mean_10m Float64" in cause
    store = open_feature_store()
    objects = [*store.list_feature_services(), *store.list_feature_views(), *store.list_entities()]
    assert definitions.describe(objects) == before


def test_the_same_change_is_applied_where_no_model_is_used_by_an_alias(platform, monkeypatch):
    service = service_of(models.get("sensor-failure-windows"))
    model_with(platform, tags_of(service.name, service.schema), alias=None)
    apply(platform)
    changed_repository(monkeypatch, [without(VIEWS[0], "f1_mean_10m"), *VIEWS[1:]])
    assert apply(platform)["changed_lines"] == 2  # of the view, and of the service
    assert "f1_mean_10m" not in [
        field.name for field in open_feature_store().get_feature_view("sensor_windows").features
    ]


def test_a_feature_more_breaks_no_model(platform, monkeypatch):
    service = service_of(models.get("sensor-failure-windows"))
    model_with(platform, tags_of(service.name, service.schema))
    apply(platform)
    more = replace(VIEWS[0], features={**VIEWS[0].features, "f1_more": "Int64"})
    changed_repository(monkeypatch, [more, *VIEWS[1:]])
    assert apply(platform)["changed_lines"] == 2


def test_a_models_contract_may_stand_at_the_run_that_made_it(platform, monkeypatch):
    import mlflow

    model_with(platform, {})
    client = mlflow.MlflowClient(platform.mlflow.tracking_uri)
    version = client.get_model_version("sensor-failure", "1")
    for key, value in tags_of("gone_v1", {"view:a": "Int64"}).items():
        client.set_tag(version.run_id, key, value)
    (found,) = platform.tracking.aliased_versions()
    assert (found.model, found.version, found.aliases) == ("sensor-failure", "1", ["production"])
    assert "- service gone_v1, with 1 features" in platform.failure_of("features", "apply", "--wait", "0", code=65)


def test_servers_that_are_away_are_waited_for_and_then_named(platform, monkeypatch):
    monkeypatch.setenv("MAESTRO_FEAST_REGISTRY", "postgresql+psycopg2://feast@127.0.0.1:9/feast")
    cause = platform.failure_of("features", "apply", "--wait", "4")
    assert "database 'feast' at 127.0.0.1:9, failed" in cause
    assert "check that PostgreSQL runs" in cause


# Training and test sets


def test_historical_features_are_those_known_at_each_rows_time(built):
    for model in ("sensor-failure-windows", "click-through-activity"):
        name = models.get(model).dataset
        dataset, service = datasets.get(name), service_of(models.get(model))
        raw = built.result_of("ingestion", "download", "--dataset", name)
        made = built.result_of("features", "historical", "--model", model, "--data", raw["data"])
        clean = cleaned(built.data.read_table(raw["data"]), dataset)
        assert made["train_rows"] + made["test_rows"] == len(clean)
        assert made["features"] == len(service.features)
        assert made["feature_service"] == service.name
        assert "event_time_shift_seconds" not in made
        parts = [built.data.read_table(made[part]) for part in ("train", "test")]
        for part in parts:
            assert list(part.columns) == [*service.features, EVENT_TIME, LABEL]
            assert part.attrs["feature_service"] == service.name
            assert part.attrs["feature_schema"] == service.schema
            assert part.attrs["served_age"] == made["served_age"] == str(service.served_age)
        expected = [part.collect().to_pandas() for part in split(pl.from_pandas(clean).lazy(), dataset)]
        for found, part in zip(parts, expected, strict=True):
            assert found[LABEL].tolist() == part[LABEL].tolist()
            assert found[EVENT_TIME].tolist() == part[EVENT_TIME].tolist()
        if name == "shuttle":
            assert not parts[0].isna().any(axis=None)
            assert parts[1]["f1"].tolist() == expected[1]["f1"].tolist()


def test_parts_have_the_features_and_the_keys_that_a_network_reads_and_the_config_beside_them(built):
    model = models.get("ctr_model")
    service, prefix = service_of(model), "configs"
    built.data.write_bytes(f"{prefix}/mine.yaml", b"epochs: 9\nseed: 1\n")
    asked = ("features", "parts", "--model", model.name, "--config", f"{prefix}/mine.yaml")
    made = built.result_of(*asked, "--epochs", "2")
    raw = DatasetFiles(built.data).read(model.data).table.collect().to_pandas()
    assert made["train_rows"] + made["validation_rows"] + made["test_rows"] == len(cleaned(raw, model.data))
    for name in ("train", "validation", "test"):
        part = built.data.read_table(f"{made['features_path']}/{name}.parquet")
        assert {*part.columns} == {*service.features, "user_id", "item_id", EVENT_TIME, LABEL}
        assert part["user_id"].map(type).eq(str).all()
        assert part.attrs["served_age"] == str(service.served_age)
    assert network.parse(built.data.read_bytes(made["config"]).decode(), "it") == network.Config(epochs=2, seed=1)


@pytest.mark.parametrize(("text", "said"), [(b"epoch: 9", "'epoch' is no key"), (b"epochs: '9'", "epochs is '9'")])
def test_a_config_that_will_not_do_is_refused_before_features_are_asked_for(platform, text, said):
    platform.data.write_bytes("mine.yaml", text)
    cause = platform.failure_of("features", "parts", "--model", "ctr_model", "--config", "mine.yaml", code=65)
    assert "mine.yaml" in cause
    assert said in cause


def test_no_label_is_among_its_own_features(built):
    """Of the first event of each user nothing is known; of the others what the events before it say, without it."""
    clean = cleaned(DatasetFiles(built.data).read("movielens").table.collect().to_pandas(), datasets.get("movielens"))
    service = replace(service_of(models.get("click-through-activity")), served_age=Pushed(timedelta()))
    found = retrieve(open_feature_store(), service, clean)
    table = clean.assign(known=found["user_events"], rate=found["user_click_rate"], age_known=found["age"].notna())
    for _, mine in table.groupby("user_id"):
        times, labels = mine[EVENT_TIME].tolist(), mine[LABEL].tolist()
        first_of_moment = [0]
        for row, (before, now) in enumerate(pairwise(times), start=1):
            first_of_moment.append(row if now > before else first_of_moment[-1])
        for row, count in enumerate(first_of_moment):
            known, rate = mine["known"].iloc[row], mine["rate"].iloc[row]
            assert mine["age_known"].iloc[row] == (count > 0), "nobody has said their age before they came"
            if count == 0:
                assert math.isnan(known) and math.isnan(rate)
            else:
                assert known == count
                assert rate == pytest.approx(sum(labels[:count]) / count)


def test_features_of_other_data_than_the_tables_are_refused(loaded):
    apply(loaded)
    raw = loaded.result_of("ingestion", "download", "--dataset", "shuttle")
    named = ("--model", "sensor-failure-windows", "--data", raw["data"])
    cause = loaded.failure_of("features", "historical", *named)
    assert "the features of dataset shuttle are not in bucket" in cause and "features build" in cause
    DatasetFiles(loaded.data).shift_to(datasets.get("shuttle"), START + timedelta(days=365))
    loaded.result_of("features", "build", "--dataset", "shuttle")
    cause = loaded.failure_of("features", "historical", *named)
    assert "computed from other data" in cause and "event_time_shift_seconds" in cause
    again = loaded.result_of("ingestion", "download", "--dataset", "shuttle")
    made = loaded.result_of("features", "historical", "--model", "sensor-failure-windows", "--data", again["data"])
    assert made["event_time_shift_seconds"] == again["event_time_shift_seconds"] > 0
    assert loaded.data.read_table(made["train"]).attrs["event_time_shift_seconds"] == again["event_time_shift_seconds"]


def test_historical_features_of_definitions_that_are_not_applied_are_refused(loaded):
    loaded.result_of("features", "build", "--dataset", "shuttle")
    raw = loaded.result_of("ingestion", "download", "--dataset", "shuttle")
    cause = loaded.failure_of("features", "historical", "--model", "sensor-failure-windows", "--data", raw["data"])
    assert "features apply" in cause and "+ entity machine: join key machine (STRING)" in cause


# What is trained on is what is served


def served(platform, dataset, entities):
    """What the online store has of entities, by Feast's own client: column -> values, and each view's event times."""
    store = open_feature_store()
    views = repository.views_of(dataset)
    features = [f"{view.name}:{name}" for view in views for name in view.features]
    return store.get_online_features(features=features, entity_rows=entities).to_dict()


def same(found, expected):
    return found == expected or (pd.isna(found) and pd.isna(expected)) or found == pytest.approx(expected)


@pytest.mark.parametrize("model", ["sensor-failure-windows", "click-through-activity"])
def test_what_is_trained_on_is_what_a_materialization_has_put_into_the_online_store(built, empty_redis, model):
    """For rows at random times: what the nightly run before them brought, read back by Feast's own client."""
    declared = models.get(model)
    service = replace(service_of(declared), served_age=NIGHTLY)
    clean = cleaned(DatasetFiles(built.data).read(declared.dataset).table.collect().to_pandas(), declared.data)
    keys = list(dict.fromkeys(view.key.column for view in service.views))
    rows = clean[clean[EVENT_TIME] > clean[EVENT_TIME].min() + timedelta(days=20)].sample(3, random_state=2)
    expected = retrieve(open_feature_store(), service, rows)
    for place, (_, row) in enumerate(rows.iterrows()):
        empty_redis.flushall()
        (run,) = service.as_of(pd.Series([row[EVENT_TIME]]))
        built.result_of("features", "materialize", "--days", "10000", "--end", run.isoformat())
        found = served(built, declared.dataset, [{key: row[key] for key in keys}])
        for name in service.features:
            assert same(found[name][0], expected[name].iloc[place]), (name, run)


def test_features_are_as_new_as_the_build_that_was_brought_and_not_as_the_night_that_brought_it(loaded, empty_redis):
    """Where the builds of a week fail, each night's materialization ends well and has nothing to bring."""
    apply(loaded)

    def materialized_after(end):
        loaded.result_of("features", "materialize", "--days", "7", "--end", end.isoformat())
        found = OnlineFeatures(RedisSettings.from_environment(), []).materialized()
        assert found.keys() == {view.name for view in VIEWS}
        return datetime.fromtimestamp(found["user_activity"], UTC)

    began = datetime.now(UTC)
    loaded.result_of("features", "build", "--dataset", "all")
    early, late = began - timedelta(days=1), began + timedelta(days=7)
    assert materialized_after(early) == early
    built = materialized_after(late)
    assert began < built < datetime.now(UTC)
    assert materialized_after(late) == built
    loaded.result_of("features", "build", "--dataset", "all")
    assert materialized_after(late) > built, "a build that finds nothing new has looked all the same"


def test_what_is_pushed_is_in_both_stores_and_is_what_is_trained_on(loaded, empty_redis, gateway):
    apply(loaded)
    loaded.result_of("features", "build", "--dataset", "shuttle")
    newest = START + timedelta(minutes=49_096)
    for number, minutes in enumerate((1, 7), start=1):
        moment = newest + timedelta(minutes=minutes)
        readings(loaded).add(reading_rows([moment], value=40.0 + number), number, 0, moment)
        pushed = loaded.result_of("features", "push", "--dataset", "shuttle")
        assert pushed["views"]["sensor_windows"]["rows_written"] == 1
        assert pushed["views"]["sensor_windows"]["age_seconds"] == pytest.approx(
            (datetime.now(UTC) - moment).total_seconds(), abs=120
        ), "how fresh it is, is told"
        age = gateway.total("maestro_push_age_seconds", view="sensor_windows")
        assert round(age) == pushed["views"]["sensor_windows"]["age_seconds"]
        assert gateway.total("maestro_push_rows_written_total", view="sensor_windows") == 1
        row = pd.DataFrame({"machine": ["shuttle"], EVENT_TIME: [pd.Timestamp(moment)], LABEL: [0]})
        service = service_of(models.get("sensor-failure-windows"))
        expected = retrieve(open_feature_store(), service, row)
        found = served(loaded, "shuttle", [{"machine": "shuttle"}])
        assert found["f1"] == [40.0 + number]
        for name in service.features:
            assert same(found[name][0], expected[name].iloc[0]), name
    code, message = loaded.run("features", "push", "--dataset", "shuttle")
    assert code == 99 and "no event that was not in both stores" in message


def test_what_a_push_did_not_bring_into_the_online_store_the_next_one_brings(loaded, empty_redis, monkeypatch):
    """The offline store has it, so nothing is new there; the online one was away."""
    apply(loaded)
    loaded.result_of("features", "build", "--dataset", "shuttle")
    moment = START + timedelta(minutes=49_099)
    readings(loaded).add(reading_rows([moment], value=42.0), 1, 0, moment)
    with monkeypatch.context() as away:
        away.setattr("mlops.features.materialization.write.write", lambda *_: (_ for _ in ()).throw(Failure("away")))
        loaded.failure_of("features", "push", "--dataset", "shuttle")
    assert readings(loaded).state().waits
    assert loaded.result_of("features", "push", "--dataset", "shuttle")["views"]["sensor_windows"]["rows_written"] == 1
    assert served(loaded, "shuttle", [{"machine": "shuttle"}])["f1"] == [42.0]
    assert not readings(loaded).state().waits
    assert loaded.run("features", "push", "--dataset", "shuttle")[0] == 99


def test_a_set_without_views_has_nothing_to_push(loaded):
    code, message = loaded.run("features", "push", "--dataset", "adult")
    assert code == 99 and "dataset adult has no feature views" in message


def test_readings_that_were_replayed_of_a_set_are_left_out_when_it_is_shifted_anew():
    """At their times of then they are copies of its rows; one of another value is a reading like any other."""
    shuttle, now = datasets.get("shuttle"), START + timedelta(days=3)
    rows = reading_rows([now, now + timedelta(minutes=1)], value=1.0).lazy()
    then = now - timedelta(seconds=500)
    posted = pl.concat([reading_rows([then], value=1.0), reading_rows([then + timedelta(minutes=1)], value=2.0)])
    found = update.union(rows, posted.lazy(), shuttle, [500]).collect()
    assert found[EVENT_TIME].to_list() == [now, now + timedelta(minutes=1), then + timedelta(minutes=1)]
    assert len(update.union(rows, posted.lazy(), shuttle).collect()) == 4


def test_a_reading_that_is_pushed_late_does_not_take_the_place_of_a_newer_one(loaded, empty_redis):
    apply(loaded)
    loaded.result_of("features", "build", "--dataset", "shuttle")
    newest = START + timedelta(minutes=49_097)
    readings(loaded).add(reading_rows([newest], value=41.0), 1, 0, newest)
    loaded.result_of("features", "push", "--dataset", "shuttle")
    late = newest - timedelta(seconds=30)
    readings(loaded).add(reading_rows([late], value=190.0), 2, 0, newest + timedelta(minutes=1))
    loaded.result_of("features", "push", "--dataset", "shuttle")
    found = served(loaded, "shuttle", [{"machine": "shuttle"}])
    assert found["f1"] == [41.0] and found["f1_max_10m"] == [190.0], "its windows hold the late one"


@pytest.mark.parametrize("posted", [False, True], ids=["nothing new", "readings are posted"])
def test_the_nights_are_green_days_after_the_installation(loaded, empty_redis, gateway, posted):
    """The commands of the two nightly DAGs by a clock of our own, for a month from `make data`."""
    installed = START + timedelta(days=400)
    for name in repository.datasets_with_features():
        DatasetFiles(loaded.data).shift_to(datasets.get(name), installed)
    apply(loaded)
    for day in (0, 1, 7, 8, 9, 30):
        night = installed + timedelta(days=day, hours=1)
        if posted and day:
            readings(loaded).add(reading_rows([night - timedelta(minutes=5)], value=float(day)), day, 0, night)
        build = loaded.result_of("features", "build", "--dataset", "all")
        assert build["shuttle"]["unchanged"] is (day > 0 and not posted)
        loaded.result_of("features", "validate-store")
        when = ("--days", "7", "--end", night.isoformat())
        made = loaded.result_of("features", "materialize", *when)
        found = loaded.result_of("features", "validate-online", *when)["views"]
        assert found["sensor_windows"]["equal"] == found["sensor_windows"]["sampled"] == 1
        fresh = 300 if posted and day else 3_600 + day * 86_400
        assert found["sensor_windows"]["age_seconds"] == pytest.approx(fresh, abs=2), "how old it is, is told"
        told = {
            name: gateway.total(f"maestro_materialization_{name}") for name in ("rows_read_total", "rows_written_total")
        }
        assert told == {f"{name}_total": made[name] for name in ("rows_read", "rows_written")}
        assert gateway.total("maestro_command_records_total", command="materialize") == made["rows_read"]
        age = gateway.total("maestro_materialization_age_seconds", view="sensor_windows")
        assert age == pytest.approx(fresh, abs=2)
        assert found["user_activity"]["sampled"] > 0
        if day and not posted:
            assert made["rows_written"] == 0, "a second run changes nothing"
    raw = loaded.result_of("ingestion", "download", "--dataset", "shuttle")
    loaded.result_of("features", "historical", "--model", "sensor-failure-windows", "--data", raw["data"])


# Validating the store


def test_a_store_that_is_as_it_should_be_passes(built):
    result = built.result_of("features", "validate-store")
    assert result == {"views": len(VIEWS), "services": len(SERVICES), "datasets": ["movielens", "shuttle"]}


def test_everything_that_is_wrong_with_the_store_is_named_at_once(loaded, monkeypatch):
    loaded.result_of("features", "build", "--dataset", "movielens")
    monkeypatch.setenv("MAESTRO_REDIS_PASSWORD", "wrong-secret")
    cause = loaded.failure_of("features", "validate-store")
    assert "features apply', which helm upgrade runs, would change:\n+ entity item" in cause
    assert "Redis at 127.0.0.1" in cause and "global.redis.existingSecret" in cause
    assert "the features of dataset shuttle are not in bucket" in cause and "movielens are not" not in cause
    assert "wrong-secret" not in cause


def test_servers_that_are_away_are_named_with_their_addresses(platform, monkeypatch):
    monkeypatch.setenv("MAESTRO_FEAST_REGISTRY", "postgresql+psycopg2://feast@127.0.0.1:9/feast")
    monkeypatch.setenv("MAESTRO_REDIS_PORT", "9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    cause = platform.failure_of("features", "validate-store")
    assert "database 'feast' at 127.0.0.1:9, failed" in cause
    assert "Redis at 127.0.0.1:9 failed" in cause
    assert "no answer from http://127.0.0.1:9" in cause


def test_redis_is_reached_with_its_password(feature_store, monkeypatch):
    check_online()
    monkeypatch.setenv("MAESTRO_REDIS_PASSWORD", "wrong")
    with pytest.raises(Failure, match=r"Redis at 127\.0\.0\.1"):
        check_online()


# Serving


@contextmanager
def feature_server(platform):
    """The feature server's application over Redis, which holds one machine, two users and one film."""
    from fastapi.testclient import TestClient

    from mlops.features.serve import Refresh, application

    apply(platform)
    store = open_configured(replace(FeatureStoreConfig.from_environment(), registry_cache=0))
    now = pd.Timestamp("2026-02-01", tz="UTC")
    rows = {"sensor_windows": ["shuttle"], "user_activity": ["1", "2"], "user_profile": ["1"], "item_activity": ["9"]}
    values = {"Float64": 1.5, "Int64": 3, "String": "x"}
    for view in VIEWS:
        columns = {name: values[dtype] for name, dtype in view.features.items()}
        table = pd.DataFrame({view.key.column: rows[view.name], "event_timestamp": now, "created": now, **columns})
        if view.name == "user_activity":
            table["user_seconds_since_last"] = pd.Series([None, 3], dtype="Int64")
        store.write_to_online_store(view.name, table)
    DatasetFiles(platform.data).shift_to(datasets.get("shuttle"), START + timedelta(days=365))
    platform.result_of("features", "build", "--dataset", "shuttle")
    refresh = Refresh(store)
    refresh.read()
    with TestClient(application(store, refresh.shifts)) as client:
        client.refresh = refresh
        yield client


@pytest.fixture(scope="module")
def client(module_platform, postgresql, redis_port, datasets_dir, tmp_path_factory):
    """One for all tests, which ask it and change nothing."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_environment(monkeypatch, tmp_path_factory.mktemp("served"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", module_platform.mlflow.tracking_uri)
        set_feature_store(postgresql, redis_port, monkeypatch)
        own = new_platform(module_platform.s3.endpoint, monkeypatch)
        with feature_server(load(own, datasets_dir, "shuttle")) as client:
            monkeypatch.undo()
            yield client


def test_how_old_values_are_and_may_be_is_told(client):
    answer = ask(client, {"machine": ["shuttle"]}, feature_service="sensor_failure_v1").json()["metadata"]
    age = (datetime.now(UTC) - datetime(2026, 2, 1, tzinfo=UTC)).total_seconds()
    assert answer["age_seconds"] == {"sensor_windows": pytest.approx(age, abs=120)}
    assert answer["served_age"] == "pushed, and up to 15 min old"
    answer = ask(client, {"user_id": ["1"]}, features=["user_activity:user_events"]).json()["metadata"]
    assert list(answer["age_seconds"]) == ["user_activity"] and "served_age" not in answer


def ask(client, entities, **what):
    return client.post("/get-online-features", json={"entities": entities, **what})


def test_features_are_served_with_the_shift_of_their_times(client):
    answer = ask(client, {"machine": ["shuttle"]}, feature_service="sensor_failure_v1")
    assert answer.status_code == 200, answer.text
    metadata, results = answer.json()["metadata"], answer.json()["results"]
    found = dict(zip(metadata["feature_names"], (result["values"][0] for result in results), strict=True))
    assert found == {
        "machine": "shuttle",
        **dict.fromkeys(service_of(models.get("sensor-failure-windows")).features, 1.5),
    }
    assert metadata["event_time_shift_seconds"]["shuttle"] > 0
    assert [client.get(path).status_code for path in ("/health", "/docs", "/openapi.json")] == [200, 200, 200]


def test_features_are_served_while_the_registry_is_away(platform, datasets_dir, postgresql):
    with feature_server(load(platform, datasets_dir, "shuttle")) as client:
        database = platform.feast.registry.rpartition("/")[2]
        execute(f"{postgresql}/postgres", f"drop database {database} with (force)")
        client.refresh.read()
        answer = ask(client, {"machine": ["shuttle"]}, feature_service="sensor_failure_v1")
        assert answer.status_code == 200, answer.text
        assert answer.json()["metadata"]["event_time_shift_seconds"]["shuttle"] > 0
        assert client.get("/health").status_code == 200


def test_a_value_that_is_missing_is_null_where_its_row_is_there(client):
    answer = ask(client, {"user_id": ["1", "2"]}, features=["user_activity:user_seconds_since_last"])
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][1]["values"] == [None, 3]
    assert "event_time_shift_seconds" not in answer.json()["metadata"]


@pytest.mark.parametrize(
    ("entities", "what", "status", "said"),
    [
        (
            {"machine": ["shuttle", "m7"]},
            {"feature_service": "sensor_failure_v1"},
            404,
            "machine 'm7' (view sensor_windows)",
        ),
        (
            {"user_id": ["1", "2"], "item_id": ["9", "9"]},
            {"feature_service": "click_through_v1"},
            404,
            "user_id '2' (view user_profile): check",
        ),
        (
            {"machine": ["shuttle"]},
            {"feature_service": "v0"},
            404,
            "'v0' is unknown: there are sensor_failure_v1, click",
        ),
        (
            {"machine": ["shuttle"]},
            {"features": ["sensor_windows:f99"]},
            404,
            "view 'sensor_windows' has f1, f1_mean_10m",
        ),
        (
            {"machine": ["shuttle"]},
            {"features": ["weather:rain"]},
            404,
            "there are the views sensor_windows, user_activity",
        ),
        ({"machine": ["shuttle"]}, {"features": ["f1"]}, 422, "'f1' is not of the form 'view:feature'"),
        ({"machine": ["shuttle"]}, {}, 422, "give either 'feature_service', or 'features'"),
        ({"user_id": ["1"]}, {"feature_service": "sensor_failure_v1"}, 422, "entity 'machine', which view"),
        (
            {"machine": ["shuttle"], "user_id": ["1"]},
            {"feature_service": "sensor_failure_v1"},
            422,
            "'user_id' is unknown",
        ),
        ({"machine": []}, {"feature_service": "sensor_failure_v1"}, 422, "as many values"),
        ({"machine": [None]}, {"feature_service": "sensor_failure_v1"}, 422, "value 0: null is not a text"),
        (
            {"machine": ["shuttle", ["13"]]},
            {"feature_service": "sensor_failure_v1"},
            422,
            'value 1: ["13"] is not a text',
        ),
        (
            {"machine": [13]},
            {"feature_service": "sensor_failure_v1"},
            422,
            "'machine', value 0: 13 is not a text",
        ),
        ({"machine": [{"a": 1}]}, {"feature_service": "sensor_failure_v1"}, 422, "is not a text"),
        ({"machine": [True]}, {"feature_service": "sensor_failure_v1"}, 422, "true is not a text"),
        (
            {"machine": ["shuttle"]},
            {"features": ["sensor_windows:f1", "sensor_windows:f1"]},
            422,
            "feature 'sensor_windows:f1' is asked for twice",
        ),
        ({"user_id": ["1", "2"], "item_id": ["9"]}, {"feature_service": "click_through_v1"}, 422, "as many values"),
    ],
)
def test_what_cannot_be_answered_is_named(client, entities, what, status, said):
    answer = ask(client, entities, **what)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]


def test_full_feature_names_are_checked_as_well(client):
    asked = {"features": ["sensor_windows:f1"], "full_feature_names": True}
    assert ask(client, {"machine": ["shuttle"]}, **asked).json()["results"][1]["values"] == [1.5]
    assert ask(client, {"machine": ["m7"]}, **asked).status_code == 404


@pytest.mark.parametrize(
    "path", ["/push", "/write-to-online-store", "/materialize", "/materialize-incremental", "/chat"]
)
def test_the_server_only_reads(client, path):
    assert client.post(path, json={}).status_code == 404


def test_the_command_serves_until_it_is_stopped(platform, tmp_path):
    import sys

    apply(platform)
    port, metrics = free_ports(2)
    command = [sys.executable, "-m", "mlops", "features", "serve", f"--port={port}", f"--metrics-port={metrics}"]
    with running(command, tmp_path / "log", lambda: answers(f"http://127.0.0.1:{port}/health")) as process:
        import urllib.request

        body = json.dumps({"entities": {"machine": ["m7"]}, "feature_service": "sensor_failure_v1"}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/get-online-features", body, {"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request)
        assert b"feast_" in urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics").read()
        process.terminate()
        eventually(lambda: process.poll() is not None)
    assert process.returncode in (0, -15)
