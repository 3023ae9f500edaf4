import posixpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlops.config import (
    DatabaseSettings,
    FromEnvironment,
    NotificationSettings,
    RunIdentity,
    S3Settings,
    SensorApiSettings,
    SensorSettings,
    SensorTrainerSettings,
    ServedModelSettings,
)
from mlops.keys import slug
from mlops.result import Failure

IDENTITY = RunIdentity(dag_id="ml_pipeline_dag", run_id="scheduled__2026-01-01T02:00:00+00:00", task_id="train_model")


RECORDS = FromEnvironment.__subclasses__()


def complete(record: type[FromEnvironment]) -> dict[str, str]:
    return {key: f"value of {key}" for key in sorted(record.keys())}


def test_every_field_is_read_from_its_key():
    found = S3Settings.from_environment(complete(S3Settings))
    assert found == S3Settings(
        *(
            f"value of {key}"
            for key in (
                *("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
                *("AWS_DEFAULT_REGION", "MAESTRO_DATA_BUCKET", "MAESTRO_REPORTS_BUCKET"),
                "MAESTRO_PREDICTIONS_BUCKET",
            )
        )
    )


def test_a_record_of_records_is_read_from_the_keys_of_all():
    found = SensorApiSettings.from_environment(complete(SensorApiSettings))
    assert found.database == DatabaseSettings("value of DATABASE_URL")
    assert found.redis.port == "value of MAESTRO_REDIS_PORT"
    assert found.token == "value of SENSOR_TRAINER_TOKEN"
    assert SensorApiSettings.keys() == SensorSettings.keys() | {"SENSOR_TRAINER_TOKEN"}


def test_all_missing_keys_are_named_at_once_with_the_values_they_come_from():
    found = complete(S3Settings) | {"AWS_ACCESS_KEY_ID": ""}
    del found["AWS_ENDPOINT_URL_S3"], found["MAESTRO_DATA_BUCKET"]
    with pytest.raises(Failure) as failure:
        S3Settings.from_environment(found)
    text = str(failure.value)
    assert "AWS_ENDPOINT_URL_S3 (from global.services.minio or global.s3.external.endpoint)" in text
    assert "AWS_ACCESS_KEY_ID (from the Secret of a user in global.s3.users)" in text
    assert "MAESTRO_DATA_BUCKET" not in text, "it has a default"
    assert "helm upgrade, and see that mlops/needs.py lists 's3' for the command" in text
    assert "MAESTRO_REPORTS_BUCKET" not in text


def test_what_a_record_of_records_lacks_is_named_at_once():
    with pytest.raises(Failure) as failure:
        SensorApiSettings.from_environment({})
    text = str(failure.value)
    for key in ("DATABASE_URL", "MAESTRO_REDIS_HOST", "MLFLOW_TRACKING_URI", "SENSOR_TRAINER_TOKEN"):
        assert f"{key} (from " in text
    assert "SENSOR_DATASET" not in text, "it has a default"
    assert "needs.py" not in text


def test_each_channel_may_be_missing():
    settings = NotificationSettings.from_environment({})
    assert (settings.slack_webhook_url, settings.mail.host) == (None, None)


def test_a_platform_without_a_sensor_trainer_has_no_token_of_it():
    assert SensorTrainerSettings.from_environment({"MAESTRO_SENSOR_TRAINER_URL": "http://t"}).token == ""


@pytest.mark.parametrize("record", RECORDS)
def test_secrets_do_not_show_in_a_log(record):
    shown = repr(record.from_environment(complete(record)))
    for key in sorted(record.keys()):
        secret = key in ("AWS_ACCESS_KEY_ID", "MAESTRO_SLACK_WEBHOOK_URL") or key.endswith(
            ("_PASSWORD", "_TOKEN", "_SECRET_ACCESS_KEY", "MAIL_USERNAME", "MAIL_FROM", "MAIL_TO")
        )
        assert (f"value of {key}" in shown) != secret


def test_the_token_of_the_sensor_trainer_does_not_show_either():
    shown = repr(SensorApiSettings.from_environment(complete(SensorApiSettings)))
    assert "value of SENSOR_TRAINER_TOKEN" not in shown
    assert "value of DATABASE_URL" in shown


def test_a_sensor_trainer_without_what_has_a_default_is_complete():
    required = ("DATABASE_URL", "MAESTRO_REDIS_HOST", "MAESTRO_REDIS_PORT", "MAESTRO_REDIS_USERNAME")
    required += ("MAESTRO_REDIS_PASSWORD",)
    found = dict.fromkeys((*required, "MLFLOW_TRACKING_URI"), "given")
    settings = SensorSettings.from_environment(found)
    assert (settings.dataset, settings.sensors, settings.training_days) == ("shuttle", "shuttle", "30")


def test_a_model_server_without_a_version_is_complete():
    assert ServedModelSettings.from_environment({"MODEL_NAME": "a", "MODEL_VERSION": ""}).version is None


@pytest.mark.parametrize(("of", "version"), [("a", "3"), ("", "3"), ("b", None)])
def test_a_version_counts_for_the_model_that_it_is_of(of, version):
    """An earlier release did not say which, and had one model."""
    told = {"MODEL_NAME": "a", "MODEL_VERSION": "3", "MODEL_VERSION_OF": of}
    assert ServedModelSettings.from_environment(told).version == version


def test_a_server_whose_alias_was_changed_takes_the_version_that_has_it_and_not_what_was_rolled_before():
    told = {"MODEL_NAME": "a", "MODEL_VERSION": "3", "MODEL_VERSION_OF": "a", "MODEL_ALIAS": "staging"}
    assert ServedModelSettings.from_environment(told).version is None
    assert ServedModelSettings.from_environment({**told, "MODEL_ALIAS": "production"}).version == "3"


def test_a_retry_writes_to_the_same_key_and_another_task_to_another_one():
    tries = {RunIdentity(**{**vars(IDENTITY), "try_number": str(number)}).key("data") for number in (1, 2, 3)}
    assert len(tries) == 1
    others = {
        RunIdentity(**{**vars(IDENTITY), **change}).key("data")
        for change in (
            {"dag_id": "other"},
            {"run_id": "other"},
            {"task_id": "other"},
            {"map_index": "0"},
            {"map_index": "1"},
        )
    }
    assert len(others | tries) == 6


def test_a_key_is_readable():
    assert IDENTITY.key("train").startswith("runs/ml_pipeline_dag/scheduled__2026-01-01T02-00-00-00-00-")
    assert IDENTITY.key("train").endswith("/train_model/train.parquet")


# Texts of any kind, and such as a key could be led astray by: dots, slashes, white space, and the slugs of others.
names = st.text(min_size=1, max_size=250) | st.text("./ \\-a", min_size=1, max_size=6)
names |= names.map(slug)
instances = st.tuples(names, names, names, st.integers(-1, 3))


@given(names, names)
@example("..", ".")
@example("manual run", slug("manual run"))
def test_two_names_never_share_a_slug(one, other):
    assert (slug(one) == slug(other)) == (one == other)


@given(names)
@example(".")
@example("..")
@example("...")
def test_a_slug_is_one_segment_of_an_object_key(name):
    made = slug(name)
    assert 0 < len(made.encode()) <= 255
    assert made.strip(".")
    assert not set(made) & set("/ :+%?#&\\")


@given(instances, instances)
@example(("..", "..", "..", -1), ("a", "b", "c", -1))
@example(("a/b", "c", "d", -1), ("a", "b/c", "d", -1))
def test_every_task_instance_has_a_folder_of_its_own_below_the_runs(one, other):
    keys = []
    for dag_id, run_id, task_id, map_index in (one, other):
        identity = RunIdentity(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=str(map_index))
        keys.append(identity.key("data"))
        assert posixpath.normpath(keys[-1]) == keys[-1], "no segment leads up"
        assert keys[-1].count("/") == (4 if map_index == -1 else 5)
        assert keys[-1].startswith("runs/")
    assert (keys[0] == keys[1]) == (one == other)
