"""Applies the settings of each line that comes in, and answers with what Airflow then has: python -m <this>."""

import json
import os
import sys
from typing import Any

from airflow.models.connection import Connection
from airflow.models.pool import Pool
from airflow.models.variable import Variable
from airflow.utils.session import create_session
from sqlalchemy import select

from mlops.airflow.administration.setup import apply

SHOWN: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "connections": (Connection, "conn_id", ("conn_type", "host", "schema", "login", "password", "port", "extra")),
    "variables": (Variable, "key", ("val",)),
    "pools": (Pool, "pool", ("slots", "include_deferred")),
}


def state() -> dict[str, dict[str, list[Any]]]:
    """By kind and name the fields that can be declared, in the order of SHOWN."""
    with create_session() as session:
        rows = {kind: session.scalars(select(model)).all() for kind, (model, _, _) in SHOWN.items()}
        return {
            kind: {getattr(row, key): [getattr(row, field) for field in fields] for row in rows[kind]}
            for kind, (_, key, fields) in SHOWN.items()
        }


answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Airflow logs to standard output
for line in sys.stdin:
    apply(json.loads(line))
    answers.write(json.dumps(state()) + "\n")
    answers.flush()
