"""`python -m tests.bench.drift`: drift by stored counts beside the plain way, SciPy's tests of the rows of both sides.

Columns of a million rows beside a million, medians of five, in one process and on one core; the peak of memory where a
reference is made, in a process for each size; and how often a batch of the reference's own population, and how often
one that is shifted, is said to have drifted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

for threads in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np
import polars as pl

from mlops import datasets
from mlops.drift.columns import Scale
from mlops.drift.comparison import compare
from mlops.drift.reference import make, slices
from mlops.drift.sketch import Sketch, marks, marks_of, sketch

ROWS = 1_000_000
DAY = 1440  # rows
LEVEL, EFFECT = 0.01, 0.04  # those of the DAG
TIMES = 5


def cpu_seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(TIMES):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def columns(rows: int, generator: np.random.Generator) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "a normal number": generator.normal(0, 1, rows),
            "a number of 200 values": generator.integers(0, 200, rows).astype(float),
            "a number, 5 % missing": pl.Series(generator.normal(0, 1, rows)).set(
                pl.Series(generator.random(rows) < 0.05), None
            ),
            "a category of 15 values": generator.choice([f"value {n}" for n in range(15)], rows),
        }
    )


def plainly(reference: pl.Series, batch: pl.Series) -> None:
    """What was done before: SciPy's test of the rows themselves, and bins of both for the plot."""
    from scipy import stats

    if reference.dtype == pl.Float64:
        sides = [side.drop_nulls().to_numpy() for side in (reference, batch)]
        stats.ks_2samp(*sides, method="asymp")
        edges = np.linspace(*np.quantile(np.concatenate(sides), [0.01, 0.99]), 21)
        for side in sides:
            np.histogram(side, edges)
    else:
        counts = [side.to_pandas().value_counts() for side in (reference, batch)]
        stats.chi2_contingency(np.array([side.sort_index().to_numpy() for side in counts]))


def speed() -> dict[str, dict[str, float]]:
    generator = np.random.default_rng(7)
    reference, batch = columns(ROWS, generator), columns(ROWS, generator)
    found = {}
    for name in reference.columns:
        scales: dict[str, Scale] = {name: "number" if reference[name].dtype == pl.Float64 else "category"}
        known = sketch(slices(reference.lazy().select(name)), marks(reference.head(1 << 17), scales))

        def counted(known: Mapping[str, Sketch] = known, name: str = name) -> None:
            new = sketch(slices(batch.lazy().select(name)), marks_of(known))
            compare(known, new, level=LEVEL, effect_threshold=EFFECT)

        def plain(name: str = name) -> None:
            plainly(reference[name], batch[name])

        found[name] = {"plain, CPU s": cpu_seconds(plain), "counts, CPU s": cpu_seconds(counted)}
    return found


def peak(rows: int, folder: Path) -> dict[str, float]:
    """MiB of a process of its own that makes a reference of shuttle's columns out of a file of so many rows."""
    file = folder / f"{rows}.parquet"
    shuttle = datasets.get("shuttle")
    generator = np.random.default_rng(7)
    parts = [
        pl.DataFrame({c.name: generator.integers(0, 10_000, 1_000_000) for c in shuttle.columns if c.numeric})
        .with_columns(pl.lit("shuttle").alias("machine"))
        .lazy()
        for _ in range(rows // 1_000_000)
    ]
    pl.concat(parts).sink_parquet(file, row_group_size=1 << 17)
    command = [sys.executable, "-m", "tests.bench.drift", "--make", str(file)]
    said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {"peak MiB": said["peak"], "before the rows, MiB": said["idle"], "CPU s": said["cpu"]}


def made(file: str) -> None:
    idle, start = _peak_mib(), time.process_time()
    make(pl.scan_parquet(file), datasets.get("shuttle"))
    print(json.dumps({"idle": idle, "peak": _peak_mib(), "cpu": time.process_time() - start}))


def _peak_mib() -> float:
    """Of this program: what getrusage tells is that of the process which it was forked from."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def found_of(draw: Callable[[np.random.Generator, float], pl.Series], shift: float, tries: int) -> float:
    """The share of batches of a day in which drift is found, of one column among ten that stay as they are."""
    generator = np.random.default_rng(7)
    still = [f"still {number}" for number in range(9)]
    watched = pl.concat([draw(generator, 0.0) for _ in range(20)])
    reference = pl.DataFrame({"x": watched} | {name: generator.normal(0, 1, len(watched)) for name in still})
    scales: dict[str, Scale] = {
        name: "number" if dtype == pl.Float64 else "category" for name, dtype in reference.schema.items()
    }
    known, hits = sketch([reference], marks(reference, scales)), 0
    for _ in range(tries):
        batch = pl.DataFrame({"x": draw(generator, shift)} | {name: generator.normal(0, 1, DAY) for name in still})
        new = sketch([batch], marks_of(known))
        hits += any(one.drifted for one in compare(known, new, level=LEVEL, effect_threshold=EFFECT))
    return hits / tries


def normal(generator: np.random.Generator, shift: float) -> pl.Series:
    return pl.Series(generator.normal(shift, 1, DAY))


def failures(generator: np.random.Generator, more: float) -> pl.Series:
    return pl.Series(np.where(generator.random(DAY) < 0.07 + more, "failed", "ran"))


def power(tries: int) -> dict[str, float]:
    return {
        "nothing shifted": found_of(normal, 0.0, tries),
        "a tenth of a standard deviation": found_of(normal, 0.1, tries),
        "0.2 standard deviations": found_of(normal, 0.2, tries),
        "0.4 standard deviations": found_of(normal, 0.4, tries),
        "failures 7 -> 7 %": found_of(failures, 0.0, tries),
        "failures 7 -> 12 %": found_of(failures, 0.05, tries),
        "failures 7 -> 22 %": found_of(failures, 0.15, tries),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--make", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000, 10_000_000], help="of references")
    parser.add_argument("--tries", type=int, default=200, help="batches for each figure of power (%(default)s)")
    parser.add_argument("--json", type=Path, help="where the figures are written as well")
    options = parser.parse_args()
    if options.make:
        made(options.make)
        return 0
    figures: dict[str, Any] = {"a column of a million beside a million": speed()}
    with tempfile.TemporaryDirectory() as folder:
        figures["making a reference"] = {f"{rows:,} rows": peak(rows, Path(folder)) for rows in options.rows}
    figures[f"drift found in days of {DAY:,} rows, of {options.tries}"] = power(options.tries)
    for title, lines in figures.items():
        print(f"\n{title}")
        for name, value in lines.items():
            shown = (
                ", ".join(f"{key} {number:.4g}" for key, number in value.items()) if isinstance(value, dict) else value
            )
            print(f"  {name:<36} {shown}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
