"""Where artifacts may lie: in the server's own bucket. A client may name a place, and a row may hold one.

The server opens what it finds in its tables with its own key: a version of `s3://logs/...` would show that bucket. What
somebody names is looked at when it is written, and again when it is opened: rows are older than this check.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from flask import Flask

# Other names of what MLflow keeps, which it looks up in its tables: a run's artifacts, a logged model, a version.
_LOOKED_UP = re.compile(r"(?:runs|models):/(?!/)[^?#]+")
_PROXIED = re.compile(r"mlflow-artifacts:/(?!/)[^?#]+")  # with a host it would be another server's


def is_own(location: str, destination: str) -> bool:
    """Whether artifacts there are the server's own. destination: its --artifacts-destination."""
    plain = _decoded(location)
    if re.search(r"[\x00-\x1f\x7f\\]|(?:^|/)\.\.?(?:/|$)", plain):
        return False
    root = destination.rstrip("/")
    within = plain == root or (plain.startswith(f"{root}/") and not re.search(r"[?#]|//", plain[len(root) :]))
    return within or any(pattern.fullmatch(plain) for pattern in (_LOOKED_UP, _PROXIED))


def limit(app: Flask, destination: str) -> None:
    """Has MLflow's application refuse what would lie elsewhere, and its process open nothing there."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
    from mlflow.protos.model_registry_pb2 import CreateModelVersion
    from mlflow.protos.service_pb2 import CreateExperiment, CreateWorkspace, UpdateWorkspace
    from mlflow.server.handlers import _get_request_message, catch_mlflow_exception
    from mlflow.store.artifact import artifact_repository_registry

    def refuse(field: str, location: str) -> None:
        if location and not is_own(location, destination):
            raise MlflowException(
                f"{field} {location!r} is not where MLflow keeps artifacts here: name a run's model "
                f"(runs:/<run id>/<name>), or a place below {destination}",
                error_code=PERMISSION_DENIED,
            )

    # As MLflow itself reads the request, so that nobody can say one thing to it and another to the check.
    named = {
        "_create_experiment": (CreateExperiment, "artifact_location"),
        "_create_model_version": (CreateModelVersion, "source"),
        "_create_workspace_handler": (CreateWorkspace, "default_artifact_root"),
        "_update_workspace_handler": (UpdateWorkspace, "default_artifact_root"),
    }

    @app.before_request
    @catch_mlflow_exception  # type: ignore[untyped-decorator]  # MLflow's handlers have no types
    def look_at_locations() -> None:
        from flask import request

        if request.endpoint in named:
            message, field = named[request.endpoint]
            told = _get_request_message(message())  # type: ignore[no-untyped-call]
            refuse(field, getattr(told, field))

    registry = artifact_repository_registry._artifact_repository_registry  # noqa: SLF001 - asked by all of MLflow
    opened = registry.get_artifact_repository

    def open_own(artifact_uri: str, *arguments: Any, **options: Any) -> Any:
        refuse("the location", str(artifact_uri))
        return opened(artifact_uri, *arguments, **options)

    registry.get_artifact_repository = open_own  # type: ignore[method-assign]


def _decoded(location: str) -> str:
    """Without percent signs, however often it was encoded."""
    while (plain := unquote(location)) != location:
        location = plain
    return location
