"""The feature store on the installed platform: what is served is what the raw sets say, whatever happens."""

import numpy as np
import pandas as pd
import pytest

from infrastructure.release import kubectl
from tests.e2e.disturb import be_away_for_a_minute, reconnect, replaced
from tests.e2e.features import DAG, assert_users_are_served, events, flush, served, values
from tests.e2e.runs import finished, running_pod, states, tasks


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


@pytest.mark.full
def test_a_second_run_changes_nothing(services, materialized):
    run_id = services.airflow.trigger(DAG)
    assert finished(services, run_id, DAG) == "success"
    assert_users_are_served(services)


@pytest.mark.full
def test_a_killed_pod_is_tried_again_and_nothing_is_missing(services, materialized):
    flush()
    run_id = services.airflow.trigger(DAG)
    pod = running_pod(services, run_id, "materialize_features", DAG)
    kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert tasks(services, run_id, DAG)["materialize_features"]["try_number"] == 2
    assert_users_are_served(services)


@pytest.mark.full
def test_redis_restarted_in_the_midst_loses_nothing(services, materialized):
    flush()
    run_id = services.airflow.trigger(DAG)
    running_pod(services, run_id, "materialize_features", DAG)
    with replaced("redis"):
        pass
    assert finished(services, run_id, DAG) == "success"
    assert_users_are_served(services)


@pytest.mark.full
def test_minio_away_for_a_minute_fails_no_run(services, materialized):
    run_id = services.airflow.trigger(DAG)
    be_away_for_a_minute("minio")
    reconnect(services)
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert_users_are_served(services)


@pytest.mark.full
def test_postgresql_restarted_in_the_midst_fails_no_run(services, materialized):
    run_id = services.airflow.trigger(DAG)
    running_pod(services, run_id, "materialize_features", DAG)
    with replaced("postgresql"):
        pass
    reconnect(services)
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert_users_are_served(services)
