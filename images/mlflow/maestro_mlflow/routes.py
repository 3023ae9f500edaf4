"""MLflow's routes: those that are open to all, to readers and to writers, and those that are closed, each for a reason.

One that is in no list is not found. A test holds the lists against the routes of the MLflow that is installed: a route
that a new version brings fails it until somebody has decided.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum


class Access(Enum):
    """Who may ask, by the name of the user."""

    READER = "reader"
    WRITER = "writer"


OPEN = frozenset({("GET", "/health"), ("GET", "/metrics")})

# A method and a path: {} stands for one part of it, {path} for one or more. /api stands for /ajax-api as well, which is
# the same for MLflow's own pages.
READ = """
GET /
GET /version
GET /build/{path}
GET /static-files/{path}
GET /get-artifact
GET /model-versions/get-artifact
POST /graphql
GET /api/2.0/mlflow-artifacts/artifacts
GET /api/2.0/mlflow-artifacts/artifacts/{path}
GET /api/2.0/mlflow/artifacts/list
GET /api/2.0/mlflow/experiments/get
GET /api/2.0/mlflow/experiments/get-by-name
GET /api/2.0/mlflow/experiments/search
POST /api/2.0/mlflow/experiments/search
POST /api/2.0/mlflow/experiments/search-datasets
GET /api/2.0/mlflow/logged-models/{}
GET /api/2.0/mlflow/logged-models/{}/artifacts/directories
GET /api/2.0/mlflow/logged-models/{}/artifacts/files
POST /api/2.0/mlflow/logged-models/search
GET /api/2.0/mlflow/metrics/get-history
GET /api/2.0/mlflow/metrics/get-history-bulk
GET /api/2.0/mlflow/metrics/get-history-bulk-interval
GET /api/2.0/mlflow/model-versions/get
GET /api/2.0/mlflow/model-versions/get-download-uri
GET /api/2.0/mlflow/model-versions/search
GET /api/2.0/mlflow/registered-models/alias
GET /api/2.0/mlflow/registered-models/get
GET /api/2.0/mlflow/registered-models/get-latest-versions
POST /api/2.0/mlflow/registered-models/get-latest-versions
GET /api/2.0/mlflow/registered-models/search
GET /api/2.0/mlflow/runs/get
POST /api/2.0/mlflow/runs/search
GET /api/3.0/mlflow/server-info
GET /api/3.0/mlflow/workspaces
GET /api/3.0/mlflow/workspaces/{}
GET /api/3.0/mlflow/datasets/{}
GET /api/3.0/mlflow/datasets/{}/experiment-ids
GET /api/3.0/mlflow/datasets/search
POST /api/3.0/mlflow/datasets/search
GET /api/3.0/mlflow/traces/{}
GET /api/3.0/mlflow/traces/batchGet
POST /api/3.0/mlflow/traces/batchGetInfos
POST /api/3.0/mlflow/traces/calculate-filter-correlation
GET /api/3.0/mlflow/traces/get
POST /api/3.0/mlflow/traces/metrics
POST /api/3.0/mlflow/traces/search
"""

WRITE = """
PUT /api/2.0/mlflow-artifacts/artifacts/{path}
DELETE /api/2.0/mlflow-artifacts/artifacts/{path}
POST /api/2.0/mlflow/experiments/create
POST /api/2.0/mlflow/experiments/delete
POST /api/2.0/mlflow/experiments/delete-experiment-tag
POST /api/2.0/mlflow/experiments/restore
POST /api/2.0/mlflow/experiments/set-experiment-tag
POST /api/2.0/mlflow/experiments/update
POST /api/2.0/mlflow/logged-models
PATCH /api/2.0/mlflow/logged-models/{}
DELETE /api/2.0/mlflow/logged-models/{}
POST /api/2.0/mlflow/logged-models/{}/params
PATCH /api/2.0/mlflow/logged-models/{}/tags
DELETE /api/2.0/mlflow/logged-models/{}/tags/{}
POST /api/2.0/mlflow/model-versions/create
DELETE /api/2.0/mlflow/model-versions/delete
DELETE /api/2.0/mlflow/model-versions/delete-tag
POST /api/2.0/mlflow/model-versions/set-tag
POST /api/2.0/mlflow/model-versions/transition-stage
PATCH /api/2.0/mlflow/model-versions/update
POST /api/2.0/mlflow/registered-models/alias
DELETE /api/2.0/mlflow/registered-models/alias
POST /api/2.0/mlflow/registered-models/create
DELETE /api/2.0/mlflow/registered-models/delete
DELETE /api/2.0/mlflow/registered-models/delete-tag
POST /api/2.0/mlflow/registered-models/rename
POST /api/2.0/mlflow/registered-models/set-tag
PATCH /api/2.0/mlflow/registered-models/update
POST /api/2.0/mlflow/runs/create
POST /api/2.0/mlflow/runs/delete
POST /api/2.0/mlflow/runs/delete-tag
POST /api/2.0/mlflow/runs/log-batch
POST /api/2.0/mlflow/runs/log-inputs
POST /api/2.0/mlflow/runs/log-metric
POST /api/2.0/mlflow/runs/log-model
POST /api/2.0/mlflow/runs/log-parameter
POST /api/2.0/mlflow/runs/outputs
POST /api/2.0/mlflow/runs/restore
POST /api/2.0/mlflow/runs/set-tag
POST /api/2.0/mlflow/runs/update
POST /api/2.0/mlflow/upload-artifact
POST /api/3.0/mlflow/workspaces
PATCH /api/3.0/mlflow/workspaces/{}
DELETE /api/3.0/mlflow/workspaces/{}
"""

_SIGNED = "it would hand out an address of the object store, and with it the name of its key"
_ELSEWHERE = "it would have the server send requests to addresses that somebody names"
_CODE = "it would have the server run work of its own, which is for pods here"
_UNUSED = "the platform keeps no traces, evaluations or prompts in MLflow"

# By the beginning of a path; what is in the lists above is open all the same.
CLOSED = {
    "/api/2.0/mlflow-artifacts/mpu/": _SIGNED,
    "/api/2.0/mlflow-artifacts/presigned/": _SIGNED,
    "/api/2.0/mlflow/artifacts/presigned-": _SIGNED,
    "/gateway/": _ELSEWHERE,
    "/api/2.0/mlflow/gateway-proxy": _ELSEWHERE,
    "/api/3.0/mlflow/gateway/": _ELSEWHERE,
    "/api/2.0/mlflow/webhooks": _ELSEWHERE,
    "/api/3.0/mlflow/mcp-servers": _ELSEWHERE,
    "/api/3.0/mlflow/ui-telemetry": _ELSEWHERE,
    "/api/2.0/mlflow/runs/create-promptlab-run": _CODE,
    "/api/3.0/jobs/": _CODE,
    "/api/3.0/mlflow/jobs/": _CODE,
    "/api/3.0/mlflow/assistant/": _CODE,
    "/api/3.0/mlflow/demo/": _CODE,
    "/api/3.0/mlflow/genai/": _CODE,
    "/api/3.0/mlflow/prompt-optimization/": _CODE,
    "/api/3.0/mlflow/scorer/": _CODE,
    "/api/3.0/mlflow/scorers/": _CODE,
    "/graphql": "it is asked by POST",
    "/v1/traces": _UNUSED,
    "/api/2.0/mlflow/traces": _UNUSED,
    "/api/2.0/mlflow/get-trace-artifact": _UNUSED,
    "/api/2.0/mlflow/get-online-trace-details": _UNUSED,
    "/api/2.0/mlflow/unified-traces": _UNUSED,
    "/api/2.0mlflow/": _UNUSED,
    "/api/3.0/mlflow/datasets/": _UNUSED,
    "/api/3.0/mlflow/get-trace-artifact": _UNUSED,
    "/api/3.0/mlflow/issues": _UNUSED,
    "/api/3.0/mlflow/label-schemas/": _UNUSED,
    "/api/3.0/mlflow/review-queues/": _UNUSED,
    "/api/3.0/mlflow/traces": _UNUSED,
}


def needed(method: str, path: str) -> Access | None:
    """Who may ask; None where a route is closed or there is none."""
    path = _plain(path)
    for (known, pattern), access in _PATTERNS:
        if known == method and pattern.fullmatch(path):
            return access
    return None


def closed(path: str) -> str | None:
    """Why a path is closed; None where nobody has decided so."""
    path = _plain(path)
    return next((reason for beginning, reason in CLOSED.items() if path.startswith(beginning)), None)


def _plain(path: str) -> str:
    return re.sub(r"^/ajax-api(?=/)", "/api", path)


def _patterns(routes: str, access: Access) -> Iterable[tuple[tuple[str, re.Pattern[str]], Access]]:
    for line in routes.split("\n"):
        if line:
            method, path = line.split()
            pattern = re.escape(path).replace(r"\{path\}", ".+").replace(r"\{\}", "[^/]+")
            yield (method, re.compile(pattern, re.DOTALL)), access


_PATTERNS = [*_patterns(READ, Access.READER), *_patterns(WRITE, Access.WRITER)]
