"""The store lets in who proves it: what is known of MinIO's last commit is refused, and what clients do works."""

import base64
import datetime
import http.client
import io
import tarfile
import uuid
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.servers import ACCESS_KEY, REGION, SECRET_KEY

UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SNOWBALL = {"X-Amz-Meta-Snowball-Auto-Extract": "true"}
FORGED = "0" * 64


class Answer(NamedTuple):
    status: int
    body: bytes


@pytest.fixture
def client(s3_endpoint: str) -> Any:
    """boto3's, of who has both keys of the root user."""
    return signing(s3_endpoint, "s3v4")


def signing(s3_endpoint: str, version: str) -> Any:
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": REGION}
    return boto3.client("s3", endpoint_url=s3_endpoint, config=Config(signature_version=version), **keys)


@pytest.fixture
def bucket(client: Any) -> Iterator[str]:
    name = f"guard-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=name)
    return name


def ask(method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=20)
    connection.request(method, f"{address.path}?{address.query}", body, dict(headers or {}))
    answer = connection.getresponse()
    return Answer(answer.status, answer.read())


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")


def scope(moment: str) -> str:
    return f"{ACCESS_KEY}/{moment[:8]}/{REGION}/s3/aws4_request"


def in_header(**headers: str) -> dict[str, str]:
    """A request's headers of who knows the access key and makes the signature up."""
    moment = now()
    named = ";".join(sorted({"host", "x-amz-content-sha256", "x-amz-date", *map(str.lower, headers)}))
    forged = f"AWS4-HMAC-SHA256 Credential={scope(moment)}, SignedHeaders={named}, Signature={FORGED}"
    return {"Authorization": forged, "X-Amz-Date": moment, "X-Amz-Content-Sha256": UNSIGNED_TRAILER, **headers}


def in_query() -> str:
    """The same in the query, as of a presigned address."""
    moment = now()
    return urlencode(
        {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": scope(moment),
            "X-Amz-Date": moment,
            "X-Amz-Expires": "600",
            "X-Amz-SignedHeaders": "host;x-amz-content-sha256",
            "X-Amz-Signature": FORGED,
        }
    )


def chunks(content: bytes) -> tuple[bytes, dict[str, str]]:
    """A body that ends with a trailer, and the header that tells its size."""
    checksum = base64.b64encode(zlib.crc32(content).to_bytes(4))
    body = b"%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % (len(content), content, checksum)
    return body, {"X-Amz-Decoded-Content-Length": str(len(content)), "X-Amz-Trailer": "x-amz-checksum-crc32"}


def archive(name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as files:
        entry = tarfile.TarInfo(name)
        entry.size = 6
        files.addfile(entry, io.BytesIO(b"forged"))
    return packed.getvalue()


def keys_in(client: Any, bucket: str) -> list[str]:
    return [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])]


# Who knows an access key and has no secret key


def test_an_unsigned_trailer_does_not_pass_with_an_access_key_in_the_query(client, bucket, s3_endpoint):
    body, size = chunks(b"forged")
    headers = {"X-Amz-Content-Sha256": UNSIGNED_TRAILER, **size}
    assert ask("PUT", f"{s3_endpoint}/{bucket}/key?{in_query()}", headers, body).status == 403
    assert keys_in(client, bucket) == []


def test_a_part_of_an_upload_does_not_pass_so_either(client, bucket, s3_endpoint):
    upload = client.create_multipart_upload(Bucket=bucket, Key="key")["UploadId"]
    body, size = chunks(b"forged")
    part = urlencode({"partNumber": 1, "uploadId": upload})
    headers = {"X-Amz-Content-Sha256": UNSIGNED_TRAILER, **size}
    assert ask("PUT", f"{s3_endpoint}/{bucket}/key?{part}&{in_query()}", headers, body).status == 403
    assert "Parts" not in client.list_parts(Bucket=bucket, Key="key", UploadId=upload)


@pytest.mark.parametrize("where", ["header", "query"])
def test_an_archive_is_not_unpacked_for_a_signature_that_is_made_up(client, bucket, s3_endpoint, where):
    in_clear = {"X-Amz-Content-Sha256": UNSIGNED_TRAILER, **SNOWBALL}
    query, headers = ("", in_header(**SNOWBALL)) if where == "header" else (in_query(), in_clear)
    assert ask("PUT", f"{s3_endpoint}/{bucket}/key?{query}", headers, archive("unpacked")).status == 501
    assert keys_in(client, bucket) == []


def test_an_unsigned_trailer_does_not_pass_with_a_signature_in_the_header_that_is_made_up(client, bucket, s3_endpoint):
    body, size = chunks(b"forged")
    assert ask("PUT", f"{s3_endpoint}/{bucket}/key", in_header(**size), body).status == 403
    assert keys_in(client, bucket) == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["", "/key", "/key?uploads=", "?policy=", "?delete=", "?versioning="])
def test_nobody_does_anything_without_a_signature(client, bucket, s3_endpoint, method, path):
    client.put_object(Bucket=bucket, Key="key", Body=b"kept")
    answer = ask(method, f"{s3_endpoint}/{bucket}{path}", {"X-Amz-Content-Sha256": UNSIGNED_TRAILER})
    assert answer.status in (400, 403, 405, 411)
    assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == b"kept"


# Who was given one signed address


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_a_signed_address_to_write_to_copies_nothing_that_its_bearer_may_not_read(client, bucket, s3_endpoint, version):
    client.put_object(Bucket=bucket, Key="secret", Body=b"secret")
    address = signing(s3_endpoint, version).generate_presigned_url(
        "put_object", Params={"Bucket": bucket, "Key": "mine"}, ExpiresIn=600
    )
    assert ask("PUT", address, {"X-Amz-Copy-Source": f"/{bucket}/secret"}).status == 403
    assert keys_in(client, bucket) == ["secret"]


# Who may write


BETWEEN_SERVERS = (
    "X-Minio-Replication-Server-Side-Encryption-Sealed-Key",
    "X-Minio-Source-Mtime",
    "X-Amz-Replication-Status",
)


@pytest.mark.parametrize("header", BETWEEN_SERVERS)
def test_who_may_write_cannot_pass_for_another_server(client, bucket, header):
    def add(request, **_):
        request.headers.add_header(header, "REPLICA")

    client.meta.events.register("before-sign.s3.PutObject", add)
    with pytest.raises(ClientError, match="is for servers that replicate"):
        client.put_object(Bucket=bucket, Key="key", Body=b"content")


@pytest.mark.parametrize("spelt", [str, str.lower])
@pytest.mark.parametrize("header", [*BETWEEN_SERVERS, "X-Minio-Replication-Server-Side-Encryption-Iv"])
def test_nor_by_what_it_says_in_the_query(client, bucket, header, spelt):
    def add(request, **_):
        request.url += "&" if "?" in request.url else "?"
        request.url += urlencode({spelt(header): "REPLICA"})

    client.meta.events.register("before-sign.s3.PutObject", add)
    with pytest.raises(ClientError, match="is for servers that replicate"):
        client.put_object(Bucket=bucket, Key="key", Body=b"content")
    address = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "key"})
    assert ask("PUT", address, body=b"content").status == 403
    assert keys_in(client, bucket) == []


def test_fields_of_a_form_do_not_pass_for_headers(client, bucket):
    field = "X-Minio-Replication-Server-Side-Encryption-Sealed-Key"
    form = client.generate_presigned_post(bucket, "key", {field: "forged"}, [{field: "forged"}])
    fields = [f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in form["fields"].items()]
    content = '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\ncontent\r\n--b--\r\n'
    body = "".join([*fields, content]).encode()
    assert ask("POST", form["url"], {"Content-Type": "multipart/form-data; boundary=b"}, body).status == 501
    assert keys_in(client, bucket) == []


def test_an_archive_is_not_unpacked_for_who_may_write_either(client, bucket):
    def add(request, **_):
        request.headers.add_header(*next(iter(SNOWBALL.items())))

    client.meta.events.register("before-sign.s3.PutObject", add)
    with pytest.raises(ClientError, match="NotImplemented"):
        client.put_object(Bucket=bucket, Key="key", Body=archive("unpacked"))


def test_a_query_over_an_object_is_not_run(client, bucket):
    client.put_object(Bucket=bucket, Key="table.csv", Body=b"a\n1\n")
    with pytest.raises(ClientError, match="NotImplemented"):
        client.select_object_content(
            Bucket=bucket,
            Key="table.csv",
            Expression="select * from s3object",
            ExpressionType="SQL",
            InputSerialization={"CSV": {}},
            OutputSerialization={"CSV": {}},
        )


# What clients do


def test_objects_are_written_copied_listed_and_read(client, bucket):
    client.put_object(Bucket=bucket, Key="a/key", Body=b"content", Metadata={"sha256": "0"}, IfNoneMatch="*")
    client.copy_object(Bucket=bucket, Key="b/key", CopySource={"Bucket": bucket, "Key": "a/key"})
    assert keys_in(client, bucket) == ["a/key", "b/key"]
    copied = client.get_object(Bucket=bucket, Key="b/key")
    assert (copied["Body"].read(), copied["Metadata"]) == (b"content", {"sha256": "0"})
    client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a/key"}, {"Key": "b/key"}]})
    assert keys_in(client, bucket) == []


def test_a_large_object_is_written_in_parts(client, bucket, tmp_path):
    content = uuid.uuid4().bytes * (1 << 20)
    (tmp_path / "file").write_bytes(content)
    client.upload_file(str(tmp_path / "file"), bucket, "key")
    assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == content
    assert client.head_object(Bucket=bucket, Key="key")["ETag"].endswith('-2"'), "16 MiB are two parts"


@pytest.mark.parametrize("version", ["s3", "s3v4"])  # the first is boto3's own choice
def test_who_is_given_a_signed_address_reads_and_writes_there(bucket, s3_endpoint, version):
    named, signer = {"Bucket": bucket, "Key": "key"}, signing(s3_endpoint, version)
    write = signer.generate_presigned_url("put_object", Params=named)
    assert ask("PUT", write, body=b"content").status == 200
    assert ask("GET", signer.generate_presigned_url("get_object", Params=named)).body == b"content"


def test_an_unsigned_trailer_passes_with_a_right_signature(client, bucket, s3_endpoint):
    body, size = chunks(b"content")
    request = AWSRequest("PUT", f"{s3_endpoint}/{bucket}/key", {**size}, body)
    request.context["checksum"] = {"request_algorithm": {"in": "trailer"}}
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", REGION).add_auth(request)
    assert request.headers["X-Amz-Content-SHA256"] == UNSIGNED_TRAILER
    assert ask("PUT", request.url, dict(request.headers.items()), body).status == 200
    assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == b"content"
