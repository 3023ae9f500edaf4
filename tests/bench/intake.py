"""Memory and time of `ingestion download`: `python -m tests.bench.intake --rows 1000000 10000000`.

A set of 13 columns, one of them a nullable integer, lies in an S3 server of its own as CSV and as Parquet. The command
runs twice as a process of its own, as a pod's container would: before the set's table is made, and after.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from mlops.config import S3Settings
from mlops.stores.object_store import ObjectStore
from tests.servers import ACCESS_KEY, S3, SECRET_KEY

PART = 500_000  # rows that are made at a time
DECLARATION = """from mlops.datasets.declaration import Column, Dataset, Label, Source, SplitByKey

DATASET = Dataset(
    name="{name}",
    description="Made rows.",
    source=Source(file="rows.{format}", format="{format}"),
    columns=(
        Column("user", "identifier"),
        Column("city", "category", values=("Bonn", "Kiel", "Jena")),
        Column("visits", "integer", nullable=True),
        *(Column(f"x{{n}}", "number") for n in range(9)),
        Column("sold", "integer", feature=False),
    ),
    label=Label("sold", equals=1),
    split=SplitByKey(),
    rows=(1, 1_000_000_000),
)
"""


def rows(start: int, count: int) -> pl.DataFrame:
    """count rows of 13 columns, the same for the same start."""
    n = pl.int_range(start, start + count, dtype=pl.Int64)
    noise = {f"x{k}": ((n * (k + 7) * 2_654_435_761) % 1_000_003 / 1_000).round(3) for k in range(9)}
    return pl.select(
        user="u" + (n * 7_919 % 100_003).cast(pl.String),
        city=pl.when(n % 3 == 0).then(pl.lit("Bonn")).when(n % 3 == 1).then(pl.lit("Kiel")).otherwise(pl.lit("Jena")),
        visits=pl.when(n % 11 != 0).then(n % 40),
        **noise,
        sold=n % 2,
    )


def write(folder: Path, count: int, form: str) -> Path:
    """A file of the form, made in parts."""
    path = folder / f"rows.{form}"
    if form == "csv":
        with path.open("wb") as file:
            for start in range(0, count, PART):
                rows(start, min(PART, count - start)).write_csv(file, include_header=start == 0)
        return path
    parts = []
    for start in range(0, count, PART):
        parts.append(folder / f"part-{start}.parquet")
        rows(start, min(PART, count - start)).write_parquet(parts[-1])
    pl.scan_parquet(parts).sink_parquet(path)
    for part in parts:
        part.unlink()
    return path


def measure(command: list[str], environment: dict[str, str], peak: Path) -> dict[str, Any]:
    """What a process took: seconds, CPU seconds, and the most MiB that it held at once.

    peak: where the process leaves its VmHWM when it ends; what wait4 says of it counts its parent's memory too.
    """
    begun = time.monotonic()
    child = os.posix_spawn(command[0], command, environment)
    _, status, usage = os.wait4(child, 0)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - begun, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": int(peak.read_text()) // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--forms", nargs="+", default=["csv", "parquet"])
    parser.add_argument("--code", type=Path, default=Path.cwd(), help="the checkout that is measured (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, S3(Path(name)) as server:
        server.start()
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL_S3": server.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "MAESTRO_DATA_BUCKET": "data",
            "MAESTRO_REPORTS_BUCKET": "reports",
            "MAESTRO_DAG_ID": "bench",
            "MAESTRO_RUN_ID": "bench",
            "MAESTRO_TASK_ID": "download",
            "MAESTRO_RESULT_PATH": f"{name}/result",
            "PYTHONPATH": f"{name}:{options.code}",
        }
        store = ObjectStore(S3Settings.from_environment(environment), "data")
        store.ensure()
        # Put before the command line: the sets are not among those of the platform.
        (Path(name) / "sitecustomize.py").write_text(
            "import atexit\nfrom pathlib import Path\n"
            "from mlops import datasets\n"
            f"datasets.__path__.append({f'{name}/declared'!r})\n"
            "def leave():\n"
            "    lines = Path('/proc/self/status').read_text().splitlines()\n"
            "    peak = next(line.split()[1] for line in lines if line.startswith('VmHWM'))\n"
            f"    Path({f'{name}/peak'!r}).write_text(peak)\n"
            "atexit.register(leave)\n"
        )
        (Path(name) / "declared").mkdir()
        for count in options.rows:
            for form in options.forms:
                dataset = f"made_{form}_{count}"
                (Path(name) / f"declared/{dataset}.py").write_text(DECLARATION.format(name=dataset, format=form))
                file = write(Path(name), count, form)
                size = file.stat().st_size
                store.upload(file, f"datasets/{dataset}/rows.{form}")
                file.unlink()
                for turn in ("first", "again"):
                    command = [sys.executable, "-m", "mlops", "ingestion", "download", "--dataset", dataset]
                    taken = measure(command, environment, Path(name) / "peak")
                    print(
                        json.dumps({"rows": count, "form": form, "mib": size >> 20, "turn": turn, **taken}), flush=True
                    )


if __name__ == "__main__":
    main()
