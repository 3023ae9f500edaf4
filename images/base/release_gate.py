#!/opt/venv/bin/python
"""Lets pods wait for the migration of their database: a Job marks a revision, and init containers wait for it.

    release-gate mark COMPONENT REVISION
    release-gate wait COMPONENT REVISION [--timeout SECONDS]

DATABASE_URL holds a libpq URL (postgresql://user:password@host/database). Revisions stay marked, so pods of the release
before, which restart while a new one comes up, find theirs. Exits with 0 when the revision is marked, otherwise with 1
and the cause.
"""

import argparse
import os
import sys
import time

import psycopg2

# Two Jobs may be first at the same time, and CREATE TABLE IF NOT EXISTS is no lock.
CREATE = """
SELECT pg_advisory_xact_lock(hashtext('release_gate'));
CREATE TABLE IF NOT EXISTS release_gate (
    component text NOT NULL,
    revision text NOT NULL,
    marked_at timestamptz NOT NULL,
    PRIMARY KEY (component, revision)
)"""
MARK = """
INSERT INTO release_gate (component, revision, marked_at) VALUES (%s, %s, now())
ON CONFLICT (component, revision) DO UPDATE SET marked_at = excluded.marked_at"""
FIND = "SELECT marked_at FROM release_gate WHERE component = %s AND revision = %s"
CONNECT_SECONDS = 5
POLL_SECONDS = 1


def mark(url: str, component: str, revision: str) -> None:
    """Record that the database of the component is migrated to the revision."""
    connection = psycopg2.connect(url, connect_timeout=CONNECT_SECONDS)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(CREATE)
            cursor.execute(MARK, (component, revision))
    finally:
        connection.close()


def is_marked(url: str, component: str, revision: str) -> bool:
    """Whether the revision is recorded; raises psycopg2.OperationalError when the database does not answer."""
    connection = psycopg2.connect(url, connect_timeout=CONNECT_SECONDS)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(FIND, (component, revision))
            return cursor.fetchone() is not None
    except psycopg2.errors.UndefinedTable:
        return False
    finally:
        connection.close()


def wait(url: str, component: str, revision: str, timeout: float) -> None:
    """Return when the revision is marked, whatever is in the way at first; raise TimeoutError with the last cause."""
    deadline = time.monotonic() + timeout
    said = ""
    while True:
        try:
            if is_marked(url, component, revision):
                return
            cause = f"{component} is not migrated to {revision} yet: see the log of its migration Job"
        except psycopg2.OperationalError as error:
            cause = f"the database does not answer: {' '.join(str(error).split())}"
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {cause}")
        if cause != said:
            print(cause, flush=True)
            said = cause
        time.sleep(POLL_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("mark", "wait"))
    parser.add_argument("component")
    parser.add_argument("revision")
    parser.add_argument("--timeout", type=float, default=600, help="seconds to wait (default: %(default)s)")
    arguments = parser.parse_args()
    url = os.environ.get("DATABASE_URL", "")
    # libpq would repeat what it cannot read, password and all.
    if not url.startswith(("postgresql://", "postgres://")):
        sys.exit(
            "release-gate: DATABASE_URL has to be postgresql://user:password@host/database, without a driver's name"
        )
    try:
        if arguments.action == "mark":
            mark(url, arguments.component, arguments.revision)
        else:
            wait(url, arguments.component, arguments.revision, arguments.timeout)
    except (TimeoutError, psycopg2.Error) as error:
        sys.exit(f"release-gate: {error}")


if __name__ == "__main__":
    main()
