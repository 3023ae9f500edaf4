"""`python -m tests.bench.materialize`: stock Feast beside Maestro's materialization, in one run on one machine.

Both take the same Parquet file (an entity a row, ten features) into an empty Redis of the same kind; each in a process
of its own, so that each has its own peak of memory. Stock is FeatureStore.materialize with Feast's file offline store
and Redis online store. At the end stock Feast reads a sample of what Maestro wrote.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.conftest import eventually, free_ports

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 7
FEATURES = {
    **{f"mean_{number}": ("Float64", "DOUBLE") for number in range(6)},
    **{f"events_{number}": ("Int64", "INT64") for number in range(2)},
    "kind": ("String", "STRING"),
    "active": ("Bool", "BOOL"),
}
COLUMNS = ("rows", "who", "rows/s", "s", "peak MiB", "of it for rows, MiB", "CPU s", "Redis CPU s")


def make(rows: int, path: Path) -> None:
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(7)
    seconds = random.integers(0, DAYS * 86_400, rows)
    table = pd.DataFrame({"user_id": [f"user-{number}" for number in random.permutation(rows)]})
    table["event_timestamp"] = pd.Timestamp(NOW) - pd.to_timedelta(seconds, unit="s")
    table["created"] = pd.Timestamp(NOW)
    for name, (kind, _) in FEATURES.items():
        table[name] = {
            "Float64": lambda: random.normal(size=rows),
            "Int64": lambda: random.integers(0, 100_000, rows),
            "String": lambda: random.choice(["student", "engineer", "writer"], rows),
            "Bool": lambda: random.integers(0, 2, rows).astype(bool),
        }[kind]()
    table.sort_values("event_timestamp").to_parquet(path, index=False)


def feast_store(path: Path, port: int) -> Any:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType, types

    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    source = FileSource(path=str(path), timestamp_field="event_timestamp", created_timestamp_column="created")
    schema = [Field(name=name, dtype=getattr(types, kind)) for name, (kind, _) in FEATURES.items()]
    schema.append(Field(name="user_id", dtype=types.String))
    store = FeatureStore(
        config=RepoConfig(
            project="maestro",
            provider="local",
            registry=str(path.with_name(f"registry-{port}.db")),
            online_store={"type": "redis", "connection_string": f"127.0.0.1:{port}"},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    store.apply([user, FeatureView(name="users", entities=[user], schema=schema, source=source, ttl=timedelta())])
    return store


def stock(path: Path, port: int) -> dict[str, float]:
    store = feast_store(path, port)
    return _measured(lambda: store.materialize(NOW - timedelta(days=DAYS), NOW))


def maestro(path: Path, port: int) -> dict[str, float]:
    """With Feast imported and the view taken from its registry, as the command does it."""
    from mlops.config import RedisSettings
    from mlops.features.materialization.offline import Window
    from mlops.features.materialization.view import MaterializedView
    from mlops.features.materialization.write import write
    from mlops.stores.online_store import OnlineStore

    store = feast_store(path, port)
    (view,) = (MaterializedView.of("maestro", found) for found in store.list_feature_views())
    online = OnlineStore(RedisSettings("127.0.0.1", str(port), "default", ""))
    return _measured(lambda: write([path], view, Window.before(NOW, DAYS), online))


def _measured(work: Any) -> dict[str, float]:
    """Peaks in MiB: of the process, and what of it came on top of what it had before the work."""
    before, resident = resource.getrusage(resource.RUSAGE_SELF), _peak()
    begun = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "peak_mib": _peak(), "work_mib": _peak() - resident, "cpu_seconds": cpu}


def _peak() -> float:
    """Most MiB in memory since this program began; ru_maxrss would be that of the parent where that is more."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """The port of an empty Redis with the append-only file of the chart."""
    import redis

    (port,) = free_ports(1)
    folder.mkdir()
    options = [
        "--port",
        str(port),
        "--dir",
        str(folder),
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "everysec",
    ]
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port)
        eventually(lambda: _answers(client), 60)
        yield port
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def _answers(client: Any) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def compare(path: Path, port: int, sample: int = 1_000) -> int:
    """How many values of how many users stock Feast reads as they are in the file; all of them, or this fails."""
    import pandas as pd

    table = pd.read_parquet(path).sample(sample, random_state=1).set_index("user_id")
    with contextlib.redirect_stdout(io.StringIO()):
        found = feast_store(path, port).get_online_features(
            features=[f"users:{name}" for name in FEATURES], entity_rows={"user_id": list(table.index)}
        )
    served = pd.DataFrame(found.to_dict()).set_index("user_id")
    wrong = [name for name in FEATURES if served[name].tolist() != table[name].tolist()]
    if wrong:
        raise AssertionError(f"stock Feast reads other values of {wrong}")
    return sample * len(FEATURES)


def measure(sizes: list[int], who: list[str]) -> dict[str, Any]:
    """One entry a size and a contestant."""
    import redis

    entries = []
    with tempfile.TemporaryDirectory(prefix="materialize-") as folder:
        for rows in sizes:
            path = Path(folder) / f"{rows}.parquet"
            make(rows, path)
            for name in who:
                with redis_server(Path(folder) / f"redis-{rows}-{name}") as port:
                    command = [sys.executable, "-m", "tests.bench.materialize", "--child", name, str(path), str(port)]
                    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                    client = redis.Redis(port=port)
                    info: Any = client.info("cpu")
                    entry = {"rows": rows, "who": name, **json.loads(done.stdout.splitlines()[-1])}
                    entry["redis_cpu_seconds"] = info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]
                    entry["rows_per_second"] = rows / entry["seconds"]
                    if client.dbsize() != rows:
                        raise AssertionError(f"{name} wrote {client.dbsize()} of {rows} entities")
                    if name == "maestro":
                        entry["values_read_by_stock_feast"] = compare(path, port)
                    entries.append(entry)
                    print("  ".join(f"{value:>12}" for value in _row(entry)), flush=True)
    return {"features": len(FEATURES), "load": os.getloadavg()[0], "entries": entries}


def _row(entry: dict[str, Any]) -> list[str]:
    names = ("rows_per_second", "seconds", "peak_mib", "work_mib", "cpu_seconds", "redis_cpu_seconds")
    return [f"{entry['rows']:,}", entry["who"], *(f"{entry[name]:,.1f}" for name in names)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--who", nargs="+", default=["stock", "maestro"], choices=["stock", "maestro"])
    parser.add_argument("--json", type=Path, help="where the figures are written as well")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, path, port = options.child
        print(json.dumps({"stock": stock, "maestro": maestro}[name](Path(path), int(port))))
        return 0
    print("  ".join(f"{name:>12}" for name in COLUMNS))
    figures = measure(options.rows, options.who)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
