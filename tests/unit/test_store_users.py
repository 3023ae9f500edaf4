"""The users of the store: each opens the buckets of its grants and nothing else, whatever was there before."""

import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from mlops.config import S3Settings
from mlops.result import EXIT_REFUSED, Failure
from mlops.stores.store_users import Grant, Keys, StoreUsers, policy_of
from tests.servers import ACCESS_KEY, REGION, SECRET_KEY

# Of this process: other tests have users and buckets in the same store.
READS, WRITES, FOREIGN, TASKS = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("reads", "writes", "foreign", "tasks"))


@pytest.fixture
def store(s3_endpoint: str) -> S3Settings:
    """MinIO with three buckets of one object each."""
    settings = S3Settings(s3_endpoint, ACCESS_KEY, SECRET_KEY)
    root = opened(settings, Keys(ACCESS_KEY, SECRET_KEY))
    for bucket in (READS, WRITES, FOREIGN):
        if bucket in {entry["Name"] for entry in root.list_buckets()["Buckets"]}:
            for entry in root.list_objects_v2(Bucket=bucket).get("Contents", []):
                root.delete_object(Bucket=bucket, Key=entry["Key"])
        else:
            root.create_bucket(Bucket=bucket)
        root.put_object(Bucket=bucket, Key="key", Body=b"content")
    return settings


def opened(settings: S3Settings, keys: Keys) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=settings.endpoint,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        region_name=REGION,
        config=Config(retries={"total_max_attempts": 1}),
    )


def keys() -> Keys:
    return Keys(uuid.uuid4().hex[:20], uuid.uuid4().hex)


def grants(user: str) -> list[Grant]:
    return [Grant(user, "read", READS), Grant(user, "write", WRITES)]


def written(keys: Keys, folder: Path) -> None:
    """As the Job's volume holds the Secret of a user."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in zip(("access-key", "secret-key"), keys, strict=True):
        (folder / file).write_text(text)


def refusal(code: str) -> Any:
    return pytest.raises(ClientError, match=code)


def test_a_user_reads_and_writes_where_it_was_granted_and_nowhere_else(store):
    of_user = keys()
    StoreUsers(store).make({TASKS: of_user}, [*grants(TASKS), Grant("others", "write", FOREIGN)])
    client = opened(store, of_user)

    assert client.get_object(Bucket=READS, Key="key")["Body"].read() == b"content"
    assert client.list_objects_v2(Bucket=READS)["KeyCount"] == 1
    client.head_bucket(Bucket=READS)
    for change in (
        lambda: client.put_object(Bucket=READS, Key="new"),
        lambda: client.delete_object(Bucket=READS, Key="key"),
    ):
        with refusal("AccessDenied"):
            change()

    client.put_object(Bucket=WRITES, Key="new", Body=b"content", IfNoneMatch="*")
    client.copy_object(Bucket=WRITES, Key="copy", CopySource=f"{READS}/key")
    upload = client.create_multipart_upload(Bucket=WRITES, Key="parts")["UploadId"]
    client.upload_part(Bucket=WRITES, Key="parts", UploadId=upload, PartNumber=1, Body=b"part")
    client.list_parts(Bucket=WRITES, Key="parts", UploadId=upload)
    client.abort_multipart_upload(Bucket=WRITES, Key="parts", UploadId=upload)
    client.delete_objects(Bucket=WRITES, Delete={"Objects": [{"Key": "key"}]})
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=WRITES)["Contents"]] == ["copy", "new"]

    for opens in (
        lambda: client.get_object(Bucket=FOREIGN, Key="key"),
        lambda: client.put_object(Bucket=FOREIGN, Key="new"),
        lambda: client.delete_object(Bucket=FOREIGN, Key="key"),
        lambda: client.list_objects_v2(Bucket=FOREIGN),
        lambda: client.copy_object(Bucket=WRITES, Key="stolen", CopySource=f"{FOREIGN}/key"),
        lambda: client.create_bucket(Bucket="another"),
        lambda: client.delete_bucket(Bucket=WRITES),
        lambda: client.put_bucket_policy(Bucket=WRITES, Policy="{}"),
    ):
        with refusal("AccessDenied"):
            opens()
    assert {bucket["Name"] for bucket in client.list_buckets()["Buckets"]} == {READS, WRITES}


def test_a_user_does_not_administer_itself_or_anybody(store):
    of_user = keys()
    StoreUsers(store).make({TASKS: of_user}, grants(TASKS))
    own = StoreUsers(S3Settings(store.endpoint, *of_user))
    with pytest.raises(Failure, match="does not let its users be made"):
        own.make({TASKS: of_user}, [Grant(TASKS, "write", FOREIGN)])
    for ask in (
        lambda: own._admin.user_add(of_user.access_key, "another secret"),
        lambda: own._admin.add_service_account(name="another", access_key="another-key", secret_key="another secret"),
        lambda: own._admin.user_list(),
    ):
        with pytest.raises(Exception, match="AccessDenied"):
            ask()


def test_what_is_set_again_stays_and_what_changed_takes_the_place_of_what_was(store):
    before, after, users = keys(), keys(), StoreUsers(store)
    for _ in range(2):
        users.make({TASKS: before}, grants(TASKS))
    opened(store, before).get_object(Bucket=READS, Key="key")

    users.make({TASKS: after}, [Grant(TASKS, "read", FOREIGN)])
    opened(store, after).get_object(Bucket=FOREIGN, Key="key")
    with refusal("AccessDenied"):
        opened(store, after).get_object(Bucket=READS, Key="key")
    with refusal("InvalidAccessKeyId"):
        opened(store, before).get_object(Bucket=READS, Key="key")

    users.make({TASKS: Keys(after.access_key, "another secret")}, grants(TASKS))
    with refusal("SignatureDoesNotMatch"):
        opened(store, after).get_object(Bucket=READS, Key="key")


def test_users_whom_somebody_else_has_made_stay(store):
    theirs, users = keys(), StoreUsers(store)
    users._admin.user_add(*theirs)
    users._admin.policy_set("readonly", user=theirs.access_key)
    users.make({TASKS: keys()}, grants(TASKS))
    opened(store, theirs).get_object(Bucket=FOREIGN, Key="key")


def test_a_user_without_a_grant_may_do_nothing():
    assert policy_of([])["Statement"] == [{"Effect": "Deny", "Action": ["admin:*"]}]


def test_the_command_makes_each_user_with_the_keys_in_its_folder(platform, tmp_path):
    name, of_user = f"user-{uuid.uuid4().hex}", keys()
    written(of_user, tmp_path / name)
    bucket = platform.s3.data_bucket
    options = ("--folder", str(tmp_path), "--grant", f"{name}:write:{bucket}", "--grant", f"{name}:read:{bucket}x")
    assert platform.result_of("ingestion", "users", *options) == {name: [f"write {bucket}", f"read {bucket}x"]}
    opened(platform.s3, of_user).put_object(Bucket=bucket, Key="key", Body=b"content")


def test_a_user_whose_keys_are_not_there_is_refused_with_the_remedy(platform, tmp_path):
    options = ("--folder", str(tmp_path), "--grant", "nobody:read:data")
    cause = platform.failure_of("ingestion", "users", *options, code=EXIT_REFUSED)
    assert f"{tmp_path}/nobody/access-key cannot be read" in cause
    assert "mount the Secret of the user nobody" in cause


def test_two_users_do_not_share_an_access_key_of_which_one_policy_would_count(platform, tmp_path):
    for name in ("one", "two"):
        written(Keys("same", "a secret key"), tmp_path / name)
    options = ("--folder", str(tmp_path), "--grant", "one:read:data", "--grant", "two:read:data")
    cause = platform.failure_of("ingestion", "users", *options, code=EXIT_REFUSED)
    assert "two of the users one, two have one access key" in cause


def test_a_store_that_is_away_is_named_with_the_remedy(tmp_path):
    users = StoreUsers(S3Settings("http://127.0.0.1:1", ACCESS_KEY, SECRET_KEY))
    with pytest.raises(Failure, match=r"no answer from http://127\.0\.0\.1:1 .*global\.services\.minio"):
        users.make({TASKS: keys()}, grants(TASKS))
