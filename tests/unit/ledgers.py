"""Databases for the ledger, with the rights that the platform's PostgreSQL gives its role."""

from pathlib import Path

from tests.servers import copied, execute, new_database

SQL = Path(__file__).parents[2] / "images/postgresql/ledger.sql"


def ledger_database(server: str) -> str:
    """The URL of an empty ledger, as its role. server: postgresql://postgres@<host>:<port>, without a database."""

    def made() -> str:
        url = new_database(server)
        execute(f"{server}/postgres", "create role ledger login")
        execute(url, SQL.read_text())
        return url

    return copied(server, "ledger_empty", made).replace("postgres@", "ledger@")


def as_owner(url: str) -> str:
    """The same database as one who may do everything there."""
    return url.replace("ledger@", "postgres@")
