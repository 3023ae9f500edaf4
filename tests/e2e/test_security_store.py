"""The object store of the installed platform: who opens it as whom, and what that opens."""

import base64
import json

import boto3
import pytest
from botocore.exceptions import ClientError

from infrastructure.release import RELEASE, kubectl
from infrastructure.services import port_forward
from tests.unit import test_store_guard as guard

# As docs/security.md says.
WRITES = {
    "airflow": {"logs"},
    "mlflow": {"mlflow"},
    "feast": set(),
    "tasks": {"data", "reports"},
    "serving": {"predictions"},
    "features": {"data", "reports", "feast"},
}
READS = {"airflow": {"reports", "data"}, "feast": {"feast"}, "tasks": {"predictions"}}
BUCKETS = ("data", "feast", "logs", "mlflow", "predictions", "reports")
KEY = "e2e/security-store"


@pytest.fixture(scope="module")
def endpoint():
    with port_forward("minio", "api") as address:
        yield address


def keys(user):
    data = json.loads(kubectl("get", "secret", f"{RELEASE}-minio-{user}", "-o", "json"))["data"]
    return [base64.b64decode(data[name]).decode() for name in ("access-key", "secret-key")]


def opens(client, bucket):
    """What a client may do in a bucket, as read and write."""
    asks = {
        "write": lambda: client.put_object(Bucket=bucket, Key=KEY, Body=b"1"),
        "read": lambda: client.list_objects_v2(Bucket=bucket, MaxKeys=1),
    }
    allowed = set()
    for name, ask in asks.items():
        try:
            ask()
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied", f"{bucket} {name}: {error}"
        else:
            allowed.add(name)
    return allowed


@pytest.mark.parametrize("user", WRITES)
def test_a_user_opens_the_buckets_of_its_work_and_no_other(services, endpoint, user):
    access_key, secret_key = keys(user)
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
    )
    try:
        found = {bucket: opens(client, bucket) for bucket in BUCKETS}
    finally:
        for bucket in BUCKETS:
            services.s3.delete_object(Bucket=bucket, Key=KEY)
    assert found == {
        bucket: {"write", "read"}
        if bucket in WRITES[user]
        else {"read"} & ({"read"} if bucket in READS.get(user, ()) else set())
        for bucket in BUCKETS
    }


def test_who_knows_an_access_key_alone_writes_nothing(services, endpoint, monkeypatch):
    monkeypatch.setattr(guard, "ACCESS_KEY", keys("tasks")[0])
    body, size = guard.chunks(b"forged")
    in_clear = {"X-Amz-Content-Sha256": guard.UNSIGNED_TRAILER, **size}
    address = f"{endpoint}/data/{KEY}-forged"
    assert guard.ask("PUT", f"{address}?{guard.in_query()}", in_clear, body).status == 403
    assert guard.ask("PUT", address, guard.in_header(**size), body).status == 403
    unpacked = guard.ask("PUT", address, guard.in_header(**guard.SNOWBALL), guard.archive(f"{KEY}-forged"))
    assert unpacked.status == 501
    assert not services.s3.list_objects_v2(Bucket="data", Prefix=f"{KEY}-forged").get("Contents")


def test_root_is_told_to_the_store_and_its_job_alone():
    # Not those that ended, as of a release before.
    running = ("--field-selector", "status.phase!=Failed,status.phase!=Succeeded", "-o", "json")
    found = json.loads(kubectl("get", "pods", "-l", f"app.kubernetes.io/instance={RELEASE}", *running))["items"]
    told = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for pod in found
        for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ()))
        for entry in container.get("env", ())
        if entry.get("valueFrom", {}).get("secretKeyRef", {}).get("name") == f"{RELEASE}-minio"
    }
    assert told <= {"minio", "minio-buckets", "minio-test"}
    assert "minio" in told
