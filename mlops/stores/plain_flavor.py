"""A flavor of MLflow for models that are one file of numbers: it is written as it is, and MLmodel names no loader."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.models.model import ModelInfo


def log_model(
    *,
    file: str,
    format: str,  # noqa: A002 - what it is called in MLmodel
    content: bytes,
    name: str,
    signature: ModelSignature,
    input_example: pd.DataFrame,
    pip_requirements: Sequence[str],
) -> ModelInfo:
    """Logs the content as `file` of a model of the active run, with the signature and an input example."""
    from mlflow.models import Model

    given: dict[str, Any] = {
        "file": file,
        "format": format,
        "content": content,
        "signature": signature,
        "input_example": input_example,
        "pip_requirements": pip_requirements,
        "validate_serving_input": False,  # MLflow would look for a loader
    }
    logged: ModelInfo = Model.log(artifact_path=None, flavor=sys.modules[__name__], name=name, **given)
    return logged


def save_model(
    *,
    path: str,
    mlflow_model: Model,
    file: str,
    format: str,  # noqa: A002
    content: bytes,
    signature: ModelSignature,
    input_example: pd.DataFrame,
    pip_requirements: Sequence[str],
    validate_serving_input: bool,
) -> None:
    """By this name `Model.log` calls it."""
    from mlflow.models.model import MLMODEL_FILE_NAME
    from mlflow.models.utils import _save_example

    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    _save_example(mlflow_model, input_example, path)
    mlflow_model.signature = signature
    mlflow_model.add_flavor(format, file=file, format=format)
    (folder / file).write_bytes(content)
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in pip_requirements))
    mlflow_model.save(str(folder / MLMODEL_FILE_NAME))
