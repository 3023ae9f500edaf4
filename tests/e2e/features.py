"""The feature store as a test sees it: what is served, and what the raw sets say of it."""

import io
import json
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
import requests

from infrastructure.release import kubectl, object_name, wait_until
from infrastructure.services import port_forward
from mlops import datasets
from tests.conftest import raw_rows

DAG = "feature_materialization"
ENGINEERING = "feature_engineering_pipeline"
PUSH = "feature_push"
DAYS = 7


@cache
def events(services, name):
    """A raw set as its files say, with the event times that `make data` shifted."""
    declared = datasets.get(name)
    bucket = "data"
    with TemporaryDirectory() as folder:
        for file in declared.source.files:
            services.s3.download_file(bucket, declared.object_key(file), f"{folder}/{file}")
        table = raw_rows(declared, Path(folder)).to_pandas()
    shift = json.loads(services.s3.get_object(Bucket=bucket, Key=f"datasets/{name}/shift.json")["Body"].read())
    return table.assign(event_time=table.event_time + pd.Timedelta(seconds=shift["seconds"]))


def served(entities, features=None, service=None):
    with port_forward("feast") as url:
        body = {"entities": entities} | ({"features": features} if features else {"feature_service": service})
        return requests.post(f"{url}/get-online-features", json=body, timeout=60)


def values(entities, features, what="values"):
    """Feature name -> its values, or what else is told of each, one for each entity."""
    answer = served(entities, features)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return dict(zip(document["metadata"]["feature_names"], [r[what] for r in document["results"]], strict=True))


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


def flush():
    """Empties the online store, so that what is found afterwards was written by the run under test."""
    assert "OK" in kubectl("exec", object_name("statefulset", "redis"), "--", "redis-cli", "FLUSHALL")


@contextmanager
def unpushed(services):
    """Nothing is pushed until the block ends, so that what is served does not change under a test."""
    services.airflow.call("PATCH", f"/dags/{PUSH}", json={"is_paused": True})
    try:
        running = {"state": ["queued", "running"]}
        wait_until(
            lambda: not services.airflow.call("GET", f"/dags/{PUSH}/dagRuns", params=running)["total_entries"],
            300,
            f"the end of a run of {PUSH}",
            1,
        )
        yield
    finally:
        services.airflow.call("PATCH", f"/dags/{PUSH}", json={"is_paused": False})


def collected(services, name):
    """The readings that were collected beside a set."""
    folder = f"collected/{name}/"
    found = services.s3.list_objects_v2(Bucket="data", Prefix=folder).get("Contents", [])
    parts = [services.s3.get_object(Bucket="data", Key=each["Key"])["Body"].read() for each in found]
    return pd.concat([pd.read_parquet(io.BytesIO(part)) for part in parts]) if parts else None
