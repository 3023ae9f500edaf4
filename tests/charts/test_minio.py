"""charts/minio: the store, its buckets, and the check that `helm test` runs, against a real S3 server."""

import base64
import os
import subprocess
import sys
from typing import Any

import boto3
import pytest

from mlops.cli import parser
from mlops.config import S3Settings
from tests.charts.conftest import ROOT, Object, Refused, containers, environment, find, render
from tests.conftest import ACCESS_KEY, SECRET_KEY

EXTERNAL = {"s3": {"external": {"enabled": True}, "existingSecret": "ours"}}


def minio(values: dict[str, Any] | None = None, **shared: Any) -> list[Object]:
    return render("minio", {**(values or {}), "global": shared})


def job(objects: list[Object]) -> Object:
    (found,) = (entry for entry in objects if entry["kind"] == "Job")
    return found


def container(objects: list[Object], name: str) -> Object:
    (found,) = (each for each in containers(job(objects)["spec"]["template"]["spec"]) if each["name"] == name)
    return found


def buckets_container(objects: list[Object]) -> Object:
    return container(objects, "buckets")


def users_of(objects: list[Object]) -> dict[str, tuple[str, str]]:
    """By the paths of the files that the Job of the users reads: the Secret and the key that each is of."""
    (volume,) = (v for v in job(objects)["spec"]["template"]["spec"]["volumes"] if v["name"] == "users")
    return {
        item["path"]: (source["secret"]["name"], item["key"])
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }


def test_the_job_creates_every_bucket_by_a_command_that_there_is() -> None:
    args = buckets_container(minio(buckets={"data": "ours", "feast": "extra", "logs": "ours"}))["args"]
    assert args[:3] == ["python", "-m", "mlops"]
    options = parser().parse_args(args[3:])
    assert (options.group, options.command) == ("ingestion", "buckets")
    assert options.names == ["backups", "extra", "mlflow", "ours", "predictions", "reports"]


def test_the_job_is_told_all_that_its_command_reads() -> None:
    told = {
        name: value if isinstance(value, str) else "x"
        for name, value in environment(buckets_container(minio())).items()
    }
    settings = S3Settings.from_environment(told)
    assert settings.endpoint == "http://maestro-minio:9000"


def test_the_job_waits_for_no_secret_but_the_stores_own() -> None:
    sources = [value for value in environment(buckets_container(minio())).values() if isinstance(value, dict)]
    secrets = {source["secretKeyRef"]["name"] for source in sources if "secretKeyRef" in source}
    assert secrets == {"maestro-minio"}


def test_a_job_that_changes_is_another_object_and_one_that_does_not_stays() -> None:
    def name(objects: list[Object]) -> str:
        return job(objects)["metadata"]["name"]

    same = name(minio())
    assert name(minio({"resources": {"limits": {"memory": "2Gi"}}})) == same
    assert name(minio(buckets={"data": "other"})) != same
    assert name(minio(images={"tags": {"task": "2"}})) != same
    assert name(minio({"nodeSelector": {"disk": "fast"}})) != same


def test_for_an_external_store_nothing_is_rendered_unless_its_buckets_are_asked_for() -> None:
    assert minio(**EXTERNAL) == []
    objects = minio({"createExternalBuckets": True}, **EXTERNAL)
    assert {entry["kind"] for entry in objects} == {"Job", "NetworkPolicy", "Pod"}
    assert environment(buckets_container(objects))["AWS_ENDPOINT_URL_S3"] == "https://s3.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"global": {"s3": {"external": {"enabled": True}}}}, "set global.s3.existingSecret"),
        ({"global": {"s3": {"external": {"endpoint": "https://s3.x"}}}}, "set global.s3.external.enabled to true"),
        ({"createExternalBuckets": True}, "set it to false"),
        ({"global": {"s3": {"external": {"endpoint": "s3.x"}}}}, "endpoint"),
        ({"global": {"buckets": {"data": "My_Bucket"}}}, "data"),
        ({"global": {"s3": {"users": {"somebody": {"existingSecret": "ours"}}}}}, "somebody"),
    ],
)
def test_values_that_cannot_work_are_refused_with_the_remedy(values: dict[str, Any], remedy: str) -> None:
    with pytest.raises(Refused, match=remedy):
        render("minio", values)


def test_an_existing_secret_takes_the_place_of_the_charts_own() -> None:
    objects = minio(s3={"existingSecret": "ours"})
    secrets = {entry["metadata"]["name"] for entry in objects if entry["kind"] == "Secret"}
    assert secrets == {f"maestro-minio-{user}" for user in USERS}
    (server,) = find(objects, "StatefulSet", "maestro-minio")["spec"]["template"]["spec"]["containers"]
    told = environment(server)
    assert told["MINIO_ROOT_USER"]["secretKeyRef"] == {"name": "ours", "key": "root-user"}
    assert told["MINIO_ROOT_PASSWORD"]["secretKeyRef"] == {"name": "ours", "key": "root-password"}


USERS = ("airflow", "backups", "features", "feast", "mlflow", "serving", "tasks")


def grants(objects: list[Object]) -> set[tuple[str, str, str]]:
    args = container(objects, "users")["args"]
    assert args[:3] == ["python", "-m", "mlops"]
    options = parser().parse_args(args[3:])
    assert (options.group, options.command) == ("ingestion", "users")
    return {(grant.user, grant.access, grant.bucket) for grant in options.grants}


def test_each_user_may_open_the_buckets_of_its_work_and_no_other() -> None:
    assert grants(minio(buckets={"data": "raw"})) == {
        ("airflow", "write", "logs"),
        ("airflow", "read", "reports"),
        ("airflow", "read", "raw"),
        ("mlflow", "write", "mlflow"),
        ("feast", "read", "feast"),
        ("serving", "write", "predictions"),
        ("tasks", "read", "predictions"),
        ("tasks", "write", "raw"),
        ("tasks", "write", "reports"),
        ("features", "write", "raw"),
        ("features", "write", "reports"),
        ("features", "write", "feast"),
        ("backups", "write", "backups"),
    }


def test_each_user_has_random_keys_of_its_own_where_the_job_looks_for_them() -> None:
    objects = minio()
    (mount,) = (m for m in container(objects, "users")["volumeMounts"] if m["name"] == "users")
    assert f"--folder={mount['mountPath']}" in container(objects, "users")["args"]
    files, seen = users_of(objects), set()
    assert set(files) == {f"{user}/{key}" for user in USERS for key in ("access-key", "secret-key")}
    for path, (secret, key) in files.items():
        assert secret == f"maestro-minio-{path.partition('/')[0]}"
        value = base64.b64decode(find(objects, "Secret", secret)["data"][key])
        assert len(value) == {"access-key": 20, "secret-key": 40}[key], "what MinIO takes"
        seen.add(value)
    assert len(seen) == 2 * len(USERS)


def test_an_existing_secret_of_a_user_takes_the_place_of_the_charts_own() -> None:
    objects = minio(s3={"users": {"tasks": {"existingSecret": "ours"}}})
    assert "maestro-minio-tasks" not in {entry["metadata"]["name"] for entry in objects}
    assert users_of(objects)["tasks/secret-key"] == ("ours", "secret-key")
    assert users_of(objects)["mlflow/secret-key"] == ("maestro-minio-mlflow", "secret-key")


def test_users_of_an_external_store_are_made_there() -> None:
    objects = minio({"createExternalBuckets": True}, **EXTERNAL)
    assert {entry["metadata"]["labels"]["component"] for entry in objects} == {"minio-buckets", "minio-test"}


def test_an_external_store_may_have_a_secret_for_each_user_and_none_for_all() -> None:
    users = {user: {"existingSecret": f"s3-{user}"} for user in USERS}
    assert minio(s3={"external": {"enabled": True}, "users": users}) == []
    with pytest.raises(Refused, match=r"for each of global\.s3\.users"):
        minio(s3={"external": {"enabled": True}, "users": {**users, "feast": {"existingSecret": ""}}})


def test_the_claim_has_nothing_that_an_upgrade_of_the_chart_would_change() -> None:
    spec = find(minio(), "StatefulSet", "maestro-minio")["spec"]
    assert spec["volumeClaimTemplates"][0]["metadata"]["labels"] == spec["selector"]["matchLabels"]


def test_prometheus_finds_metrics_that_need_no_token() -> None:
    template = find(minio(), "StatefulSet", "maestro-minio")["spec"]["template"]
    (server,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["api"])
    assert environment(server)["MINIO_PROMETHEUS_AUTH_TYPE"] == "public"


def check_store(endpoint: str, buckets: str, secret_key: str = SECRET_KEY) -> "subprocess.CompletedProcess[str]":
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": secret_key, "AWS_DEFAULT_REGION": "us-east-1"}
    return subprocess.run(
        [sys.executable, ROOT / "charts/minio/files/check-store.py"],
        env={**os.environ, **keys, "AWS_ENDPOINT_URL_S3": endpoint, "CHECK_BUCKETS": buckets},
        capture_output=True,
        text=True,
    )


def test_the_check_passes_on_a_store_that_works_and_leaves_nothing(s3_endpoint: str) -> None:
    store = boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
    )
    for bucket in ("check-one", "check-two"):
        store.create_bucket(Bucket=bucket)
    result = check_store(s3_endpoint, "check-one,check-two")
    assert result.returncode == 0, result.stderr
    assert "check-one" in result.stdout
    assert "check-two" in result.stdout
    assert store.list_objects_v2(Bucket="check-two")["KeyCount"] == 0


def test_the_check_fails_on_a_store_that_does_not_know_the_keys(s3_endpoint: str) -> None:
    result = check_store(s3_endpoint, "check-one", secret_key="wrong")
    assert result.returncode != 0
    assert "SignatureDoesNotMatch" in result.stderr
