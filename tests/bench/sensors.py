"""`python -m tests.bench.sensors`: load on the sensor trainer's API over loopback, by k6.

2,000 readings a second in batches of 100, and 500 predictions a second beside them, against the processes that the
pods run: PostgreSQL, Redis, MLflow, a worker, and the API with a model that it trained. Tells latencies, whether
anything was lost, and the API's memory over time. k6: `go install go.k6.io/k6@v1.8.1`.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import redis

from mlops import datasets
from tests.conftest import answers, free_ports, raw_rows, real_datasets, running

TOKEN = uuid.uuid4().hex
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
FIRST = 20_000  # readings that the model is trained on
EVERY = 5.0  # seconds between two looks at the memory


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """The address of a database of a new server that syncs to the disk, as that of the chart does."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    unprivileged = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
    folder.mkdir()
    if unprivileged:
        folder.parent.chmod(0o755)
        subprocess.run(["chown", "nobody", folder], check=True)
    initialize = [f"{programs}/initdb", "--auth=trust", "--username=sensors", f"{folder}/data"]
    subprocess.run([*unprivileged, *initialize], check=True, stdout=subprocess.DEVNULL, cwd="/")
    (port,) = free_ports(1)
    server = [
        f"{programs}/postgres",
        "-D",
        f"{folder}/data",
        "-p",
        str(port),
        "-c",
        f"unix_socket_directories={folder}",
    ]
    ready = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]

    def is_ready() -> bool:
        return subprocess.run(ready, check=False).returncode == 0

    with running([*unprivileged, *server], folder.parent / "postgresql.log", is_ready):
        yield f"postgresql://sensors@127.0.0.1:{port}/postgres"


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """The port of a Redis with the append-only file of the chart, whose password is the token."""
    (port,) = free_ports(1)
    command = ["redis-server", "--port", str(port), "--dir", str(folder), "--requirepass", TOKEN, "--save", ""]
    client = redis.Redis(port=port, password=TOKEN)

    def is_ready() -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    with running([*command, "--appendonly", "yes"], folder / "redis.log", is_ready):
        yield port


@contextlib.contextmanager
def trainer(folder: Path) -> Iterator[tuple[str, int, str]]:
    """(address, process id, database) of an API, with all that stands behind it."""
    mlflow, port = free_ports(2)
    python = [sys.executable, "-m"]
    tracking = [*python, "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow), "--workers", "1"]
    tracking += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgresql(folder / "postgresql"))
        queue = stack.enter_context(redis_server(folder))
        uri = f"http://127.0.0.1:{mlflow}"
        stack.enter_context(running(tracking, folder / "mlflow.log", lambda: answers(f"{uri}/health"), quiet))
        environment = {
            "DATABASE_URL": database,
            "MAESTRO_REDIS_HOST": "127.0.0.1",
            "MAESTRO_REDIS_PORT": str(queue),
            "MAESTRO_REDIS_USERNAME": "default",
            "MAESTRO_REDIS_PASSWORD": TOKEN,
            "MLFLOW_TRACKING_URI": uri,
            "SENSOR_TRAINER_TOKEN": TOKEN,
        }
        sensors = [*python, "mlops", "sensor-trainer"]
        subprocess.run([*sensors, "migrate"], check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
        address = f"http://127.0.0.1:{port}"
        stack.enter_context(running([*sensors, "work"], folder / "worker.log", lambda: True, environment))
        serve = [*sensors, "serve", "--host", "127.0.0.1", "--port", str(port)]
        api = stack.enter_context(running(serve, folder / "api.log", lambda: answers(f"{address}/ready"), environment))
        yield address, api.pid, database


def call(address: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}{path}", data, {**HEADERS, **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read()))


class Rows:
    """The real set's values and labels, again and again, with times that end now."""

    def __init__(self, folder: Path) -> None:
        dataset = datasets.get("shuttle")
        table = raw_rows(dataset, folder / "shuttle").to_pandas()
        columns = [column.name for column in dataset.features]
        self._values = [
            dict(zip(columns, row, strict=True)) for row in table[columns].astype(float).to_numpy().tolist()
        ]
        self._failures = (table[dataset.label.column] == dataset.label.equals).tolist()
        self._start = datetime.now(UTC) - timedelta(days=1)

    def question(self, number: int) -> dict[str, Any]:
        return {"sensor": "shuttle", "values": self._values[number % len(self._values)]}

    def failure(self, number: int) -> bool:
        return bool(self._failures[number % len(self._values)])

    def reading(self, number: int) -> dict[str, Any]:
        when = (self._start + timedelta(milliseconds=number)).isoformat()
        return {"key": f"first-{number}", "time": when, "failure": self.failure(number), **self.question(number)}


def train(address: str, rows: Rows) -> float:
    """Seconds until a model that was trained on the first readings is served."""
    for start in range(0, FIRST, 5_000):
        call(address, "/readings", {"readings": [rows.reading(start + each) for each in range(5_000)]})
    begun = time.monotonic()
    job = call(address, "/train", {}, **{"Idempotency-Key": "bench"})
    while job["state"] in ("queued", "running"):
        time.sleep(0.5)
        job = call(address, f"/status/{job['job_id']}")
    if job["state"] != "succeeded":
        raise RuntimeError(f"the training has {job['state']}: {job['error'] or job['result']}")
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError):
            call(address, "/predict", {"readings": [rows.question(0)]})
            return time.monotonic() - begun
        if time.monotonic() > deadline:
            raise RuntimeError("the model that was trained is not served after 30 s")
        time.sleep(0.2)


def attack(options: argparse.Namespace, address: str, rows: Path, summary: Path) -> "subprocess.Popen[bytes]":
    """k6 with the load of sensors.js; it writes its metrics to `summary` at the end."""
    environment = {
        "ADDRESS": address,
        "TOKEN": TOKEN,
        "ROWS": str(rows),
        "SUMMARY": str(summary),
        "SECONDS": f"{options.seconds:.0f}",
        "READINGS": str(options.readings),
        "BATCH": str(options.batch),
        "PREDICTIONS": str(options.predictions),
    }
    command = [options.k6, "run", "--quiet", "--no-usage-report", Path(__file__).with_suffix(".js")]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)


def resident(pid: int) -> float:
    """MiB of the process."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    rows = Rows(real_datasets())
    (folder / "rows.json").write_text(
        json.dumps([rows.question(n) | {"failure": rows.failure(n)} for n in range(5_000)])
    )
    with trainer(folder) as (address, pid, database):
        trained = train(address, rows)
        cpu, memory = cpu_seconds(pid), []
        with attack(options, address, folder / "rows.json", folder / "summary.json") as load:
            while load.poll() is None:
                memory.append(resident(pid))
                time.sleep(EVERY)
        if load.returncode:
            raise RuntimeError(f"k6 ended with {load.returncode}")
        cpu = cpu_seconds(pid) - cpu
        with psycopg.connect(database) as connection:
            counted = connection.execute("select count(*) from sensors.readings where key like 'load-%'").fetchone()
            stored = counted[0] if counted else 0
    summary = json.loads((folder / "summary.json").read_text())
    return figures(options, summary, stored) | {
        f"training of {FIRST} readings until it is served, s": trained,
        "API memory: start, MiB": memory[0],
        "API memory: median of the second quarter, MiB": statistics.median(
            memory[len(memory) // 4 : len(memory) // 2 + 1]
        ),
        "API memory: median of the last quarter, MiB": statistics.median(memory[-max(1, len(memory) // 4) :]),
        "API memory: most, MiB": max(memory),
        "API CPU, cores": cpu / options.seconds,
    }


def figures(options: argparse.Namespace, summary: dict[str, Any], stored: int) -> dict[str, float]:
    def count(name: str) -> float:
        return float(summary[name]["values"]["count"]) if name in summary else 0.0

    found = {}
    for name in ("readings", "predictions"):
        took = summary[f"http_req_duration{{scenario:{name}}}"]["values"]
        found |= {
            f"{name}: requests": count(f"http_reqs{{scenario:{name}}}"),
            f"{name}: requests not sent, as all connections waited": count(f"dropped_iterations{{scenario:{name}}}"),
            f"{name}: p50, ms": took["med"],
            f"{name}: p99, ms": took["p(99)"],
            f"{name}: most, ms": took["max"],
        }
    return found | {
        "answers other than 200": count("refused"),
        "readings/s accepted": count("accepted") / options.seconds,
        "readings accepted": count("accepted"),
        "readings that were duplicates": count("duplicates"),
        "readings stored": stored,
        "readings lost": count("accepted") - stored,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k6", default="k6", help="the program (%(default)s, on the PATH)")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--readings", type=int, default=2_000, help="a second (%(default)s)")
    parser.add_argument("--batch", type=int, default=100, help="readings in a request (%(default)s)")
    parser.add_argument("--predictions", type=int, default=500, help="a second (%(default)s)")
    parser.add_argument("--json", type=Path, help="where the figures are written as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sensors-", ignore_cleanup_errors=True) as folder:
        found = measure(options, Path(folder))
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {value:12.3f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    # A batch may be stored although its answer was lost; the other way round must not be.
    return 0 if found["readings lost"] <= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
