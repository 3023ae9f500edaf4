"""A DeepFM over identifiers, categories and numbers, in a file of safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlops.result import Refused
from mlops.stores.model_files import Layout, text
from mlops.stores.tracking import Saved
from mlops.training.families import Prediction

if TYPE_CHECKING:
    import pandas as pd

    from mlops.datasets.declaration import Dataset, LabelKind
    from mlops.models.network import Config
    from mlops.training.hyperparameters import Hyperparameters
    from mlops.training.network.weights import Network

PACKAGES = ("torch", "safetensors", "polars", "pandas", "numpy")
KINDS: Sequence[LabelKind] = ("binary",)
FILE = "model.safetensors"
# Its loader is of this code and none of MLflow's: what is stored names no module.
LAYOUT = Layout(flavors={"safetensors": {"file": FILE, "format": text}}, files=frozenset({FILE}))
_ROWS = 1 << 13  # asked at a time


def fit(features: pd.DataFrame, labels: pd.Series, dataset: Dataset, hyperparameters: Hyperparameters) -> Network:
    """Refused: a network is trained on parts of which one says when to stop."""
    raise Refused(
        "a model of the family torch is not fitted to one table: make its parts with 'python -m mlops features parts' "
        "and train it with 'python -m mlops training train', as training_pipeline does"
    )


def predict(model: Network, features: pd.DataFrame) -> Prediction:
    """What the network says of the rows, whose missing and never seen values stand for themselves."""
    import polars as pl
    import torch

    said = []
    model.model.eval()
    with torch.inference_mode():
        for start in range(0, len(features), _ROWS):
            rows = features.iloc[start : start + _ROWS]
            encoded = model.encoding.encode(pl.from_pandas(rows[model.encoding.columns].reset_index(drop=True)))
            logits = model.model(torch.from_numpy(encoded.places), torch.from_numpy(encoded.numbers))
            said.append(torch.sigmoid(logits.double()).numpy())
    clicked = np.concatenate(said) if said else np.empty(0)
    classes = np.array([0, 1])
    return Prediction((clicked >= 0.5).astype(int), classes, np.column_stack([1 - clicked, clicked]))


def save(model: Network) -> Saved:
    """The file's content, which the flavor of mlops/stores writes as it is."""
    from mlops.training.network import weights

    return Saved("mlops.stores.plain_flavor", {"file": FILE, "format": "safetensors", "content": weights.packed(model)})


def load(folder: Path) -> Network:
    """The network of a folder that was verified."""
    from mlops.training.network import weights

    return weights.unpacked((folder / FILE).read_bytes(), FILE)


def describe(hyperparameters: Hyperparameters | Config) -> str:
    """For the card."""
    said = ", ".join(f"{name} {value}" for name, value in vars(hyperparameters).items())
    return f"A DeepFM network ({said})"
