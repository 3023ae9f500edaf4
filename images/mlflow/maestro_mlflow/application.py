"""The application that `mlflow server --app-name maestro` runs: MLflow finds it by the entry point of this package."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

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
    locations.limit(app, os.environ[ARTIFACTS_DESTINATION_ENV_VAR])
    return Guard(served, users())


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
