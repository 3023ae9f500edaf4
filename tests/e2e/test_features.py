"""The feature store on the installed platform: what is served is what the raw sets say, whatever happens."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from infrastructure.release import kubectl, wait_until
from infrastructure.sensors import trainer
from tests.e2e.disturb import be_away_for_a_minute, reconnect, replaced
from tests.e2e.features import (
    DAG,
    ENGINEERING,
    PUSH,
    assert_users_are_served,
    collected,
    events,
    flush,
    served,
    unpushed,
    values,
)
from tests.e2e.runs import finished, running_pod, states, tasks
from tests.e2e.sensors import reading, send


def test_redis_holds_what_the_raw_sets_and_the_readings_say(services):
    features = ["f1", "f1_mean_10m", "f1_std_10m", "f4_min_10m", "f9_max_10m"]
    with unpushed(services):
        for dag_id in (ENGINEERING, DAG):
            run_id = services.airflow.trigger(dag_id)
            assert finished(services, run_id, dag_id) == "success"
        found = values({"machine": ["shuttle"]}, [f"sensor_windows:{name}" for name in features])
        table = events(services, "shuttle")
        readings = collected(services, "shuttle")
    result = services.airflow.result(DAG, run_id, "materialize_features")
    assert result["rows_written"] + result["rows_not_newer"] > 0
    if readings is not None:
        table = pd.concat([table, readings]).drop_duplicates("event_time").sort_values("event_time")
    window = table[table.event_time > table.event_time.max() - pd.Timedelta(minutes=10)]
    expected = [
        table.f1.iloc[-1],
        window.f1.mean(),
        float(np.std(window.f1)),
        window.f4.min(),
        window.f9.max(),
    ]
    assert [found[name][0] for name in features] == pytest.approx(expected)
    assert_users_are_served(services)


def test_a_posted_reading_is_served_after_the_next_push(services, materialized):
    moment = datetime.now(UTC).replace(microsecond=0)
    with trainer() as api:
        assert send(api, reading(time=moment.isoformat())).json()["accepted"] == 1

    def pushed():
        """A run by hand, or one of the schedule that came before it, collects the reading; who comes later skips."""
        run_id = services.airflow.trigger(PUSH)
        assert finished(services, run_id, PUSH) == "success"
        (served_at,) = values({"machine": ["shuttle"]}, ["sensor_windows:f1"], "event_timestamps")["f1"]
        return datetime.fromisoformat(served_at) >= moment

    wait_until(pushed, 300, "the reading in the online store", 1)
    there = collected(services, "shuttle")
    assert (there.event_time == moment).any()


@pytest.mark.full
def test_the_nightly_build_has_a_materialization_follow(services):
    since = datetime.now(UTC).isoformat()
    with trainer() as api:
        send(api, reading())
    run_id = services.airflow.trigger(ENGINEERING)
    assert finished(services, run_id, ENGINEERING) == "success"
    assert states(services, run_id, ENGINEERING)["save_features"] == "success"

    def followed():
        runs = services.airflow.call("GET", f"/dags/{DAG}/dagRuns", params={"run_type": "asset_triggered"})["dag_runs"]
        return [run["dag_run_id"] for run in runs if run["run_after"] > since]

    for follower in wait_until(followed, 120, "a materialization that the asset had follow", 1):
        assert finished(services, follower, DAG) == "success"


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
