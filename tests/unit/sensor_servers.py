"""Databases for the sensor trainer."""

import uuid

import psycopg

from mlops.config import DatabaseSettings
from mlops.sensor_trainer.store.database import upgrade
from tests.servers import copied, execute


def new_role(server: str) -> str:
    """The name of a role that may log in and nothing else; other tests have roles of their own on the server."""
    name = f"sensors_{uuid.uuid4().hex[:12]}"
    execute(f"{server}/postgres", f"create role {name} login")
    return name


def own_database(server: str) -> str:
    """The URL of a new database and its user of the same name, confined to a schema as postgresql-start does it.

    server: postgresql://postgres@<host>:<port>, without a database.
    """
    name = new_role(server)
    execute(f"{server}/postgres", f"create database {name}")
    execute(
        f"{server}/{name}", f"create schema sensors authorization {name}", "revoke all on schema public from public"
    )
    return confined(server, name)


def migrated_database(server: str) -> str:
    """As own_database, with the tables of this release."""

    def migrated() -> str:
        url = own_database(server)
        upgrade(DatabaseSettings(url), patience=0)
        return url

    copy = copied(server, "sensors_migrated", migrated)
    name = new_role(server)
    with psycopg.connect(copy, autocommit=True) as connection:
        owner = connection.execute("select nspowner::regrole::text from pg_namespace where nspname = 'sensors'")
        connection.execute(f"reassign owned by {owner.fetchone()[0]} to {name}")
    execute(f"{server}/postgres", f"alter database {copy.rpartition('/')[2]} rename to {name}")
    return confined(server, name)


def emptied(url: str) -> str:
    """The same database, without readings and jobs: to make a new one for each test costs most of the test's time."""
    execute(url, "truncate sensors.readings, sensors.training_jobs")
    return url


def confined(server: str, name: str) -> str:
    """The URL of the database for the user of the same name, whom alone it is open to from now on."""
    execute(
        f"{server}/postgres",
        f"revoke all on database {name} from public",
        f"grant connect, temporary on database {name} to {name}",
    )
    return f"{server.replace('postgres@', f'{name}@')}/{name}"
