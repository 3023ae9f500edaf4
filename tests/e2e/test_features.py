"""The feature store on the installed platform: what is served is what the raw sets say, whatever happens."""

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import requests

from infrastructure.release import kubectl, object_name, port_forward, wait_until
from mlops import datasets
from mlops.datasets.read import read_dataset
from tests.e2e.runs import finished, running_pod, states, tasks

DAG = "feature_materialization"
DAYS = 7


@pytest.fixture(scope="module")
def materialized(services):
    """The id of a run that has filled the online store."""
    run_id = services.airflow.trigger(DAG)
    assert finished(services, run_id, DAG) == "success"
    return run_id


def events(services, name):
    """A raw set as its files say, with the event times that `make data` shifted."""
    declared = datasets.get(name)
    bucket = "data"
    files = {
        file: services.s3.get_object(Bucket=bucket, Key=declared.object_key(file))["Body"].read()
        for file in declared.source.files
    }
    table = read_dataset(declared, files)
    shift = json.loads(services.s3.get_object(Bucket=bucket, Key=f"datasets/{name}/shift.json")["Body"].read())
    return table.assign(event_time=table.event_time + pd.Timedelta(seconds=shift["seconds"]))


def served(entities, features=None, service=None):
    with port_forward("feast") as url:
        body = {"entities": entities} | ({"features": features} if features else {"feature_service": service})
        return requests.post(f"{url}/get-online-features", json=body, timeout=60)


def values(entities, features):
    """Feature name -> its values, one for each entity."""
    answer = served(entities, features)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return dict(zip(document["metadata"]["feature_names"], [r["values"] for r in document["results"]], strict=True))


def assert_users_are_served(services):
    """Clicks and events of users who had an event of late, counted here row by row."""
    table = events(services, "movielens")
    newest = table.event_time.max()
    recent = table[table.event_time > newest - pd.Timedelta(days=DAYS - 1)]
    users = sorted(recent.user_id.unique())[:20]
    assert users, "the set has users of late"
    found = values({"user_id": users}, ["user_activity:user_events", "user_activity:user_click_rate"])
    for place, user in enumerate(users):
        own = table[table.user_id == user]
        clicks = [rating >= 4 for rating in pd.to_numeric(own.rating)]
        assert found["user_events"][place] == len(own)
        assert found["user_click_rate"][place] == pytest.approx(sum(clicks) / len(clicks))


def test_redis_holds_what_the_raw_sets_say(services, materialized):
    assert set(states(services, materialized, DAG).values()) == {"success"}
    result = services.airflow.result(DAG, materialized, "materialize_features")
    assert result["rows_written"] + result["rows_not_newer"] > 0
    table = events(services, "shuttle")
    last = table.event_time.max()
    window = table[table.event_time > last - pd.Timedelta(minutes=10)]
    features = ["f1", "f1_mean_10m", "f1_std_10m", "f4_min_10m", "f9_max_10m"]
    found = values({"machine": ["shuttle"]}, [f"sensor_windows:{name}" for name in features])
    expected = [
        table.f1.iloc[-1],
        window.f1.mean(),
        float(np.std(window.f1)),
        window.f4.min(),
        window.f9.max(),
    ]
    assert [found[name][0] for name in features] == pytest.approx(expected)
    assert_users_are_served(services)


def test_the_feature_service_of_a_model_is_served_whole(services, materialized):
    answer = served({"machine": ["shuttle"]}, service="sensor_failure_v1")
    assert answer.status_code == 200, answer.text
    assert all(result["values"][0] is not None for result in answer.json()["results"])


@pytest.mark.parametrize(
    ("entities", "features", "status", "words"),
    [
        ({"machine": ["nobody"]}, ["sensor_windows:f1"], 404, "nobody"),
        ({"machine": ["shuttle"]}, ["sensor_windows:f99"], 404, "f99"),
        ({"machine": ["shuttle"]}, ["no_such_view:f1"], 404, "no_such_view"),
        ({"user_id": ["1"]}, ["sensor_windows:f1"], 422, "machine"),
    ],
    ids=["unknown entity", "unknown feature", "unknown view", "another entity"],
)
def test_what_is_not_there_is_an_error_and_no_null(materialized, entities, features, status, words):
    answer = served(entities, features)
    assert answer.status_code == status
    assert words in answer.text


def test_a_second_run_changes_nothing(services, materialized):
    run_id = services.airflow.trigger(DAG)
    assert finished(services, run_id, DAG) == "success"
    assert_users_are_served(services)


def restart(component):
    """Deletes the pod of a StatefulSet and waits for the next one."""
    kubectl("delete", "pod", "-l", f"app.kubernetes.io/component={component}", "--wait=false")
    kubectl("rollout", "status", f"statefulset/{object_name(component)}", "--timeout=240s")


def flush():
    """Empties the online store, so that what is found afterwards was written by the run under test."""
    assert "OK" in kubectl("exec", f"statefulset/{object_name('redis')}", "--", "redis-cli", "FLUSHALL")


def test_a_killed_pod_is_tried_again_and_nothing_is_missing(services, materialized):
    flush()
    run_id = services.airflow.trigger(DAG)
    pod = running_pod(services, run_id, "materialize_features", DAG)
    kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert tasks(services, run_id, DAG)["materialize_features"]["try_number"] == 2
    assert_users_are_served(services)


def test_redis_restarted_in_the_midst_loses_nothing(services, materialized):
    flush()
    run_id = services.airflow.trigger(DAG)
    running_pod(services, run_id, "materialize_features", DAG)
    restart("redis")
    assert finished(services, run_id, DAG) == "success"
    assert_users_are_served(services)


def test_minio_away_for_a_minute_fails_no_run(services, materialized):
    statefulset = f"statefulset/{object_name('minio')}"
    run_id = services.airflow.trigger(DAG)
    kubectl("scale", statefulset, "--replicas=0")
    try:
        kubectl("wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=minio", "--timeout=60s", check=False)
        away = datetime.now(UTC)
        wait_until(lambda: (datetime.now(UTC) - away).total_seconds() > 60, 90, "a minute without MinIO", 1)
    finally:
        kubectl("scale", statefulset, "--replicas=1")
        kubectl("rollout", "status", statefulset, "--timeout=240s")
    services.connect()
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert_users_are_served(services)


def test_postgresql_restarted_in_the_midst_fails_no_run(services, materialized):
    run_id = services.airflow.trigger(DAG)
    running_pod(services, run_id, "materialize_features", DAG)
    restart("postgresql")
    services.connect()
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert_users_are_served(services)
