"""Users of MinIO and what each may do. An S3 elsewhere has users of its own, which are made there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from mlops.result import Failure

if TYPE_CHECKING:
    from mlops.config import S3Settings

# A policy of this name belongs to the platform, and so does every user who has it.
_POLICY = "maestro-{user}"
_OF_BUCKETS = {
    "read": ("s3:GetBucketLocation", "s3:ListBucket"),
    "write": ("s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"),
}
_OF_OBJECTS = {
    "read": ("s3:GetObject",),
    "write": (
        "s3:AbortMultipartUpload",
        "s3:DeleteObject",
        "s3:GetObject",
        "s3:ListMultipartUploadParts",
        "s3:PutObject",
    ),
}


class Keys(NamedTuple):
    """By what a user is known; the secret key has 8 characters at least."""

    access_key: str
    secret_key: str


class Grant(NamedTuple):
    """That a user may read a bucket, or read it and write to it."""

    user: str
    access: Literal["read", "write"]
    bucket: str


class StoreUsers:
    """The users of a MinIO. Each method raises Failure where it is away or refuses."""

    def __init__(self, settings: S3Settings) -> None:
        """settings: with the keys of MinIO's root user, whom all of this is left to."""
        self._endpoint = settings.endpoint
        self._admin = _admin(settings)

    def make(self, users: Mapping[str, Keys], grants: Sequence[Grant]) -> None:
        """Makes each user so that it has these keys and may do what the grants say, and removes its earlier keys.

        users: by the names that grants call them. Users whom the platform has not made stay as they are.
        """
        with self._explained():
            for name, keys in users.items():
                policy = _POLICY.format(user=name)
                self._admin.policy_add(policy, policy=policy_of(grant for grant in grants if grant.user == name))
                self._admin.user_add(*keys)
                self._admin.policy_set(policy, user=keys.access_key)
            for access_key in self._of_the_platform(users) - {keys.access_key for keys in users.values()}:
                self._admin.user_remove(access_key)

    def _of_the_platform(self, names: Iterable[str]) -> set[str]:
        """The access keys of the users who have a policy of these names."""
        policies = {_POLICY.format(user=name) for name in names}
        found: dict[str, dict[str, Any]] = json.loads(self._admin.user_list())
        return {key for key, user in found.items() if user.get("policyName") in policies}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from minio.error import MinioAdminException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except MinioAdminException as error:
            remedy = "check that the keys are those of MinIO's root user, in the Secret of global.s3.existingSecret"
            raise Failure(f"{self._endpoint} does not let its users be made ({error}): {remedy}") from error
        except HTTPError as error:
            remedy = "check that MinIO runs and that global.services.minio names it"
            raise Failure(f"no answer from {self._endpoint} ({error}): {remedy}") from error


def policy_of(grants: Iterable[Grant]) -> dict[str, Any]:
    """The policy document of one user's grants. A user may not change itself either, nor make keys of its own."""
    statements = []
    for grant in grants:
        bucket = f"arn:aws:s3:::{grant.bucket}"
        statements += [
            {"Effect": "Allow", "Action": list(_OF_BUCKETS[grant.access]), "Resource": [bucket]},
            {"Effect": "Allow", "Action": list(_OF_OBJECTS[grant.access]), "Resource": [f"{bucket}/*"]},
        ]
    return {"Version": "2012-10-17", "Statement": [*statements, {"Effect": "Deny", "Action": ["admin:*"]}]}


def _admin(settings: S3Settings) -> Any:
    from minio import MinioAdmin
    from minio.credentials.providers import StaticProvider
    from urllib3 import PoolManager, Retry, Timeout

    address = urlsplit(settings.endpoint)
    return MinioAdmin(
        endpoint=address.netloc,
        secure=address.scheme == "https",
        credentials=StaticProvider(settings.access_key, settings.secret_key),
        region=settings.region,
        http_client=PoolManager(timeout=Timeout(connect=5, read=60), retries=Retry(total=2, backoff_factor=0.2)),
    )
