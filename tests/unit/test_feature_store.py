"""The feature store on real servers: PostgreSQL, Redis, S3 and MLflow."""

import io
import json
import math
import os
import uuid
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pandas as pd
import pytest

from mlops import datasets, models
from mlops.datasets.declaration import EVENT_TIME, LABEL
from mlops.features import definitions, repository
from mlops.features.preprocess import preprocess
from mlops.features.repository import SERVICES, VIEWS, service_of
from mlops.features.retrieve import retrieve
from mlops.features.split import split
from mlops.result import Failure
from mlops.stores.dataset_files import DatasetFiles
from mlops.stores.feature_store import (
    FeatureStoreConfig,
    check_online,
    open_configured,
    open_feature_store,
)
from tests.conftest import answers, eventually, free_ports, running
from tests.servers import PASSWORD, Redis, execute, new_database
from tests.unit.conftest import new_platform, set_environment
from tests.unit.test_feature_contract import tags_of

START = datetime(2026, 1, 1, tzinfo=UTC)
CREATED = pd.Timestamp("2026-03-01", tz="UTC")


@pytest.fixture(scope="module")
def redis_port(run_folder):
    with Redis(run_folder) as server:
        yield server.port


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
        "MAESTRO_REDIS_PASSWORD": PASSWORD,
        "MAESTRO_STATSD_HOST": "127.0.0.1",
        "MAESTRO_STATSD_PORT": "9",
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
    assert first["shuttle"] == {"rows": {"sensor_windows": 49_097}, "unchanged": False}
    assert set(first["movielens"]["rows"]) == {"user_activity", "item_activity", "user_profile"}
    second = loaded.result_of("features", "build", "--dataset", "all")
    assert [entry["unchanged"] for entry in second.values()] == [True, True]
    monkeypatch.setenv("MAESTRO_CODE_VERSION", "another")
    assert not loaded.result_of("features", "build", "--dataset", "shuttle")["shuttle"]["unchanged"]
    content = loaded.offline.read_bytes("sensor_windows/shuttle.parquet")
    assert len(pd.read_parquet(io.BytesIO(content))) == 49_097


def test_a_shifted_set_has_shifted_features_and_says_so(loaded, datasets_dir):
    loaded.result_of("features", "build", "--dataset", "shuttle")
    DatasetFiles(loaded.data).shift_to(datasets.get("shuttle"), START + timedelta(days=365))
    result = loaded.result_of("features", "build", "--dataset", "shuttle")["shuttle"]
    assert not result["unchanged"]
    rows = loaded.offline.read_table("sensor_windows/shuttle.parquet")
    newest = rows["event_timestamp"].max()
    assert START + timedelta(days=365) - timedelta(seconds=1) < newest <= START + timedelta(days=365)
    assert result["event_time_shift_seconds"] == (newest - (START + timedelta(minutes=49_096))).total_seconds()


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
    client.create_model_version("sensor-failure", "s3://nowhere/model", run.info.run_id, tags=tags)
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
        clean = preprocess(built.data.read_table(raw["data"]), dataset)
        assert made["train_rows"] + made["test_rows"] == len(clean)
        assert made["features"] == len(service.features)
        assert made["feature_service"] == service.name
        assert "event_time_shift_seconds" not in made
        parts = [built.data.read_table(made[part]) for part in ("train", "test")]
        for part in parts:
            assert list(part.columns) == [*service.features, EVENT_TIME, LABEL]
            assert part.attrs["feature_service"] == service.name
            assert part.attrs["feature_schema"] == service.schema
        expected = split(clean, dataset)
        for found, part in zip(parts, expected, strict=True):
            assert found[LABEL].tolist() == part[LABEL].tolist()
            assert found[EVENT_TIME].tolist() == part[EVENT_TIME].tolist()
        if name == "shuttle":
            assert not parts[0].isna().any(axis=None)
            assert parts[1]["f1"].tolist() == expected[1]["f1"].tolist()


def test_no_label_is_among_its_own_features(built):
    """Of the first event of each user nothing is known; of the others what the events before it say, without it."""
    clean = preprocess(DatasetFiles(built.data).read("movielens").table, datasets.get("movielens"))
    found = retrieve(open_feature_store(), service_of(models.get("click-through-activity")), clean)
    events = clean.assign(known=found["user_events"], rate=found["user_click_rate"], age_known=found["age"].notna())
    assert events["age_known"].all()
    for _, mine in events.groupby("user_id"):
        times, labels = mine[EVENT_TIME].tolist(), mine[LABEL].tolist()
        first_of_moment = [0]
        for row, (before, now) in enumerate(pairwise(times), start=1):
            first_of_moment.append(row if now > before else first_of_moment[-1])
        for row, count in enumerate(first_of_moment):
            known, rate = mine["known"].iloc[row], mine["rate"].iloc[row]
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
        eventually(lambda: process.poll() is not None, 60)
    assert process.returncode in (0, -15)
