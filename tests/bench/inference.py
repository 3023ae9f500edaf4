"""`python -m tests.bench.inference`: batch inference beside the plain way, at a million and ten million rows.

Ours are the commands of a batch, each in a process of its own, as each has a pod of its own: `inference ingest`,
`preprocess`, and `score` of one partition after the other, against an S3 server and an MLflow server. The plain way
reads the whole file with pandas, asks the model, and writes the table: once as one would write it, and once with the
model's threads held to one, as ours are. The model is that of `sensor-failure`, trained on the shuttle set; the rows
are readings of it, jittered. Both sides ask the same model, so its own time stands beside them; the plain way asks for
predictions alone, ours has their probabilities as well.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.data_path import Used, used
from tests.servers import ACCESS_KEY, S3, SECRET_KEY, MLflow

MODEL, MARKER = "sensor-failure", "inbox/bench/_READY"
TRAIN = """
import os, sys
from pathlib import Path
import polars as pl
from mlops import datasets
from mlops.datasets.declaration import LABEL
from mlops.features.engineer import engineer
from mlops.features.preprocess import preprocess
from mlops.features.split import split
from mlops.stores.object_store import data_bucket
from mlops.stores.tracking import Tracking
from mlops.training.families import sklearn
from mlops.training.hyperparameters import Hyperparameters
from tests.conftest import raw_rows, real_datasets
from tests.unit import small_models
dataset, tracking = datasets.get("shuttle"), Tracking.from_environment()
train, _ = split(preprocess(raw_rows(dataset, real_datasets() / "shuttle").lazy(), dataset), dataset)
table = engineer(train, dataset).collect().to_pandas()
features = table.drop(columns=LABEL)
model = sklearn.fit(features, table[LABEL], dataset, Hyperparameters())
run_id = small_models.log(tracking, model, features.head(2))
tracking.set_alias("sensor-failure", "production", tracking.register("sensor-failure", run_id))
data_bucket().ensure()
features.to_parquet(sys.argv[1])
"""
MAKE = """
import sys
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq
known, rows, path = pd.read_parquet(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
random, writer = np.random.default_rng(7), None
for start in range(0, rows, 131_072):
    count = min(131_072, rows - start)
    part = known.iloc[random.integers(0, len(known), count)] + random.integers(-1, 2, (count, known.shape[1]))
    table = pa.Table.from_pandas(part.astype("int64"), preserve_index=False)
    writer = writer or pq.ParquetWriter(path, table.schema)
    writer.write_table(table)
writer.close()
"""
DELIVER = """
import sys
from pathlib import Path
from mlops.stores.object_store import data_bucket
store = data_bucket()
store.upload(Path(sys.argv[1]), "inbox/bench/part-0.parquet")
store.write_bytes(sys.argv[2], b"")
"""
# Prints the seconds of the model alone, and of all but the loading of the model.
PLAIN = """
import sys, time
import mlflow.sklearn, pandas as pd, threadpoolctl
import skops.io
from mlops.training.families.sklearn import TRUSTED_TYPES
from pathlib import Path
path = mlflow.artifacts.download_artifacts("models:/sensor-failure@production")
model = skops.io.load(next(Path(path).glob("*.skops")), trusted=sorted(TRUSTED_TYPES))
begun = time.perf_counter()
table = pd.read_parquet(sys.argv[1]).astype("float64")
asked = time.perf_counter()
with threadpoolctl.threadpool_limits(int(sys.argv[2]) or None, user_api="openmp"):
    table["prediction"] = model.predict(table)
predicted = time.perf_counter() - asked
table.to_parquet(sys.argv[1] + ".scored")
print(predicted, time.perf_counter() - begun)
"""


class Row(NamedTuple):
    """seconds: of the wall, without the start of a process and the loading of the model; peak: MiB of the largest."""

    what: str
    rows: int
    seconds: float
    model: float
    cpu: float
    peak: float

    @property
    def text(self) -> str:
        return (
            f"{self.what:<34}{self.rows:>12,}{self.rows / self.seconds:>12,.0f}{self.seconds:>10.1f}"
            f"{self.model:>10.1f}{self.cpu:>9.1f}{self.peak:>10,.0f}"
        )


def environment(s3: S3, mlflow: MLflow, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "AWS_ENDPOINT_URL_S3": s3.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "MLFLOW_TRACKING_URI": mlflow.url,
        **mlflow.writer,
        "MAESTRO_DAG_ID": "ml_pipeline",
        "MAESTRO_RUN_ID": "bench",
        "MAESTRO_TASK_ID": "bench",
        "MAESTRO_RESULT_PATH": str(folder / "result"),
        "TMPDIR": str(folder),
    }


def command(told: dict[str, str], *options: str) -> tuple[Used, Any]:
    took = used([sys.executable, "-m", "mlops", "inference", *options], told)
    return took, json.loads(Path(told["MAESTRO_RESULT_PATH"]).read_text())


def ours(told: dict[str, str], rows: int) -> list[Row]:
    """What each command takes. Seconds of the reading steps are those of their processes."""
    import time

    found, clock = [], time.perf_counter
    begun = clock()
    ingest, batch = command(told, "ingest", f"--model={MODEL}", f"--marker={MARKER}")
    found.append(Row("ingest", rows, clock() - begun, 0, ingest.cpu, ingest.peak))
    begun = clock()
    clean, partitions = command(told, "preprocess", f"--batch={batch['batch']}")
    found.append(Row("preprocess", rows, clock() - begun, 0, clean.cpu, clean.peak))
    seconds, cpu, peak = 0.0, 0.0, 0.0
    for name in partitions:
        took, said = command(told, "score", f"--partition={name}")
        seconds, cpu, peak = seconds + said["seconds"], cpu + took.cpu, max(peak, took.peak)
    found.append(Row(f"score, {len(partitions)} partitions in turn", rows, seconds, 0, cpu, peak))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000], help="(%(default)s)")
    parser.add_argument("--json", type=Path, help="where the figures are written as well")
    options = parser.parse_args()
    print(
        f"{'what':<34}{'rows':>12}{'rows/s':>12}{'seconds':>10}{'model s':>10}{'CPU s':>9}{'peak MiB':>10}", flush=True
    )
    listed: list[Row] = []
    with tempfile.TemporaryDirectory() as place, S3(Path(place)) as s3, MLflow(Path(place)) as mlflow:
        folder = Path(place)
        told = environment(s3, mlflow, folder)
        used([sys.executable, "-c", TRAIN, str(folder / "known.parquet")], told)
        for rows in options.rows:
            file = folder / "rows.parquet"
            used([sys.executable, "-c", MAKE, str(folder / "known.parquet"), str(rows), str(file)], told)
            used([sys.executable, "-c", DELIVER, str(file), MARKER], told)
            found = ours(told, rows)
            for threads, what in ((0, "plain, all threads"), (1, "plain, one thread")):
                took = used([sys.executable, "-c", PLAIN, str(file), str(threads)], told)
                model, seconds = map(float, took.out.split()[-2:])
                found.append(Row(what, rows, seconds, model, took.cpu, took.peak))
            for row in found:
                print(row.text, flush=True)
            listed += found
    if options.json:
        report = {"load": os.getloadavg()[0], "figures": [row._asdict() for row in listed]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
