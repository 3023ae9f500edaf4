"""The ledger of promotions: a table of PostgreSQL (images/postgresql/ledger.sql).

The platform's role adds entries there and reads them, and can neither change nor remove one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

from mlops.config import LedgerSettings
from mlops.result import JSON, Failure

Verb = Literal["promote", "rollback", "adopt"]

_SELECT = """
    select model, number, verb, who, at, from_version, to_version, why, evidence, request, before from public.promotions
    where %s is null or model = %s order by model, number
"""
_INSERT = """
    insert into public.promotions
      (model, number, verb, who, at, from_version, to_version, why, evidence, request, before)
    values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
# A server whose machine is gone sends nothing. While the lock is held nothing is sent for as long as a rollout takes.
_CONNECTION = {
    "connect_timeout": 10,
    "tcp_user_timeout": 20_000,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "application_name": "ledger",
    # The last ones: that a client whose machine is gone gives its lock up.
    "options": "-c statement_timeout=20s -c timezone=UTC -c tcp_keepalives_idle=15 -c tcp_keepalives_interval=5 "
    "-c tcp_keepalives_count=3",
}


class Busy(Failure):
    """Another process changes the model at this moment."""


@dataclass(frozen=True)
class Entry:
    """A change of the version in production.

    number: 1 is a model's first. from_version, to_version: None for no version. evidence: what spoke for it. request:
    names what asked for it, so that what is tried again is done once. before: the digest of the entry before, "" of the
    first.
    """

    model: str
    number: int
    verb: Verb
    who: str
    at: datetime
    from_version: str | None
    to_version: str | None
    why: str
    evidence: Mapping[str, JSON]
    request: str
    before: str

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, and by `before` of all entries that came earlier."""
        content = json.dumps([*astuple(self)], sort_keys=True, ensure_ascii=False, default=_as_text)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def subject(self) -> str:
        """The version that it is about: the one that it brings, or else takes away."""
        return self.to_version or self.from_version or ""


class Book:
    """The entries of one model, for who holds its lock."""

    def __init__(self, ledger: Ledger, connection: Any, model: str) -> None:
        self._ledger, self._connection, self._model = ledger, connection, model

    def entries(self) -> list[Entry]:
        """The first one first. Raises Failure where the lock is lost, as with the connection."""
        with self._ledger.explained():
            return _entries(self._connection, self._model)

    def append(self, entry: Entry) -> None:
        """Raises Busy where its number is taken."""
        import psycopg2.errors
        from psycopg2.extras import Json

        *values, evidence, request, before = astuple(entry)
        with self._ledger.explained(), self._connection.cursor() as cursor:
            try:
                cursor.execute(_INSERT, [*values, Json(dict(evidence)), request, before])
            except psycopg2.errors.UniqueViolation as error:
                raise _busy(self._model) from error


class Ledger:
    """Each method raises Failure where the database is away or refuses."""

    def __init__(self, settings: LedgerSettings) -> None:
        self._settings = settings

    @classmethod
    def from_environment(cls) -> Self:
        return cls(LedgerSettings.from_environment())

    def entries(self, model: str | None = None) -> list[Entry]:
        """Those of a model, or of all of them, in order of model and number."""
        with self.explained(), closing(self._connect()) as connection:
            return _entries(connection, model)

    @contextmanager
    def held(self, model: str) -> Iterator[Book]:
        """Nobody else holds the model until the block ends, or this process. Raises Busy where somebody does.

        The lock belongs to the session: a pooler in between has to keep one connection for it.
        """
        import psycopg2

        with self.explained():
            connection = self._connect()
        with closing(connection):
            with self.explained(), connection.cursor() as cursor:
                cursor.execute("select pg_try_advisory_lock(hashtext('promotions'), hashtext(%s))", [model])
                (free,) = cursor.fetchone()
            if not free:
                raise _busy(model)
            try:
                yield Book(self, connection, model)
            finally:
                # The server gives it up with the connection too, but later than who comes next may be there.
                with suppress(psycopg2.Error), connection.cursor() as cursor:
                    cursor.execute("select pg_advisory_unlock(hashtext('promotions'), hashtext(%s))", [model])

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns what the client raises into a Failure that names the database and the remedy."""
        import psycopg2

        try:
            yield
        except psycopg2.Error as error:
            text = " ".join(str(error).split())
            remedy = (
                "check that PostgreSQL runs and that global.services.postgresql or global.postgresql.external names it"
            )
            if isinstance(error, psycopg2.errors.UndefinedTable | psycopg2.errors.InsufficientPrivilege):
                remedy = (
                    "run images/postgresql/ledger.sql there, which the platform's own PostgreSQL does when it starts"
                )
            elif "password authentication failed" in text:
                remedy = "check the key ledger-password in the Secret global.postgresql.existingSecret"
            raise Failure(f"the ledger at {self._settings.url} failed ({text}): {remedy}") from error

    def _connect(self) -> Any:
        import psycopg2

        connection = psycopg2.connect(self._settings.url, password=self._settings.password, **_CONNECTION)
        connection.autocommit = True
        return connection


def _entries(connection: Any, model: str | None) -> list[Entry]:
    with connection.cursor() as cursor:
        cursor.execute(_SELECT, [model, model])
        return [Entry(*row) for row in cursor.fetchall()]


def _as_text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()


def _busy(model: str) -> Busy:
    return Busy(
        f"another process changes which version of {model!r} is in production: look at 'registry history' when it is "
        "done, and try again where it is still wanted"
    )
