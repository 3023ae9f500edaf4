import json
from collections.abc import Mapping

import pytest

from mlops import datasets, models
from mlops.features import repository
from mlops.features.contract import breaks, difference
from mlops.features.repository import MINUTES, NIGHTLY, SERVICES, VIEWS, service_of, views_of
from mlops.models.declaration import Model
from mlops.registry.record import FEATURE_SCHEMA, FEATURE_SERVICE, SERVED_AGE
from mlops.result import Failure

SCHEMA = {"view:a": "Float64", "view:b": "Int64"}


def tags_of(service: str, schema: Mapping[str, str]) -> dict[str, str]:
    """The tags of a model that was trained on a service of this schema."""
    return {FEATURE_SERVICE: service, FEATURE_SCHEMA: json.dumps(dict(schema))}


TAGS = tags_of("service_v1", SCHEMA)
AGES = {"service_v1": "pushed"}


def test_a_model_that_was_trained_on_what_is_declared_is_not_broken():
    assert breaks(TAGS, {"service_v1": SCHEMA}, AGES, "model") == []
    assert breaks(TAGS, {"service_v1": {**SCHEMA, "view:new": "String"}}, AGES, "model") == []


@pytest.mark.parametrize(
    ("services", "lines"),
    [
        ({}, ["- service service_v1, with 2 features"]),
        ({"service_v1": {"view:a": "Float64"}}, ["- view:b Int64"]),
        ({"service_v1": {**SCHEMA, "view:b": "Float64"}}, ["- view:b Int64", "+ view:b Float64"]),
        ({"service_v1": {"view:a": "Float64", "view:c": "Int64"}}, ["- view:b Int64"]),
    ],
    ids=["service gone", "feature gone", "feature of another type", "feature renamed"],
)
def test_a_model_that_would_miss_something_is_broken_and_the_diff_names_it(services, lines):
    assert breaks(TAGS, services, AGES, "model") == lines


def test_a_model_is_broken_by_values_of_another_age_than_it_was_judged_on():
    tags = {**TAGS, SERVED_AGE: "pushed"}
    assert breaks(tags, {"service_v1": SCHEMA}, AGES, "model") == []
    lines = breaks(tags, {"service_v1": SCHEMA}, {"service_v1": "nightly"}, "model")
    assert lines == ["- served age: pushed", "+ served age: nightly"]


def test_a_model_that_reads_no_features_cannot_be_broken():
    assert breaks({}, {}, {}, "model") == []


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_schema_that_cannot_be_read_is_named_with_its_model(text):
    with pytest.raises(Failure, match=r"click-through version 3: its tag maestro.feature_schema is not a JSON object"):
        breaks({FEATURE_SERVICE: "service_v1", FEATURE_SCHEMA: text}, {}, {}, "click-through version 3")


def test_the_difference_of_equal_descriptions_is_empty_and_of_others_a_diff():
    assert difference({"a": "1"}, {"a": "1"}) == []
    assert difference({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == ["- a: 1", "- b: 2", "+ b: 3", "+ c: 4"]


def test_the_schema_of_each_service_fits_into_a_tag_of_mlflow():
    for service in SERVICES:
        assert (
            len(json.dumps(service.schema, separators=(",", ":"))) < 5000
        )  # of a model version's tag, a run's has 8000


def test_each_view_and_service_names_what_there_is():
    for view in VIEWS:
        dataset = datasets.get(view.dataset)
        assert view.key.column in [column.name for column in dataset.columns]
        assert dataset.event_time is not None
        assert not set(view.features) & {dataset.label.column, "label", "event_time", view.key.column}
    for service in SERVICES:
        assert all(view.dataset == service.dataset for view in service.views)
        assert any(models.get(name).feature_service == service.name for name in models.names()), (
            "a model learns from it"
        )
        assert len(service.features) == len(service.schema)


def test_a_service_whose_features_count_clicks_is_asked_before_the_click():
    assert service_of(models.get("click-through-activity")).before.total_seconds() == 1
    assert service_of(models.get("sensor-failure-windows")).before.total_seconds() == 0


def test_what_is_pushed_is_sensors_and_clicks_are_of_last_night():
    """A service of another age gets another name: models that are registered were judged on this one."""
    assert {service.name: service.served_age for service in SERVICES} == {
        "sensor_failure_v1": MINUTES,
        "click_through_v1": NIGHTLY,
    }


def test_a_dataset_without_features_is_named_with_the_remedy():
    with pytest.raises(Failure, match=r"'adult' has no feature .*movielens, shuttle.*mlops/features/repository.py"):
        views_of("adult")


def test_a_model_whose_service_is_not_of_its_dataset_is_named_with_those_that_are():
    for service, dataset in ((None, "shuttle"), ("click_through_v1", "shuttle"), ("gone_v1", "shuttle")):
        with pytest.raises(Failure, match=rf"feature service {service!r}; those of dataset {dataset} are: sensor_fail"):
            service_of(Model("m", "", dataset, feature_service=service))


def test_the_declarations_are_feasts_objects_with_the_same_names_and_types():
    from feast import FeatureService, FeatureView

    from mlops.stores.feature_store import FeatureStoreConfig

    objects = repository.objects(FeatureStoreConfig("sqlite://", "127.0.0.1:1", "s3://feast", "http://s3"))
    views = {entry.name: entry for entry in objects if isinstance(entry, FeatureView)}
    for view in VIEWS:
        found = views[view.name]
        assert {field.name: str(field.dtype) for field in found.features} == view.features
        assert [column.name for column in found.entity_columns] == [view.key.column]
        assert found.batch_source.path == f"s3://feast/{view.name}"
    services = {entry.name: entry.tags["served_age"] for entry in objects if isinstance(entry, FeatureService)}
    assert services == {entry.name: str(entry.served_age) for entry in SERVICES}


def test_the_password_of_redis_and_of_the_registry_may_hold_any_character(environment, monkeypatch):
    from feast.infra.online_stores.redis import RedisOnlineStore
    from sqlalchemy.engine import make_url

    from mlops.stores.feature_store import FeatureStoreConfig

    for password in ("12345", "0", "true", "a,b=c", 'quo"te\\', "p@ss/word:#?%41", "ä"):
        monkeypatch.setenv("MAESTRO_FEAST_REGISTRY", "postgresql+psycopg2://feast@db:5432/feast")
        monkeypatch.setenv("MAESTRO_REDIS_HOST", "redis")
        monkeypatch.setenv("MAESTRO_REDIS_PORT", "6379")
        for key in ("MAESTRO_FEAST_REGISTRY_PASSWORD", "MAESTRO_REDIS_PASSWORD"):
            monkeypatch.setenv(key, password)
        config = FeatureStoreConfig.from_environment()
        address = make_url(config.registry)
        assert (address.username, address.password, address.host, address.database) == (
            "feast",
            password,
            "db",
            "feast",
        )
        nodes, options = RedisOnlineStore._parse_connection_string(config.online)
        assert nodes == [{"host": "redis", "port": "6379"}]
        assert options["password"] == password


def test_the_configuration_shows_no_password():
    from mlops.stores.feature_store import FeatureStoreConfig

    shown = repr(
        FeatureStoreConfig("postgresql://feast:hidden@db/feast", "redis:6379,password=hidden", "s3://feast", None)
    )
    assert "hidden" not in shown
    assert "s3://feast" in shown
