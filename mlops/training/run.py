"""What a run of MLflow is told of the model that is trained in it, whatever the model's family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlops.config import CodeSettings, RunIdentity
from mlops.registry.record import (
    DAG_ID,
    DAG_RUN_ID,
    DESCRIPTION,
    FILL,
    IN_THE_MODEL,
    KIND,
    METRIC,
    RUN_KEY,
    SPLIT,
)

if TYPE_CHECKING:
    from mlops.models.declaration import Model


def params(declared: Model, data_version: str, train: str, features: int, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """train: the key of the training set; features: how many columns are read; chosen: how it is trained."""
    dataset, service = declared.data, declared.feature_service
    return {
        "model": declared.name,
        "family": declared.family,
        "dataset": dataset.name,
        "data_version": data_version,
        "code_version": CodeSettings.from_environment().version,
        "train_key": train,
        "features": features,
        SPLIT: dataset.split_rule,
        FILL: IN_THE_MODEL,
        **({"feature_service": service} if service else {}),
        **chosen,
    }


def tags(declared: Model, identity: RunIdentity, description: str) -> dict[str, str]:
    """Those of the task instance, and what the model is."""
    return {
        RUN_KEY: identity.run_key,
        DAG_ID: identity.dag_id,
        DAG_RUN_ID: identity.run_id,
        DESCRIPTION: description,
        KIND: declared.data.label.kind,
        METRIC: declared.judged_by.name,
        "maestro.try_number": identity.try_number,
    }
