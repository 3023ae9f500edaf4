"""`python -m tests.bench.network`: rows a second and memory of streamed batches, beside a plain Dataset and DataLoader.

Each figure is of a process of its own on the same file: clicks that are tiled to so many rows. The plain way holds the
table in memory and takes a row at a time, as tutorials of PyTorch do. One run on one machine; sizes by --rows.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
from pyarrow import parquet

from mlops.datasets.declaration import LABEL
from mlops.training.network.batches import shuffled
from mlops.training.network.encoding import Encoding
from tests.unit.clicks import COLUMNS, clicks

BATCH, HELD, GROUP = 1024, 1 << 17, 1 << 17


def write(path: Path, rows: int) -> None:
    """The same group of clicks again and again, so that neither this nor what is learned takes memory."""
    group = clicks(min(rows, GROUP)).to_arrow()
    with parquet.ParquetWriter(path, group.schema) as file:
        for start in range(0, rows, GROUP):
            file.write_table(group.slice(0, min(GROUP, rows - start)))


def streamed(path: Path) -> int:
    return sum(len(batch) for batch in shuffled(path, _encoding(path), BATCH, HELD, (7, 1)))


def plain(path: Path) -> int:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    table = pl.read_parquet(path)
    encoded = _encoding(path).encode(table)
    tensors = (torch.from_numpy(encoded.places), torch.from_numpy(encoded.numbers), table[LABEL].to_torch())
    return sum(len(labels) for _, _, labels in DataLoader(TensorDataset(*tensors), batch_size=BATCH, shuffle=True))


def _encoding(path: Path) -> Encoding:
    return Encoding.learned(path, COLUMNS, 1)


WAYS: dict[str, Callable[[Path], int]] = {"streamed": streamed, "plain": plain}


def measured(way: str, path: Path) -> dict[str, float]:
    """Of one epoch in this process: rows a second, and the most memory that the process had, in MiB."""
    import torch  # both pay for its memory

    torch.set_num_threads(1)
    began = time.perf_counter()
    rows = WAYS[way](path)
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": rows, "rows a second": round(rows / seconds), "peak MiB": round(memory)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FILE"), help="measure in this process")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measured(chosen.one[0], Path(chosen.one[1]))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        for rows in chosen.rows:
            path = Path(folder) / "clicks.parquet"
            write(path, rows)
            for way in chosen.ways:
                command = [sys.executable, "-m", "tests.bench.network", "--one", way, str(path)]
                print(way, subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
