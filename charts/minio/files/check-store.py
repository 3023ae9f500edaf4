"""Writes an object to each bucket of CHECK_BUCKETS (comma-separated), lists it, reads it back and removes it."""

import os
import uuid

import boto3

store = boto3.client("s3")
for bucket in os.environ["CHECK_BUCKETS"].split(","):
    key, content = f"helm-test/{uuid.uuid4()}", uuid.uuid4().bytes
    store.put_object(Bucket=bucket, Key=key, Body=content)
    try:
        listed = store.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
        if [entry["Key"] for entry in listed] != [key]:
            raise SystemExit(f"bucket {bucket}: {key} was written and is not listed")
        if store.get_object(Bucket=bucket, Key=key)["Body"].read() != content:
            raise SystemExit(f"bucket {bucket}: {key} holds something else than was written")
    finally:
        store.delete_object(Bucket=bucket, Key=key)
    print(f"bucket {bucket}: written, listed and read")
