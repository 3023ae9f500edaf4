"""What each service lets anybody do: who asks from where, by which request, and what docs/security.md says of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[2] / "docs/security.md"
ACTS = ("read", "write", "delete")
# Columns of the table, in order.
PLACES = (
    "another namespace",
    "a plain pod of the namespace",
    "a task that opens nothing",
    "a task that opens everything",
)
WORDS = ("no way", "refused", "yes")
_PROBE = "maestro-security-probe"


@dataclass(frozen=True)
class Attempt:
    """One request without credentials. component: whose Service it goes to; port: its name there."""

    component: str
    act: str
    port: str = "http"
    method: str = "GET"
    path: str = "/"
    body: str | None = None
    protocol: str = "http"
    media: str = "application/json"

    def asked(self, host: str, number: int) -> dict[str, Any]:
        """As probe.py takes it."""
        headers = {"Content-Type": self.media} if self.body is not None and self.protocol == "http" else {}
        return {**asdict(self), "host": host, "port": number, "headers": headers}


def _http(component: str, act: str, method: str, path: str, body: str | None = None, port: str = "http") -> Attempt:
    return Attempt(component, act, port, method, path, body)


ATTEMPTS = (
    _http("airflow-api-server", "read", "GET", "/api/v2/dags"),
    _http("airflow-api-server", "read", "GET", "/reports/a/b/c/-1/report.html"),
    _http("airflow-api-server", "write", "POST", "/api/v2/dags/monitoring_dag/dagRuns", '{"logical_date": null}'),
    _http(
        "airflow-api-server",
        "write",
        "PATCH",
        "/execution/task-instances/00000000-0000-0000-0000-000000000000/run",
        "{}",
    ),
    _http("airflow-api-server", "delete", "DELETE", f"/api/v2/variables/{_PROBE}"),
    _http("minio", "read", "GET", "/data?list-type=2", port="api"),
    _http("minio", "read", "GET", "/minio/v2/metrics/cluster", port="api"),
    _http("minio", "write", "PUT", f"/data/{_PROBE}", "x", "api"),
    _http("minio", "delete", "DELETE", f"/data/{_PROBE}", port="api"),
    _http("mlflow", "read", "GET", "/api/2.0/mlflow/experiments/search?max_results=1"),
    _http("mlflow", "read", "GET", "/api/2.0/mlflow-artifacts/artifacts"),
    _http("mlflow", "write", "POST", "/api/2.0/mlflow/experiments/create", f'{{"name": "{_PROBE}"}}'),
    _http("mlflow", "write", "PUT", f"/api/2.0/mlflow-artifacts/artifacts/{_PROBE}", "x"),
    _http("mlflow", "write", "POST", f"/api/2.0/mlflow-artifacts/mpu/create/{_PROBE}", '{"path": "x", "num_parts": 1}'),
    _http("mlflow", "delete", "POST", "/api/2.0/mlflow/experiments/delete", '{"experiment_id": "999999999"}'),
    _http("mlflow", "delete", "DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{_PROBE}"),
    *(
        Attempt("postgresql", act, "postgresql", body=user, protocol="postgresql")
        for act in ACTS
        for user in ("postgres", "airflow", "mlflow", "monitoring")
    ),
    Attempt("redis", "read", "redis", body=f"GET {_PROBE}", protocol="redis"),
    Attempt("redis", "write", "redis", body=f"SET {_PROBE} 1 EX 60", protocol="redis"),
    Attempt("redis", "delete", "redis", body=f"DEL {_PROBE}", protocol="redis"),
    _http("feast", "read", "POST", "/get-online-features", '{"features": [], "entities": {}}'),
    _http("feast", "write", "POST", "/push", "{}"),
    _http("feast", "write", "POST", "/materialize", "{}"),
    _http("model-server", "read", "GET", "/ping"),
    _http("model-server", "write", "PUT", "/invocations", "{}"),
    _http("sensor-trainer", "read", "GET", "/readings"),
    _http("sensor-trainer", "read", "GET", "/status/00000000-0000-0000-0000-000000000000"),
    _http("sensor-trainer", "write", "POST", "/readings", "[]"),
    _http("sensor-trainer", "write", "POST", "/train", "{}"),
    _http("sensor-trainer", "delete", "POST", "/jobs/00000000-0000-0000-0000-000000000000/cancel"),
    _http("prometheus", "read", "GET", "/api/v1/query?query=up"),
    _http("prometheus", "write", "POST", "/-/reload"),
    _http("prometheus", "delete", "POST", "/api/v1/admin/tsdb/delete_series?match[]=up"),
    _http("alertmanager", "read", "GET", "/api/v2/alerts"),
    _http("alertmanager", "write", "POST", "/api/v2/alerts", "[]"),
    _http("alertmanager", "delete", "DELETE", "/api/v2/silence/00000000-0000-0000-0000-000000000000"),
    _http("pushgateway", "read", "GET", "/metrics"),
    _http("pushgateway", "write", "PUT", f"/metrics/job/{_PROBE}", ""),
    _http("pushgateway", "delete", "DELETE", f"/metrics/job/{_PROBE}"),
    _http("statsd", "read", "GET", "/metrics", port="metrics"),
)
# What the platform does not bring, at its own address.
KUBERNETES = tuple(
    Attempt("kubernetes", act, method=method, path=f"/api/v1/namespaces/maestro/{what}", body=body, protocol="https")
    for act, method, what, body in (
        ("read", "GET", "secrets", None),
        ("write", "POST", "pods", "{}"),
        ("delete", "DELETE", "pods", None),
    )
)

Table = dict[tuple[str, str], tuple[str, ...]]  # (service, act) -> a word of WORDS for each of PLACES


def stated(document: Path = DOCUMENT) -> Table:
    """The table of docs/security.md. Raises ValueError where a cell begins with none of WORDS."""
    table: Table = {}
    for line in document.read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if len(cells) == 2 + len(PLACES) and set(re.split(r",\s*", cells[1])) <= set(ACTS):
            words = tuple(next((word for word in WORDS if cell.startswith(word)), "") for cell in cells[2:])
            if "" in words:
                raise ValueError(f"{document.name}: {line}: a cell begins with one of {', '.join(WORDS)}")
            for act in re.split(r",\s*", cells[1]):
                table[cells[0], act] = words
    return table


def undocumented(
    place: str, outcomes: Iterable[tuple[Attempt, tuple[str, str]]], table: Mapping[tuple[str, str], tuple[str, ...]]
) -> list[str]:
    """What was let through, or broke, and is not stated to be for this place."""
    faults = []
    for attempt, (word, said) in outcomes:
        expected = table[attempt.component, attempt.act][PLACES.index(place)]
        # Of what has no way in nothing answers at all; something that is open may refuse this or that.
        wrong = word == "error" or (word == "yes" and expected != "yes") or (word != "no way" and expected == "no way")
        if wrong:
            tried = f"{attempt.component} {attempt.act} ({attempt.method} {attempt.path})"
            faults.append(f"{tried} from {place}: {word}, where docs/security.md says {expected}: {said[:120]}")
    return faults
