"""The S3 buckets: tables as Parquet, everything else as bytes."""

from __future__ import annotations

import hashlib
import io
import json
import mimetypes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from mlops.config import S3Settings
from mlops.result import JSON, Failure

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd
    import polars as pl

_ROW_GROUP = 1 << 17  # rows: what a reader holds of a table, and leaves out, at a time
_FACTS = "PANDAS_ATTRS"  # where pandas keeps a table's `attrs`, so that both read what either wrote
_OURS = "maestro-"  # how the ids of lifecycle rules begin that are ours
_DIGEST = "sha256"  # metadata of an object: the digest of its content
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "403"}


class Entry(NamedTuple):
    """An object; version: another one for each content."""

    key: str
    version: str


class ObjectStore:
    """One bucket. Each method raises Failure where the store is away, refuses, or has no such thing."""

    def __init__(self, settings: S3Settings, bucket: str) -> None:
        self.bucket = bucket
        self._settings = settings
        self._endpoint = settings.endpoint
        self._client = _client(settings)

    def read_bytes(self, key: str) -> bytes:
        with self._explained(key):
            content: bytes = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def write_bytes(self, key: str, content: bytes, *, digest: str | None = None) -> None:
        """Puts an object in one step: a reader sees the old content or the new, never half of it."""
        with self._explained(key):
            self._client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=content,
                ContentType=mimetypes.guess_type(key)[0] or "application/octet-stream",
                Metadata={_DIGEST: digest} if digest else {},
            )

    def find_bytes(self, key: str) -> bytes | None:
        """The object's content; None where there is no such object."""
        from botocore.exceptions import ClientError

        with self._explained(key):
            try:
                content: bytes = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("NoSuchKey", "404"):
                    raise
                return None
        return content

    def write_new(self, key: str, content: bytes | BinaryIO) -> bool:
        """Writes the object unless it is there; of several writers at once, one is told that it did.

        content: at most 5 GiB, which S3 takes by one request.
        """
        from botocore.exceptions import ClientError

        with self._explained(key):
            try:
                self._client.put_object(Bucket=self.bucket, Key=key, Body=content, IfNoneMatch="*")
            except ClientError as error:
                # A lost race is answered by 409 at AWS, by 412 elsewhere.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (409, 412):
                    raise
                return False
        return True

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with the prefix, sorted."""
        return [entry.key for entry in self.entries(prefix)]

    def entries(self, prefix: str) -> list[Entry]:
        """The objects whose keys begin with the prefix, sorted by key."""
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            found = [Entry(each["Key"], each["ETag"].strip('"')) for page in pages for each in page.get("Contents", ())]
        return sorted(found)

    def written(self, prefix: str) -> dict[str, datetime]:
        """When each object whose key begins with the prefix was written."""
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return {each["Key"]: each["LastModified"] for page in pages for each in page.get("Contents", ())}

    def remove(self, keys: Sequence[str]) -> None:
        """Removes objects, a thousand by a request; those that are not there are no error."""
        with self._explained():
            for start in range(0, len(keys), 1000):
                named = [{"Key": key} for key in keys[start : start + 1000]]
                answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": named, "Quiet": True})
                for fault in answer.get("Errors", ()):
                    raise Failure(f"{self._endpoint} does not remove {self._address(fault['Key'])} ({fault['Code']})")

    def download(self, key: str, path: Path) -> str:
        """Copies an object to a file by one request, so that all of it is of one version; gives its SHA-256."""
        digest = hashlib.sha256()
        with self._explained(key), path.open("wb") as target:
            body = self._client.get_object(Bucket=self.bucket, Key=key)["Body"]
            for part in body.iter_chunks(1 << 20):
                digest.update(part)
                target.write(part)
        return digest.hexdigest()

    def upload(self, path: Path, key: str, *, digest: str | None = None) -> None:
        """Copies a file to an object, in parts and yet in one step, as `write_bytes` does."""
        from boto3.exceptions import S3UploadFailedError

        options = {"ContentType": mimetypes.guess_type(key)[0] or "application/octet-stream"}
        with self._explained(key):
            try:
                self._client.upload_file(
                    str(path),
                    self.bucket,
                    key,
                    ExtraArgs={**options, "Metadata": {_DIGEST: digest} if digest else {}},
                )
            except S3UploadFailedError as error:
                if error.__cause__ is None:
                    raise
                raise error.__cause__ from error

    def scan(self, key: str) -> pl.LazyFrame:
        """The rows of a table, read where they are asked for: of the columns and row groups that a query needs.

        Once looked at, an object is to stay as it is: `write` and a task's own key see to that.
        """
        with self._explained(key):
            self._client.head_object(Bucket=self.bucket, Key=key)
        return self._scan([key])

    def scan_parts(self, prefix: str) -> pl.LazyFrame:
        """The rows of all tables whose keys begin with the prefix, of one schema, as `scan` reads those of one."""
        return self.scan_folders([prefix])

    def scan_folders(self, prefixes: Sequence[str]) -> pl.LazyFrame:
        """The same of several prefixes, of which some may have no table."""
        keys = [key for prefix in prefixes for key in self.keys(prefix) if key.endswith(".parquet")]
        if not keys:
            where = " to ".join(dict.fromkeys(self._address(prefixes[place]) for place in (0, -1)))
            raise Failure(f"no table in {where} at {self._endpoint}: run the step that writes it")
        return self._scan(keys)

    def _scan(self, keys: Sequence[str]) -> pl.LazyFrame:
        import polars as pl

        rows = pl.scan_parquet(
            [self._address(key) for key in keys],
            glob=False,
            hive_partitioning=False,
            credential_provider=None,
            storage_options=_polars_options(self._settings),
        )
        try:
            rows.collect_schema()
        except pl.exceptions.ComputeError as error:
            raise Failure(f"{self._address(keys[0])} is not a Parquet table: clear the task that wrote it") from error
        return rows

    def facts(self, key: str) -> dict[str, JSON]:
        """What a table says of itself beside its rows, as `write` was told."""
        import polars as pl

        with self._explained(key):
            self._client.head_object(Bucket=self.bucket, Key=key)
        said = pl.read_parquet_metadata(
            self._address(key), credential_provider=None, storage_options=_polars_options(self._settings)
        )
        facts: dict[str, JSON] = json.loads(said.get(_FACTS, "{}"))
        return facts

    def write(self, key: str, rows: pl.LazyFrame, facts: Mapping[str, JSON] | None = None) -> None:
        """Writes rows as a table, a row group at a time, and in one step for who reads it.

        facts: what the table says of itself, kept beside its columns.
        """
        with NamedTemporaryFile(suffix=".parquet") as file:
            rows.sink_parquet(
                file.name,
                row_group_size=_ROW_GROUP,
                metadata={_FACTS: json.dumps(dict(facts or {}))},
                engine="streaming",
            )
            self.upload(Path(file.name), key)

    def write_new_table(
        self, key: str, parts: Iterable[pl.DataFrame], facts: Callable[[], Mapping[str, JSON]] = dict
    ) -> bool:
        """Writes the parts as one table, a row group each, unless it is there; says whether it did.

        parts: of one schema, one at least, of which one is held at a time. facts: asked for when all of them are
        written.
        """
        from pyarrow import parquet

        with NamedTemporaryFile(suffix=".parquet") as file:
            writer = None
            for part in parts:
                table = part.to_arrow()
                writer = writer or parquet.ParquetWriter(file.name, table.schema, compression="zstd")
                writer.write_table(table)
            if writer is None:
                raise ValueError(f"{key} would be a table without columns")
            writer.add_key_value_metadata({_FACTS: json.dumps(dict(facts()))})
            writer.close()
            with Path(file.name).open("rb") as content:
                return self.write_new(key, content)

    def copy(self, source: str, target: str) -> None:
        """Copies an object within the store: none of it passes through this pod."""
        with self._explained(source):
            self._client.copy({"Bucket": self.bucket, "Key": source}, self.bucket, target)

    def exists(self, key: str) -> bool:
        return self._head(key) is not None

    def keep_newest(self, prefix: str, count: int) -> None:
        """Removes all but the objects below the prefix that were written last."""
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            entries = [entry for page in pages for entry in page.get("Contents", ())]
            entries.sort(key=lambda entry: entry["LastModified"], reverse=True)
            for entry in entries[count:]:
                self._client.delete_object(Bucket=self.bucket, Key=entry["Key"])

    def read_table(self, key: str) -> pd.DataFrame:
        """All rows at once, with the facts as `attrs`: what a fit needs. Anything else scans."""
        import pandas as pd
        import pyarrow
        from pyarrow import parquet

        content = self.read_bytes(key)
        try:
            table = pd.read_parquet(io.BytesIO(content))
            table.attrs = json.loads(
                (parquet.read_metadata(io.BytesIO(content)).metadata or {}).get(_FACTS.encode(), b"{}")
            )
            return table
        except pyarrow.ArrowInvalid as error:
            raise Failure(f"{self._address(key)} is not a Parquet table: clear the task that wrote it") from error

    def write_table(self, key: str, table: pd.DataFrame) -> None:
        """Writes the table without its index."""
        content = io.BytesIO()
        table.to_parquet(content, index=False)
        self.write_bytes(key, content.getvalue())

    def digest(self, key: str) -> str | None:
        """The digest given when the object was written; None where there is no such object or no digest."""
        head = self._head(key)
        digest: str | None = None if head is None else head["Metadata"].get(_DIGEST)
        return digest

    def _head(self, key: str) -> Any:
        from botocore.exceptions import ClientError

        with self._explained(key):
            try:
                return self._client.head_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if error.response["Error"]["Code"] != "404":
                    raise
                return None

    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is no error."""
        with self._explained(key):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def upload_folder(self, folder: Path, prefix: str) -> None:
        """Writes each file below `folder` to the same place below `prefix`."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.write_bytes(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def ensure(self) -> bool:
        """Creates the bucket unless it is there; says whether it was created."""
        from botocore.exceptions import ClientError

        with self._explained():
            try:
                self._client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] != "404":
                    raise
                self._client.create_bucket(Bucket=self.bucket)
                return True
        return False

    def rule(self, expire: int | None, versions: int | None) -> None:
        """Has the store remove objects that are so many days old, and keep what was overwritten or removed for so many.

        None: it does not. Rules that others have set stay; once a bucket keeps versions, it goes on doing so.
        """
        ours: list[dict[str, Any]] = []
        if expire:
            ours.append({"ID": f"{_OURS}expire", "Expiration": {"Days": expire}})
        if versions:
            ours.append(
                {"ID": f"{_OURS}versions", "NoncurrentVersionExpiration": {"NoncurrentDays": versions}},
            )
        ours = [{**each, "Status": "Enabled", "Filter": {"Prefix": ""}} for each in ours]
        with self._explained():
            if versions:
                self._client.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})
            there = self._rules()
            rules = [*ours, *(each for each in there if not each.get("ID", "").startswith(_OURS))]
            if rules:
                self._client.put_bucket_lifecycle_configuration(
                    Bucket=self.bucket, LifecycleConfiguration={"Rules": rules}
                )
            elif there:
                self._client.delete_bucket_lifecycle(Bucket=self.bucket)

    def _rules(self) -> list[Any]:
        from botocore.exceptions import ClientError

        try:
            found: list[Any] = self._client.get_bucket_lifecycle_configuration(Bucket=self.bucket)["Rules"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
                raise
            return []
        return found

    def _address(self, key: str | None = None) -> str:
        return f"s3://{self.bucket}/{key}" if key else f"bucket {self.bucket!r}"

    @contextmanager
    def _explained(self, key: str | None = None) -> Iterator[None]:
        """Turns what the client raises into a Failure that names the object, the endpoint, and the remedy."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "NoSuchBucket":
                remedy = "create it with 'python -m mlops ingestion buckets' or correct global.buckets"
                raise Failure(f"bucket {self.bucket!r} not found at {self._endpoint}: {remedy}") from error
            if code in ("NoSuchKey", "404"):
                remedy = "run the step that writes it, or 'make data' for a dataset's file"
                raise Failure(f"{self._address(key)} not found at {self._endpoint}: {remedy}") from error
            if code in _REFUSED:
                remedy = "check the keys in the Secret of this user in global.s3.users, and what the user may do"
                raise Failure(f"{self._endpoint} refuses {self._address(key)} ({code}): {remedy}") from error
            raise Failure(f"{self._endpoint} failed on {self._address(key)}: {error}") from error
        except BotoCoreError as error:
            remedy = "check that the store runs and that global.services.minio or global.s3.external names it"
            raise Failure(f"no answer from {self._endpoint} for {self._address(key)} ({error}): {remedy}") from error


def data_bucket() -> ObjectStore:
    """The bucket of raw data, and of what the steps of a DAG run hand to each other."""
    settings = S3Settings.from_environment()
    return ObjectStore(settings, settings.data_bucket)


def reports_bucket() -> ObjectStore:
    """The bucket of pages for people."""
    settings = S3Settings.from_environment()
    return ObjectStore(settings, settings.reports_bucket)


def predictions_bucket() -> ObjectStore:
    """The bucket of what model servers predicted."""
    settings = S3Settings.from_environment()
    return ObjectStore(settings, settings.predictions_bucket)


def bucket(name: str) -> ObjectStore:
    """Any bucket of the platform's store."""
    return ObjectStore(S3Settings.from_environment(), name)


def _polars_options(settings: S3Settings) -> dict[str, str]:
    return {
        "aws_endpoint_url_s3": settings.endpoint,  # of all its names the only one before that in the environment
        "aws_region": settings.region,
        "aws_access_key_id": settings.access_key,
        "aws_secret_access_key": settings.secret_key,
        "aws_allow_http": "true",
        "aws_virtual_hosted_style_request": "false",
    }


def _client(settings: S3Settings) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        config=Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 5},
            # A bucket is a host name only at AWS; and not every other store knows the newer checksums.
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
