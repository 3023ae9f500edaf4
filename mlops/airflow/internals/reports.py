"""Reports for people, one click from their task: a link on the task, and the page behind it in Airflow's own server.

The object store has no address that a browser could open everywhere; Airflow's server has one, and knows its users.
"""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink

from mlops import keys
from mlops.airflow.platform import Platform

if TYPE_CHECKING:
    from fastapi import FastAPI

PREFIX = "/reports"  # below the address of Airflow's server
_CONNECTION = "aws_default"
# A report shows what is in the data, and stands at the address where people are logged in: scripts in it may draw a
# page and not act for the person who looks at it.
_SANDBOX = "sandbox allow-scripts allow-popups allow-downloads; frame-ancestors 'self'"
_LONGEST_KEY = 1024  # bytes, S3's limit


class ReportLink(BaseOperatorLink):
    """The link of a task that writes the report `file`. It stands as soon as the pod is created."""

    name = "Report"

    def __init__(self, file: str) -> None:
        self.file = file

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        from airflow.configuration import conf

        base = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
        map_index = -1 if ti_key.map_index is None else ti_key.map_index
        parts = (ti_key.dag_id, ti_key.run_id, ti_key.task_id, str(map_index))
        return "/".join((f"{base}{PREFIX}", *(quote(part, safe="") for part in parts), self.file))


def application() -> FastAPI:
    """Gives a report to whom may see its DAG."""
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.core_api.security import requires_access_dag
    from fastapi import Depends, FastAPI, Response

    allowed = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.TASK_INSTANCE))
    app = FastAPI(title="Maestro reports", openapi_url=None)

    # Not async: the answer waits for the object store.
    @app.get("/{dag_id}/{run_id}/{task_id}/{map_index}/{file:path}", dependencies=[allowed])
    def report(dag_id: str, run_id: str, task_id: str, map_index: int, file: str) -> Response:
        key = f"{keys.task_instance(dag_id, run_id, task_id, map_index)}/{file}"
        content = _read(key) if _is_key(key) else None
        headers = {"Content-Security-Policy": _SANDBOX, "X-Content-Type-Options": "nosniff"}
        if content is None:
            what = f"task {task_id[:250]} of run {run_id[:250]} has left no {file[:250]}"
            text = f"{what}: it has not come so far yet, or see its log\n".encode(errors="replace")
            return Response(text, status_code=404, media_type="text/plain", headers=headers)
        kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
        return Response(content, media_type=kind, headers=headers)

    return app


def _is_key(key: str) -> bool:
    """Whether an object can be called so: stores refuse others, each in its way, and take `..` for a folder above."""
    plain = key.isprintable() and not {"", ".", ".."} & set(key.split("/"))
    return plain and len(key.encode()) <= _LONGEST_KEY


def _read(key: str) -> bytes | None:
    """The object in the reports bucket; None where there is none."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    client, bucket = S3Hook(_CONNECTION).get_conn(), Platform.load().reports_bucket
    try:
        content: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except client.exceptions.NoSuchKey:
        return None
    return content
