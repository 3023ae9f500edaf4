"""Made-up clicks: who likes what hangs on a user's and an item's taste, and on a number that may be missing.

Run as a program it trains on them, into a folder that outlives it.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mlops.datasets.declaration import LABEL, Column
from mlops.models.network import Config
from mlops.training.network import loop
from mlops.training.network.encoding import Encoding

COLUMNS = (Column("user_id", "identifier"), Column("item_id", "identifier"), Column("item_events", "number"))
SMALL = Config(
    epochs=4,
    patience=4,
    batch_rows=64,
    shuffle_rows=500,
    learning_rate=0.02,
    hidden=(8,),
    embedding=4,
    weight_decay=0.0001,
    dropout=0.3,
    least_count=5,
    hide=0.1,
)


def clicks(rows: int, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    user, item = random.integers(0, 40, rows), random.integers(0, 30, rows)
    events = random.exponential(100, rows)
    logit = 2.0 * np.sin(user) * np.cos(item) + np.sin(3 * item) + (events > 100) - 0.5
    return pl.DataFrame(
        {
            "user_id": pl.Series(user).cast(pl.String),
            "item_id": pl.Series(item).cast(pl.String),
            "item_events": pl.Series(np.where(random.random(rows) < 0.1, np.nan, events)).fill_nan(None),
            LABEL: pl.Series(random.random(rows) < 1 / (1 + np.exp(-logit))).cast(pl.Int64),
        }
    )


def write(folder: Path) -> loop.Data:
    """A training and a validation set."""
    data = loop.Data(folder / "train.parquet", folder / "validation.parquet", "clicks")
    clicks(2000).write_parquet(data.train, row_group_size=300)
    clicks(500, seed=1).write_parquet(data.validation)
    return data


@dataclass(frozen=True)
class Files:
    """A run's folder on a disk."""

    folder: Path

    def find(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.exists() else None

    def write(self, name: str, content: bytes) -> None:
        whole = self.folder / f"{name}.new"
        whole.write_bytes(content)
        whole.replace(self.folder / name)


def train(folder: Path, config: Config = SMALL, told: "list[Mapping[str, float]] | None" = None) -> loop.Trained:
    data = write(folder)
    encoding = Encoding.learned(data.train, COLUMNS, config.least_count)
    gave = [] if told is None else told
    return loop.train(data, encoding, config, Files(folder), lambda epoch, each: gave.append(each))


if __name__ == "__main__":
    train(Path(sys.argv[1]))
