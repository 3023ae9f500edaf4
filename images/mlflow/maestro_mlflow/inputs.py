"""What a request may say, whatever it asks for. MLflow answers 500 to what it does not expect, as though at fault."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask

_LARGEST = 1 << 63
_LARGEST_ID = 1 << 31  # of an experiment, whose column is a 32-bit integer
_DEEPEST = 50
# The one whose body is a file.
_FILES = "/mlflow/upload-artifact"


def limit(app: Flask) -> None:
    """Has MLflow's application refuse, by 400 with the reason, what `fault` finds."""
    from flask import request
    from mlflow.exceptions import MlflowException
    from mlflow.server.handlers import catch_mlflow_exception

    @app.before_request
    @catch_mlflow_exception  # type: ignore[untyped-decorator]  # MLflow's handlers have no types
    def look_at_inputs() -> None:
        body = b"" if request.path.endswith(_FILES) else request.get_data()
        wrong = fault(request.path, body, request.args.to_dict(flat=False))
        if wrong:
            raise MlflowException.invalid_parameter_value(f"the request is refused: {wrong}")


def fault(path: str, body: bytes, query: dict[str, list[str]]) -> str | None:
    """What is wrong with a request, if anything is."""
    try:
        told = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        return "its body is no JSON"
    if not isinstance(told, dict):
        return "its body is no JSON object"
    if path == "/graphql" and not isinstance(told.get("query"), str):
        return "it has no query"
    return next(_faults({**query, "body": told}, "", 0), None)


def tell_what_is_missing() -> None:
    """Has MLflow answer 404 for an artifact that its bucket has not. Of itself it answers 500, and is asked again."""
    from botocore.exceptions import ClientError
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    download = S3ArtifactRepository._download_file  # noqa: SLF001 - where the store's own error is still known

    def download_or_tell(self: S3ArtifactRepository, remote_file_path: str, local_path: str) -> None:
        try:
            download(self, remote_file_path, local_path)  # type: ignore[no-untyped-call]
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                raise
            told = f"there is no artifact {remote_file_path!r}"
            raise MlflowException(told, error_code=RESOURCE_DOES_NOT_EXIST) from error

    S3ArtifactRepository._download_file = download_or_tell  # type: ignore[method-assign]  # noqa: SLF001


def _faults(value: Any, key: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        yield "it is nested too deeply"
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _in_text(name)
            yield from _faults(inner, name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _faults(inner, key, depth + 1)
    elif isinstance(value, str):
        yield from _in_text(value, key)
    elif isinstance(value, int | float):
        yield from _in_number(value, key)


def _in_number(number: float, key: str) -> Iterator[str]:
    if isinstance(number, float):
        if not math.isfinite(number) and key != "value":  # of a metric
            yield f"{key} is not finite"
    elif abs(number) >= _LARGEST:
        yield f"{key} is too large"


def _in_text(text: str, key: str = "") -> Iterator[str]:
    if key in ("experiment_id", "experiment_ids") and text.isdecimal() and (len(text) > 10 or int(text) >= _LARGEST_ID):
        yield f"no {key} is as large as {text[:30]}"
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        yield "a text in it has a character that is none"
