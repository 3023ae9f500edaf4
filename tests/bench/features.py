"""`python -m tests.bench.features`: feature windows and the point-in-time join, by rows, each in a process of its own.

A machine a thousand rows, a reading a minute and nine sensors each: windows of 10 and 60 minutes of four statistics, a
partition after the other as `features build` computes them; and a join of two features of all rows to a tenth of them.
Peak memory stands beside the bytes of the columns that are needed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

START = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = ("work", "rows", "s", "CPU s", "peak MiB", "of it for rows, MiB", "needed columns, MiB")


def make(rows: int, path: Path) -> None:
    import numpy as np
    import polars as pl

    from mlops.datasets.declaration import EVENT_TIME

    random, machines = np.random.default_rng(7), max(1, rows // 1_000)
    number = np.arange(rows)
    table = pl.DataFrame(
        {
            "machine": [f"machine-{machine}" for machine in number % machines],
            "minute": number // machines,
            **{f"f{sensor}": random.integers(0, 100, rows) for sensor in range(1, 10)},
        }
    )
    times = pl.lit(START, pl.Datetime("us", "UTC")) + pl.duration(minutes="minute")
    table = table.select("machine", times.alias(EVENT_TIME), pl.all().exclude("machine", "minute"))
    table.write_parquet(path, row_group_size=1 << 17)


def windows(path: Path, rows: int) -> int:
    """Computes the partitions of the set, and writes them beside it; returns the bytes of the largest."""
    import polars as pl

    from mlops import datasets
    from mlops.datasets.declaration import EVENT_TIME
    from mlops.features.build import build, inputs
    from mlops.features.partitions import begin, contents, end_of
    from mlops.features.repository import VIEWS

    view, dataset = VIEWS[0], datasets.get("shuttle")
    events = pl.scan_parquet(path).select(inputs(view, dataset))
    needed = 0
    for start in contents(events, view.partition) if rows else ():
        first, last = begin(start), begin(end_of(start, view.partition))
        near = events.filter(pl.col(EVENT_TIME).is_between(first - view.reach, last, closed="left"))
        part = build(view, near, dataset, START).collect().filter(pl.col("event_timestamp") >= first)
        part.write_parquet(path.parent / f"{start}.features")
        needed = max(needed, part.height * part.width * 8)
    return needed


def join(path: Path, rows: int) -> int:
    import polars as pl

    from mlops.datasets.declaration import EVENT_TIME
    from mlops.stores.feature_store import EVENT_TIMESTAMP
    from mlops.stores.offline_store import as_of

    known = pl.scan_parquet(path).select("machine", pl.col(EVENT_TIME).alias("__event_timestamp"), "f1", "f2")
    asked = pl.scan_parquet(path).select("machine", pl.col(EVENT_TIME).alias(EVENT_TIMESTAMP)).gather_every(10)
    if rows:
        as_of(asked, known, ["machine"], None).sink_parquet(path.parent / "joined.parquet")
    return rows * 4 * 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--work", choices=("windows", "join"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(measured(given.work, given.rows[0])))
        return
    print(*COLUMNS, sep=" | ")
    for work in ("windows", "join"):
        for rows in given.rows:
            command = [sys.executable, "-m", "tests.bench.features", f"--work={work}", f"--rows={rows}"]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(work, f"{rows:,}", *found, sep=" | ", flush=True)


def measured(work: str, rows: int) -> list[float]:
    """Wall and CPU seconds, peak memory, what of it came with the rows, and the needed columns, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.parquet"
        subprocess.run([sys.executable, "-c", MAKE, str(rows), str(path)], check=True)
        of = {"windows": windows, "join": join}[work]
        of(path, 0)  # imports
        before, wall, cpu = peak(), time.monotonic(), time.process_time()
        needed = of(path, rows)
        seconds = time.monotonic() - wall, time.process_time() - cpu
    return [round(value, 2) for value in (*seconds, peak(), peak() - before, needed / 2**20)]


MAKE = """
import sys
from pathlib import Path
from tests.bench.features import make
make(int(sys.argv[1]), Path(sys.argv[2]))
"""


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
