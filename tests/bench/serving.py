"""`python -m tests.bench.serving`: how long a prediction takes that is asked for by ids, beside one by its columns.

A model server as its pod runs it, with a Redis of its own and a boosted model of the features of `click_through_v1`,
whose predictions are all logged to an S3. Each client asks one request after the other by a connection that it keeps.
Times are those of the client, in milliseconds, after a warm-up; beside them the processor time that the server
takes, which another load on the machine changes least.
"""

import argparse
import http.client
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.processes import answers, free_ports, running
from tests.servers import ACCESS_KEY, PASSWORD, S3, SECRET_KEY, MLflow, Redis

MODEL, ENTITIES = "click-through-activity", 2_000
PERCENTILES = (50, 95, 99)
COLUMNS = ("asked by", "rows", "clients", "requests/s", *(f"p{percent} ms" for percent in PERCENTILES), "CPU ms")


def fill(redis: Redis) -> None:
    """Every feature of the service of each of the users and of as many films."""
    import numpy as np

    from mlops.features.repository import service_named
    from tests.unit.online_rows import put_all

    random = np.random.default_rng(7)
    for view in service_named("click_through_v1").views:
        rows = {
            str(entity): {name: _value(name, dtype, random) for name, dtype in view.features.items()}
            for entity in range(ENTITIES)
        }
        put_all(redis, view.name, rows)


def _value(name: str, dtype: str, random: Any) -> object:
    if dtype == "String":
        return "F" if name == "gender" else "writer"
    return int(random.integers(0, 500)) if dtype == "Int64" else float(random.random())


def register(uri: str) -> None:
    """A model of the service in production, fitted to random labels that hang on its features."""
    import numpy as np
    import pandas as pd

    from mlops.config import MLflowSettings
    from mlops.features.repository import service_named
    from mlops.registry.record import FEATURE_SERVICE
    from mlops.stores.tracking import Tracking
    from tests.unit import small_models

    tracking, spec = Tracking(MLflowSettings(uri)), service_named("click_through_v1")
    random = np.random.default_rng(7)
    numbers = {name: random.normal(size=20_000) for name, dtype in spec.features.items() if dtype != "String"}
    table = pd.DataFrame({**numbers, "gender": random.choice(["F", "M"], 20_000), "occupation": "writer"})
    labels = pd.Series((table["user_click_rate"] + random.normal(size=20_000) > 0).astype(int))
    model = small_models.fitted(table, labels, "movielens", max_iter=100)
    run_id = small_models.log(tracking, model, table.head(3), {FEATURE_SERVICE: spec.name}, dataset="movielens")
    tracking.set_alias(MODEL, "production", tracking.register(MODEL, run_id))


def by_ids(rows: int) -> Callable[[int], tuple[str, bytes]]:
    def request(number: int) -> tuple[str, bytes]:
        asked = [
            {"user_id": str((number * 31 + row) % ENTITIES), "item_id": str((number * 17 + row) % ENTITIES)}
            for row in range(rows)
        ]
        return "/predict", json.dumps(asked).encode()

    return request


def by_columns(rows: int) -> Callable[[int], tuple[str, bytes]]:
    from mlops.features.repository import service_named

    columns = list(service_named("click_through_v1").features)
    texts = {"gender": "F", "occupation": "writer"}
    row = [texts.get(name, 0.5) for name in columns]
    body = json.dumps({"dataframe_split": {"columns": columns, "data": [row] * rows}}).encode()
    return lambda number: ("/invocations", body)


def ask(port: int, request: Callable[[int], tuple[str, bytes]], clients: int, count: int) -> list[float]:
    """Seconds of each of `count` requests of as many clients."""
    found: list[float] = []

    def client(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(first, count, clients):
            path, body = request(number)
            began = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            found.append(time.perf_counter() - began)
            assert answer.status == 200, answer.status

    threads = [threading.Thread(target=client, args=(first,)) for first in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def cpu_seconds(pid: int) -> float:
    """Of the process and its threads, since it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(pid: int, port: int, requests: int) -> list[dict[str, Any]]:
    import numpy as np

    figures = []
    for name, of in (("ids", by_ids), ("columns", by_columns)):
        for rows, clients in ((1, 1), (1, 4), (100, 1)):
            ask(port, of(rows), clients, min(200, requests))
            began, spent = time.perf_counter(), cpu_seconds(pid)
            seconds = ask(port, of(rows), clients, requests)
            rate, cpu = requests / (time.perf_counter() - began), (cpu_seconds(pid) - spent) / requests * 1e3
            percentiles = np.percentile(np.array(seconds) * 1e3, PERCENTILES)
            figures.append(
                dict(
                    zip(COLUMNS, (name, rows, clients, round(rate), *percentiles.round(1), round(cpu, 1)), strict=True)
                )
            )
            print(*figures[-1].values(), sep=" | ", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2_000, help="of each line (%(default)s)")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    given = parser.parse_args()
    print(*COLUMNS, sep=" | ")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        with MLflow(run) as mlflow, Redis(run, persistent=False) as redis, S3(run) as s3:
            os.environ |= MLflow.writer
            fill(redis)
            register(mlflow.url)
            (port,) = free_ports(1)
            told = {
                **MLflow.reader,
                "MLFLOW_TRACKING_URI": mlflow.url,
                "MODEL_NAME": MODEL,
                "MODEL_ONLINE_FEATURES": "true",
                "MODEL_LOG_SHARE": "1",
                "MAESTRO_REDIS_HOST": "127.0.0.1",
                "MAESTRO_REDIS_PORT": str(redis.port),
                "MAESTRO_REDIS_USERNAME": "features",
                "MAESTRO_REDIS_PASSWORD": PASSWORD,
                "AWS_ENDPOINT_URL_S3": s3.url,
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
            _make_bucket(told)
            command = [sys.executable, "-m", "mlops", "serving", "serve", "--host", "127.0.0.1", "--port", str(port)]
            with running(command, run / "server.log", lambda: answers(f"http://127.0.0.1:{port}/ping"), told) as server:
                figures = measure(server.pid, port, given.requests)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2, default=float) + "\n")


def _make_bucket(told: dict[str, str]) -> None:
    from mlops.config import S3Settings
    from mlops.stores.object_store import ObjectStore

    settings = S3Settings.from_environment(told)
    ObjectStore(settings, settings.predictions_bucket).ensure()


if __name__ == "__main__":
    main()
