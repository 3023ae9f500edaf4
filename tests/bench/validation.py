"""Validation of 1M x 13 with 23 checks: one pass of ours beside Great Expectations, and the peak memory at more rows.

    python -m tests.bench.validation            # CPU seconds, medians of five, all in one run
    python -m tests.bench.validation memory 10  # peak memory of a pass over 10 million rows of a file

Great Expectations with Data Docs is what validation was before.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from mlops.data_quality.checks import judge
from mlops.data_quality.expectations import Expectation, of_rows, of_values
from mlops.datasets.declaration import Column, Dataset, Label, Source, SplitByKey

MILLION = 1_000_000
RUNS = 5
NUMBERS = [Column(f"f{number}", "number", low=-1e3, high=1e3) for number in range(5)]
WHOLE = [Column(f"i{number}", "integer", low=0, high=1000) for number in range(5)]
DATASET = Dataset(
    name="wide",
    description="",
    source=Source(file="wide.parquet", format="parquet"),
    columns=(
        Column("id", "integer", low=0, feature=False),
        *NUMBERS,
        *WHOLE,
        Column("kind", "category", values=("a", "b", "c"), nullable=True),
        Column("hit", "integer", low=0, high=1, nullable=True, feature=False),
    ),
    label=Label("hit", equals=1),
    split=SplitByKey(),
    rows=(1, 10**9),
    key=("id",),
)


def checks() -> list[Expectation]:
    """22 of missing values and of ranges, and one of the key."""
    values = [expectation for column in DATASET.columns for expectation in of_values(column)]
    return [*values[:22], *of_rows(DATASET)]


def table(rows: int, seed: int = 0) -> pl.DataFrame:
    noise = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": np.arange(seed * rows, (seed + 1) * rows),
            **{column.name: noise.normal(size=rows) for column in NUMBERS},
            **{column.name: noise.integers(0, 1000, rows) for column in WHOLE},
            "kind": noise.choice(["a", "b", "c"], rows),
            "hit": noise.integers(0, 2, rows),
        }
    )


def cpu(run: Callable[[], object]) -> float:
    taken = []
    for _ in range(RUNS):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def measure() -> None:
    rows, wanted = table(MILLION), checks()
    whole_rows = [
        *wanted[:-1],
        Expectation("expect_compound_columns_to_be_unique", {"column_list": rows.columns, "mostly": 1.0}),
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "wide.parquet"
        rows.write_parquet(file, row_group_size=1 << 17)
        figures = {
            f"ours, {len(wanted) - 1} checks without the key": cpu(lambda: judge(rows.lazy(), DATASET, wanted[:-1])),
            f"ours, {len(wanted)} checks, in memory": cpu(lambda: judge(rows.lazy(), DATASET, wanted)),
            f"ours, {len(wanted)} checks, of a Parquet file": cpu(
                lambda: judge(pl.scan_parquet(file), DATASET, wanted)
            ),
            "ours, with all 13 columns as the key": cpu(lambda: judge(rows.lazy(), DATASET, whole_rows)),
            "reading the Parquet file": cpu(
                lambda: pl.scan_parquet(file).select(pl.all().max()).collect(engine="streaming")
            ),
        }
    began = time.process_time()
    from mlops.data_quality import docs

    figures["import of Great Expectations"] = time.process_time() - began
    from tests.unit.test_data_quality_one_pass import validated

    judged = judge(rows.lazy(), DATASET, wanted)
    with tempfile.TemporaryDirectory() as site:
        figures["Data Docs of our results"] = cpu(lambda: docs.write(judged, DATASET, Path(tempfile.mkdtemp(dir=site))))
    pandas = rows.to_pandas().astype({"kind": object})
    figures["Great Expectations alone"] = cpu(lambda: validated(pandas, wanted))
    with tempfile.TemporaryDirectory() as site:
        docs_of_theirs = lambda: validated(pandas, wanted, Path(tempfile.mkdtemp(dir=site)))  # noqa: E731
        figures["Great Expectations with Data Docs, as before"] = cpu(docs_of_theirs)
    for name, seconds in figures.items():
        print(f"{name:<50} {seconds:7.3f} CPU s")


def peak(file: str) -> None:
    """Prints the peak of this process after the pass over a file, and after the Data Docs of it."""

    def mebibytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) // 1024

    found = judge(pl.scan_parquet(file), DATASET, checks())
    of_pass = mebibytes()
    from mlops.data_quality import docs

    with tempfile.TemporaryDirectory() as site:
        docs.write(found, DATASET, Path(site))
    print(f"peak of the pass {of_pass} MiB, with Data Docs {mebibytes()} MiB")


def memory(millions: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder) / f"{number}.parquet" for number in range(millions)]
        for number, part in enumerate(parts):
            table(MILLION, number).write_parquet(part, row_group_size=1 << 17)
        file = Path(folder) / "wide.parquet"
        pl.scan_parquet(parts).sink_parquet(file, row_group_size=1 << 17)
        program = "import sys; from tests.bench.validation import peak; peak(sys.argv[1])"
        subprocess.run([sys.executable, "-c", program, str(file)], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        memory(int(sys.argv[2]))
    else:
        measure()
