"""`make rotate`: what stores are told, by real ones; who starts anew; and that charts and tool agree on their label."""

import base64
import itertools
import json
import subprocess
from typing import Any

import psycopg2
import pytest
import redis
from cryptography.fernet import Fernet, MultiFernet

from infrastructure import rotate
from infrastructure.release import NotInstalled
from infrastructure.rotate import ROTATIONS, Change, Rotation
from tests.servers import PASSWORD, PostgreSQL, Redis, execute, new_database, shared

Object = dict[str, Any]
KEEP = {"helm.sh/resource-policy": "keep"}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Cluster:
    """What kubectl would act on: Secrets and workloads, and in which order what was done to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.jobs: list[Object] = []
        self.secret: Object = {
            "metadata": {"name": "maestro-redis", "annotations": dict(KEEP)},
            "data": {"redis-password": encoded("before")},
        }
        self.workloads = [
            workload("StatefulSet", "redis", ("maestro-redis", "redis-password")),
            workload("Deployment", "feast", ("maestro-redis", "redis-password")),
            workload("Deployment", "mlflow", ("maestro-postgresql", "mlflow-password")),
        ]
        monkeypatch.setattr(rotate, "kubectl", self.kubectl)
        monkeypatch.setattr(rotate, "find", lambda *_: self.secret)
        monkeypatch.setattr(rotate, "object_name", lambda kind, component: f"{kind}/maestro-{component}")

    @property
    def value(self) -> str:
        (value,) = self.secret["data"].values()
        return base64.b64decode(value).decode()

    def kubectl(self, *arguments: str, stdin: str | None = None, **_: Any) -> str:
        match arguments:
            case ("get", "deployments,statefulsets", *_):
                return json.dumps({"items": self.workloads})
            case ("get", "job", *_):
                return json.dumps({"items": self.jobs})
            case ("create", *_):
                self.done.append(json.loads(stdin or "")["metadata"]["generateName"])
                return json.dumps({"metadata": {"name": "made"}})
            case ("get", "secrets", *_):
                return json.dumps({"items": [self.secret]})
            case ("patch", "secret", *_):
                patch = json.loads(stdin or "")
                self.secret["data"] |= patch["data"]
                self.secret["metadata"]["annotations"] |= patch["metadata"]["annotations"]
                self.done.append("secret")
            case ("patch", kind, name, *_):
                self.done.append(f"{kind}/{name}")
            case ("exec", "-i", where, *_):
                self.done.append(f"exec {where}")
                self.told = stdin
                return "OK\n"
        for argument in arguments:
            assert self.value not in argument, "a password is an argument"
        return ""


def workload(kind: str, component: str, *read: tuple[str, str]) -> Object:
    env = [{"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}} for name, key in read]
    return {
        "kind": kind,
        "metadata": {"name": f"maestro-{component}", "labels": {"app.kubernetes.io/component": component}},
        "spec": {"template": {"spec": {"containers": [{"name": "main", "env": env}]}}},
    }


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def test_the_store_knows_both_then_readers_start_anew_and_the_store_last(cluster: Cluster) -> None:
    rotate.rotate("redis")
    assert cluster.done == [
        "exec statefulset/maestro-redis",
        "secret",
        "deployment/maestro-feast",
        "statefulset/maestro-redis",
    ]
    assert cluster.value != "before"
    assert cluster.told == f"ACL SETUSER default >{cluster.value}\n"


def test_who_reads_another_key_or_secret_goes_on(cluster: Cluster) -> None:
    rotate.rotate("redis")
    assert "deployment/maestro-mlflow" not in cluster.done


def test_a_secret_of_ones_own_is_refused_before_anything_is_changed(cluster: Cluster) -> None:
    cluster.secret["metadata"]["annotations"] = {}
    with pytest.raises(NotInstalled, match="yours"):
        rotate.rotate("redis")
    assert cluster.done == []


def test_a_name_that_is_not_known_is_answered_with_those_that_are() -> None:
    with pytest.raises(NotInstalled, match=r"airflow-fernet, .*redis"):
        rotate.rotate("passwords")


def test_nothing_secret_is_printed(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    rotate.rotate("redis")
    printed = capsys.readouterr()
    assert "before" not in printed.out + printed.err
    assert cluster.value not in printed.out + printed.err


def test_a_store_that_is_told_while_it_runs_goes_on(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.secret = {
        "metadata": {"name": "maestro-postgresql", "annotations": dict(KEEP)},
        "data": {"mlflow-password": encoded("before")},
    }
    cluster.workloads.append(workload("StatefulSet", "postgresql", ("maestro-postgresql", "mlflow-password")))
    rotate.rotate("postgresql-mlflow")
    assert cluster.done == ["secret", "exec statefulset/maestro-postgresql", "deployment/maestro-mlflow"]


# Real stores


def test_postgresql_is_given_another_password(run_folder: Any) -> None:
    database = new_database(shared(run_folder, PostgreSQL))
    execute(database, "CREATE ROLE rotated LOGIN PASSWORD 'before'")
    try:
        with psycopg2.connect(database) as connection, connection.cursor() as cursor:
            stored = "SELECT rolpassword FROM pg_authid WHERE rolname = 'rotated'"
            cursor.execute(stored)
            before = cursor.fetchone()
            cursor.execute(rotate.alter_role_sql("rotated", rotate.password()))
            cursor.execute(stored)
            assert cursor.fetchone() != before
    finally:
        execute(database, "DROP ROLE rotated")


def test_no_password_can_be_more_than_a_password_in_a_statement() -> None:
    with pytest.raises(ValueError, match="letters and digits"):
        rotate.alter_role_sql("rotated", "'; DROP ROLE postgres; --")


def test_redis_takes_both_passwords_until_it_starts_anew(tmp_path: Any) -> None:
    with Redis(tmp_path) as server:
        new = rotate.password()
        server.client.execute_command(*rotate.redis_command("default", new).split())
        for known in (PASSWORD, new):
            assert redis.Redis(port=server.port, password=known).ping()
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=server.port, password="neither").ping()


def test_at_each_moment_of_a_rotation_each_pod_reads_what_each_other_encrypted() -> None:
    """While pods start anew, some know what the Secret held before and some what it holds."""
    change = Change("fernet-key", rotate.fernet_key(), rotate.fernet_key())
    held = [change.old, *rotate.old_and_new(change), change.new]
    pods = [MultiFernet([Fernet(key.encode()) for key in keys.split(",")]) for keys in held]
    for before, after in itertools.pairwise(pods):
        assert before.decrypt(after.encrypt(b"told")) == after.decrypt(before.encrypt(b"told")) == b"told"


def test_the_fernet_key_is_two_until_all_is_encrypted_by_the_new_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.secret = {
        "metadata": {"name": "maestro-airflow", "annotations": dict(KEEP)},
        "data": {"fernet-key": encoded("before")},
    }
    held: list[list[str]] = []
    monkeypatch.setattr(rotate, "_restart", lambda *_: held.append(cluster.value.split(",")))
    rotate.rotate("airflow-fernet")
    new = cluster.value
    assert held == [["before", new], [new, "before"], [new]]
    assert cluster.done == ["secret", "secret", "exec deployment/maestro-airflow-scheduler", "secret"]


@pytest.fixture
def store_user(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster in which a Job tells the store of a password."""
    metadata = {"name": "maestro-minio-mlflow", "annotations": dict(KEEP)}
    cluster.secret = {"metadata": metadata, "data": {"secret-key": encoded("before")}}
    cluster.workloads = []
    monkeypatch.setattr(rotate, "succeeded", lambda *_: True)
    return cluster


def job_called(name: str, created: str) -> Object:
    metadata = {"name": name, "labels": {}, "creationTimestamp": created}
    return {"metadata": metadata, "spec": {"template": {"metadata": {"labels": {}}, "spec": {}}}}


def test_where_the_job_that_tells_the_store_is_gone_nothing_is_changed(store_user: Cluster) -> None:
    with pytest.raises(NotInstalled, match="minio-buckets is gone"):
        rotate.rotate("minio-mlflow")
    assert (store_user.done, store_user.value) == ([], "before")


def test_one_that_was_run_again_and_failed_is_no_model_for_the_next(store_user: Cluster) -> None:
    store_user.jobs = [job_called("buckets-1", "2026-01-01"), job_called("buckets-1-again-x", "2026-01-02")]
    rotate.rotate("minio-mlflow")
    assert store_user.done == ["secret", "buckets-1-again-"]
    store_user.jobs = store_user.jobs[1:]
    with pytest.raises(NotInstalled, match="is gone"):
        rotate.rotate("minio-mlflow")


def test_a_job_is_made_once_more_without_what_kubernetes_wrote_into_the_first() -> None:
    owned = {"app": "setup", "batch.kubernetes.io/controller-uid": "1", "controller-uid": "1", "job-name": "a"}
    job = {
        "metadata": {"name": "a", "labels": {"app": "setup"}, "uid": "1"},
        "spec": {
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "1"}},
            "backoffLimit": 10,
            "template": {"metadata": {"labels": owned}, "spec": {"containers": []}},
        },
        "status": {"succeeded": 1},
    }
    made = rotate.another(job)
    assert made["metadata"] == {"generateName": "a-again-", "labels": {"app": "setup"}}
    assert made["spec"] == {
        "backoffLimit": 10,
        "ttlSecondsAfterFinished": 86400,
        "template": {"metadata": {"labels": {"app": "setup"}}, "spec": {"containers": []}},
    }


# The label


def test_pods_have_no_label_until_something_was_rotated() -> None:
    secret = {"metadata": {"name": "a", "annotations": dict(KEEP)}, "data": {"k": encoded("x")}}
    assert rotate.secrets_label({("a", "k")}, {"a": secret}) is None
    secret["metadata"]["annotations"]["rotated.maestro/k"] = "today"
    first = rotate.secrets_label({("a", "k"), ("a", "other")}, {"a": secret})
    assert first
    assert len(first) == 13


def test_a_secret_of_ones_own_is_another_label_where_its_value_is_another() -> None:
    def label(value: str) -> str | None:
        secret = {"metadata": {"name": "a"}, "data": {"k": encoded(value)}}
        return rotate.secrets_label({("a", "k")}, {"a": secret})

    assert label("x") == label("x") != label("y")


def test_every_rotation_makes_a_value_that_its_reader_takes() -> None:
    for name, rotation in ROTATIONS.items():
        value = rotation.make()
        assert value != rotation.make(), name
        if rotation.key == "fernet-key":
            Fernet(value.encode())
        else:
            assert value.isalnum(), name
            assert len(value) >= 32, name


def test_without_a_name_make_rotate_says_what_there_is() -> None:
    done = subprocess.run(
        ["python3", "-m", "infrastructure.rotate"], capture_output=True, text=True, env={"PATH": "/usr/bin"}
    )
    assert done.returncode == 1
    assert "use one of" in done.stderr
    assert Rotation("redis", "redis-password").last is None
