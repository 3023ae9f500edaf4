"""Brings Airflow's database to what the chart declares: schema, users, connections, variables and pools.

    python -m mlops.airflow.administration.setup migrate apply /etc/maestro-setup/settings.yaml

`migrate` is schema and users, `apply` the rest: what is wrong in a connection leaves Airflow without that connection,
and not its pods without a schema. Run by the chart's Job on each install and upgrade, as often as it takes: it ends
with the same state every time. The names of what it applied are kept in a table of their own. What is there and no
longer declared is removed; what people made in the UI is in no such table and stays. `default_pool`, which Airflow
needs, is then as Airflow makes it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mlops.retry import error_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

ADMIN_PASSWORD = "MAESTRO_ADMIN_PASSWORD"  # noqa: S105 - the environment key, from the Secret <release>-airflow
READ_ONLY_PASSWORD = "MAESTRO_READ_ONLY_PASSWORD"  # noqa: S105 - likewise
READ_ONLY_ROLE = (
    "Viewer"  # of Airflow's own roles the one that may read DAGs, runs, logs and results, and change nothing
)
DATABASE_TIMEOUT = 300.0  # seconds that a first install may take to bring PostgreSQL up

_CONNECTION_FIELDS = ("conn_type", "description", "host", "schema", "login", "password", "port", "extra")
_POOL_FIELDS = ("slots", "include_deferred", "description")

# What the user `monitoring` may read: the columns that charts/monitoring/files/postgresql-queries.yaml asks for, which
# tell how DAGs fare, and nothing that people have written.
MONITOR = "monitoring"
MONITORED: Mapping[str, tuple[str, ...]] = {
    "asset": ("id", "name"),
    "asset_event": ("asset_id", "timestamp"),
    "dag": ("dag_id", "is_paused", "is_stale", "next_dagrun_create_after"),
    "dag_run": ("id", "dag_id", "state", "run_type", "run_after", "end_date"),
    "deadline": ("dagrun_id", "deadline_time"),
    "job": ("job_type", "latest_heartbeat"),
    "slot_pool": ("pool", "slots", "include_deferred"),
    "task_instance": (
        *("id", "dag_id", "task_id", "run_id", "state", "end_date"),
        *("pool", "pool_slots", "scheduled_dttm"),
    ),
}

_TABLE = "CREATE TABLE IF NOT EXISTS maestro_declared (kind text, name text, PRIMARY KEY (kind, name))"

_log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Does the steps named before the settings file, which is the last argument."""
    *steps, path = arguments
    settings = resolve(yaml.safe_load(Path(path).read_text(encoding="utf-8")), os.environ)
    wait_for_database(DATABASE_TIMEOUT)
    for step in steps:
        STEPS[step](settings)


def migrate(settings: Mapping[str, Any]) -> None:
    """The newest schema, who may watch it, the admin, and the user by whom tasks read.

    A server that found no roles yet would make them at the same time.
    """
    upgrade_schema()
    let_monitor()
    ensure_user("adminUser", settings["adminUser"], os.environ[ADMIN_PASSWORD])
    ensure_user("global.airflow.readOnlyUser", _read_only(settings), os.environ[READ_ONLY_PASSWORD])


def resolve(value: Any, environment: Mapping[str, str]) -> Any:
    """The value with each {"environment": KEY} in it replaced by that environment variable.

    The chart writes one in place of a secretKeyRef. An unset one (the Secret was optional) leaves its entry out.
    """
    if isinstance(value, list):
        return [resolve(item, environment) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"environment"}:
        return environment.get(value["environment"])
    resolved = {key: resolve(item, environment) for key, item in value.items()}
    return {key: item for key, item in resolved.items() if item is not None}


def wait_for_database(timeout: float) -> None:
    """Returns when the database answers; raises what it said last after `timeout` seconds."""
    from airflow.settings import get_engine
    from sqlalchemy import text
    from sqlalchemy.exc import OperationalError
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    def ask() -> None:
        with get_engine().connect() as connection:
            connection.execute(text("SELECT 1"))

    retrying = Retrying(
        retry=retry_if_exception_type(OperationalError),
        wait=wait_fixed(2),
        stop=stop_after_delay(timeout),
        before_sleep=lambda state: _log.info("waiting for the database: %s", str(error_of(state).orig).strip()),
        reraise=True,
    )
    retrying(ask)


def upgrade_schema() -> None:
    """The newest schema, of Airflow and of the providers that keep tables (FAB's users)."""
    from airflow.utils.db import upgradedb

    upgradedb()


def let_monitor() -> None:
    """Lets the user `monitoring`, where the server has it, read what it watches, and no column beside it."""
    from airflow.settings import get_engine
    from sqlalchemy import text

    with get_engine().begin() as connection:
        if connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": MONITOR}) is None:
            _log.info("the server has no user %s: nobody watches Airflow's database", MONITOR)
            return
        for table, columns in MONITORED.items():
            connection.execute(text(f"REVOKE SELECT ON {table} FROM {MONITOR}"))  # noqa: S608 - names of our own
            connection.execute(text(f"GRANT SELECT ({', '.join(columns)}) ON {table} TO {MONITOR}"))


def ensure_user(declared_by: str, user: Mapping[str, str], password: str) -> None:
    """The user with this password; one that is new gets the role.

    The password is set only where it differs: setting it ends the user's sessions.
    """
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        security, name = builder.sm, user["username"]
        role = security.find_role(user["role"])
        if role is None:
            known = ", ".join(sorted(role.name for role in security.get_all_roles()))
            raise ValueError(f"{declared_by}.role {user['role']!r} is not a role of Airflow: set one of {known}")
        existing = security.find_user(username=name)
        if existing is None:
            security.add_user(name, user["firstName"], user["lastName"], user["email"], role, password)
            _log.info("user %s created", name)
        elif not security.check_password(name, password):
            security.reset_password(existing.id, password)
            _log.info("password of user %s set", name)


def _read_only(settings: Mapping[str, Any]) -> dict[str, str]:
    name = settings["readOnlyUser"]["username"]
    if name == settings["adminUser"]["username"]:
        raise ValueError(f"the admin and global.airflow.readOnlyUser are both called {name!r}: give one another name")
    # An address that nobody has: Airflow asks for one.
    return {
        "username": name,
        "firstName": "Read",
        "lastName": "Only",
        "email": f"{name}@localhost",
        "role": READ_ONLY_ROLE,
    }


def apply(settings: Mapping[str, Any]) -> None:
    """Connections, variables and pools as declared, all of them or, where one is wrong, none."""
    from airflow.models.connection import Connection
    from airflow.models.pool import Pool
    from airflow.models.variable import Variable
    from airflow.utils.db import add_default_pool_if_not_exists
    from airflow.utils.session import create_session
    from sqlalchemy import text

    note = f"Declared by {settings['owner']}: what is changed here lasts until its next upgrade"
    kinds: tuple[tuple[str, Any, Any, Any], ...] = (
        ("connections", Connection, Connection.conn_id, _connection_values),
        ("variables", Variable, Variable.key, _variable_values),
        ("pools", Pool, Pool.pool, _pool_values),
    )
    with create_session() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(hashtext('maestro_declared'))"))
        session.execute(text(_TABLE))
        for kind, model, name_column, values_of in kinds:
            declared = settings[kind]
            for name in _no_longer_declared(session, kind, declared):
                _remove(session, model, name_column, name)
                _log.info("%s: %s removed", kind, name)
            for name, values in declared.items():
                # A row made anew has nothing of the one before. Airflow's setters pass over a password of None.
                _remove(session, model, name_column, name)
                _add(session, model, {name_column.key: name, "description": note, **values_of(name, values)})
                _log.info("%s: %s applied", kind, name)
            _remember(session, kind, declared)
        session.flush()  # Airflow's sessions look without it
        add_default_pool_if_not_exists(session=session)  # last, as it commits


def _connection_values(name: str, declared: Mapping[str, Any]) -> dict[str, Any]:
    _refuse_unknown(f"connections.{name}", declared, _CONNECTION_FIELDS)
    if "conn_type" not in declared:
        raise ValueError(f"connections.{name} has no conn_type: add one, such as http or aws")
    values = dict.fromkeys(field for field in _CONNECTION_FIELDS if field != "description") | dict(declared)
    if values["port"] is not None:
        values["port"] = int(values["port"])
    if isinstance(values["extra"], Mapping):
        values["extra"] = json.dumps(values["extra"], sort_keys=True)
    return values


def _variable_values(_: str, declared: str) -> dict[str, Any]:
    return {"val": declared}


def _pool_values(name: str, declared: Mapping[str, Any]) -> dict[str, Any]:
    _refuse_unknown(f"pools.{name}", declared, _POOL_FIELDS)
    return {"include_deferred": False, **declared}


def _refuse_unknown(where: str, declared: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := sorted(declared.keys() - set(known)):
        raise ValueError(f"{where} has unknown fields {', '.join(unknown)}: it may have {', '.join(known)}")


def _add(session: Session, model: Any, values: Mapping[str, Any]) -> None:
    row = model()
    for field, value in values.items():
        setattr(row, field, value)
    session.add(row)


def _remove(session: Session, model: Any, name_column: Any, name: str) -> None:
    from sqlalchemy import delete

    session.execute(delete(model).where(name_column == name))


def _no_longer_declared(session: Session, kind: str, declared: Mapping[str, Any]) -> list[str]:
    from sqlalchemy import text

    applied = session.scalars(text("SELECT name FROM maestro_declared WHERE kind = :kind"), {"kind": kind})
    return sorted(set(applied) - declared.keys())


def _remember(session: Session, kind: str, declared: Mapping[str, Any]) -> None:
    from sqlalchemy import text

    session.execute(text("DELETE FROM maestro_declared WHERE kind = :kind"), {"kind": kind})
    for name in declared:
        session.execute(text("INSERT INTO maestro_declared VALUES (:kind, :name)"), {"kind": kind, "name": name})


STEPS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {"migrate": migrate, "apply": apply}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(sys.argv[1:])
