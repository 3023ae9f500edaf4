"""The trainer's own schema in PostgreSQL: connections to it, and its migrations."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection, errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from mlops.config import DatabaseSettings
from mlops.result import Failure
from mlops.retry import error_of
from mlops.sensor_trainer.store.errors import AccessDenied, Unavailable

SCHEMA = "sensors"
_WAIT = 5.0  # seconds for a connection of the pool
_PAUSE = 1.0  # seconds
_MIGRATING = 0x6D61657374726F  # the advisory lock of the migrations: "maestro"
# A server whose machine is gone sends nothing: without these a request would wait for minutes.
_LIMITS = {
    "connect_timeout": 3,
    "tcp_user_timeout": 5000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
}
# What the server is told about a session: the last ones, that a client whose machine is gone gives up its locks.
_SESSION = {
    "search_path": SCHEMA,
    "timezone": "UTC",
    "statement_timeout": "8s",
    "lock_timeout": "5s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

log = logging.getLogger(__name__)


class Pool(ConnectionPool[Connection[TupleRow]]):
    """A pool that makes connections when they are wanted, and can say why it could not."""

    cause: Exception | None = None

    def __init__(self, url: str, size: int) -> None:
        pool = self

        class Remembering(Connection[TupleRow]):
            @classmethod
            def connect(cls, conninfo: str = "", **options: Any) -> Connection[TupleRow]:  # type: ignore[override]
                try:
                    connection = super().connect(conninfo, **options)
                except psycopg.Error as error:
                    pool.cause = error
                    raise
                pool.cause = None
                return connection

        super().__init__(
            url,
            connection_class=Remembering,
            kwargs=_options(_SESSION),
            min_size=0,
            max_size=size,
            open=True,
            timeout=_WAIT,
            check=ConnectionPool.check_connection,
            # Each request that finds no connection tries to make one, rather than a timer that waits ever longer.
            reconnect_timeout=0.001,
        )


def open_pool(settings: DatabaseSettings, *, size: int = 8) -> Pool:
    """Up to `size` connections, made when they are wanted. Opening it asks nothing of the server."""
    return Pool(settings.url, size)


def connect(settings: DatabaseSettings) -> Connection[TupleRow]:
    """A connection beside the pool. Raises psycopg's errors."""
    return psycopg.connect(settings.url, **_options(_SESSION))


@contextmanager
def transaction(pool: ConnectionPool[Connection[TupleRow]], wait: float = _WAIT) -> Iterator[Connection[TupleRow]]:
    """A connection for one transaction, which is committed at the end of the block.

    wait: seconds for a connection. Raises Unavailable without the server, AccessDenied where the role may not do it.
    """
    try:
        with pool.connection(wait) as connection:
            yield connection
    except psycopg.Error as error:
        raise explained(error, pool) from error


def check(pool: ConnectionPool[Connection[TupleRow]], wait: float = 2.0) -> None:
    """Raises Unavailable or AccessDenied, with the cause in words, unless the server answers and has the tables."""
    with transaction(pool, wait) as connection:
        connection.execute("select from sensors.readings limit 0")
        connection.execute("select from sensors.training_jobs limit 0")


def explained(error: psycopg.Error, pool: ConnectionPool[Connection[TupleRow]]) -> Failure:
    """What psycopg raised as a failure with its remedy."""
    if isinstance(error, PoolTimeout):
        cause = pool.cause if isinstance(pool, Pool) else None
        if not isinstance(cause, psycopg.Error):
            server = _server(str(pool.conninfo))
            return Unavailable(
                "postgresql", f"PostgreSQL at {server}: all {pool.max_size} connections are in use: try again"
            )
        error = cause
    return _explained(error, str(pool.conninfo))


def upgrade(settings: DatabaseSettings, patience: float) -> None:
    """Makes the schema and its tables what this code expects. patience: seconds to wait for the server.

    Two that run at once follow one another. Raises Unavailable, AccessDenied, or Failure for tables of a later release.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_fixed(_PAUSE),
        stop=stop_after_delay(patience),
        before_sleep=lambda state: log.info("waiting for the database: %s", error_of(state)),
        reraise=True,
    )
    retrying(_migrate, settings)


def _migrate(settings: DatabaseSettings) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    options = _options({"search_path": SCHEMA})
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(settings.url, **options), poolclass=NullPool
    )
    try:
        with engine.begin() as connection:
            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _MIGRATING})
            # CREATE SCHEMA IF NOT EXISTS asks for a right that is not needed where the schema is there.
            if not connection.scalar(text("select 1 from pg_namespace where nspname = :name"), {"name": SCHEMA}):
                connection.execute(text(f"create schema {SCHEMA}"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.Error):
            raise
        raise _explained(error.orig, settings.url) from error
    except psycopg.Error as error:
        raise _explained(error, settings.url) from error
    except CommandError as error:
        raise Failure(
            f"the tables in schema {SCHEMA} of {_server(settings.url)} are not of this release ({error}): "
            "a later one has migrated them; install that one, or restore the database that belongs to this one"
        ) from error


def _explained(error: psycopg.Error, url: str) -> Failure:
    server, text = _server(url), " ".join(str(error).split())
    if "password authentication failed" in text or isinstance(error, errors.InvalidAuthorizationSpecification):
        remedy = "check the password in the Secret that global.postgresql.existingSecret names"
        return AccessDenied("postgresql", f"PostgreSQL at {server} lets nobody in ({text}): {remedy}")
    if isinstance(error, errors.InsufficientPrivilege) or "permission denied" in text:
        role = conninfo_to_dict(url).get("user", "")
        remedy = f"let the role own the schema {SCHEMA} with all that is in it"
        return AccessDenied("postgresql", f"PostgreSQL at {server} refuses role {role} ({text}): {remedy}")
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn | errors.InvalidSchemaName):
        remedy = "run 'python -m mlops sensor-trainer migrate', which the chart's Job does"
        return Unavailable(
            "postgresql", f"PostgreSQL at {server} has not the tables of this release ({text}): {remedy}"
        )
    # psycopg's own, without a code of the server, which ended while it answered: its last words are a second answer.
    cut_off = isinstance(error, psycopg.InternalError) and error.sqlstate is None
    if cut_off or isinstance(error, psycopg.OperationalError | errors.ReadOnlySqlTransaction):
        remedy = "check that it runs and that global.services.postgresql or global.postgresql.external names it"
        return Unavailable("postgresql", f"PostgreSQL at {server} failed ({text}): {remedy}")
    raise error


def _options(session: dict[str, str]) -> dict[str, Any]:
    """The arguments of a connection: libpq's limits, and the session's settings."""
    options = " ".join(f"-c {name}={value}" for name, value in session.items())
    return {**_LIMITS, "options": options, "application_name": "sensor-trainer"}


def _server(url: str) -> str:
    """The server and database in a message, without a password that somebody wrote into the URL."""
    parts = conninfo_to_dict(url)
    return f"{parts.get('host')}:{parts.get('port', 5432)}/{parts.get('dbname')}"
