"""The application that `mlflow server --app-name maestro` runs: MLflow finds it by the entry point of this package."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from maestro_mlflow import inputs, locations
from maestro_mlflow.guard import Guard, User
from maestro_mlflow.routes import Access

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def application() -> ASGIApp:
    """MLflow's own application behind the guard. Raises RuntimeError where a password is not in the environment."""
    from mlflow.server import app
    from mlflow.server.constants import ARTIFACTS_DESTINATION_ENV_VAR
    from mlflow.server.fastapi_app import app as served

    inputs.limit(app)
    inputs.tell_what_is_missing()
    locations.limit(app, os.environ[ARTIFACTS_DESTINATION_ENV_VAR])
    promise_no_addresses()
    return Guard(served, users())


def promise_no_addresses() -> None:
    """Has the server tell its clients that files go through it.

    A client asks what the store of the artifacts can do, and does not take it well to be refused what it was promised.
    """
    from mlflow.server import handlers, server_info_api
    from mlflow.utils import server_info

    of_mlflow = handlers.build_server_info_payload
    closed = (
        server_info.SERVER_INFO_MULTIPART_UPLOADS_ENABLED,
        server_info.SERVER_INFO_MULTIPART_DOWNLOADS_ENABLED,
    )

    def build_server_info_payload() -> dict[str, Any]:
        return {**of_mlflow(), **dict.fromkeys(closed, False)}

    handlers.build_server_info_payload = build_server_info_payload
    server_info_api.build_server_info_payload = build_server_info_payload  # type: ignore[attr-defined]


def users() -> list[User]:
    """The one who may write and the one who may only read, by what the chart says."""
    return [User(access.value, _password(access), access) for access in (Access.WRITER, Access.READER)]


def _password(access: Access) -> str:
    name = f"TRACKING_{access.name}_PASSWORD"
    password = os.environ.get(name)
    if not password:
        raise RuntimeError(
            f"{name} is not set: give it the key {access.value}-password of global.mlflow.existingSecret"
        )
    return password
