#!/usr/bin/env python3
"""Backs a PostgreSQL server up by pgbackrest: all of it where the newest full backup is too old, else what changed.

PGHOST, PGPORT, PGPASSWORD and libpq's other variables name the server, as its superuser; $PGDATA is its data, read
only. FULL_DAYS says how many days a full backup serves, RETAINED_FULL how many of them are kept with what stands on
them and the log since. The end of the backup is noted in the server, as the comment on the database `postgres`: who may
connect to any database there can read it, and the alert PostgreSQLBackupOld does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

Backup = dict[str, Any]


def pgbackrest(*words: str) -> str:
    """What the command prints. Its messages go where ours go; one that fails ends us with its exit code."""
    done = subprocess.run(("pgbackrest", *words), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def backups() -> list[Backup]:
    """The backups there are, oldest first, as `pgbackrest info` describes them."""
    (stanza,) = json.loads(pgbackrest("info", "--output=json"))
    found: list[Backup] = stanza["backup"]
    return found


def kind_of(there: list[Backup], full_days: float, now: float) -> str:
    """`full`, or `incr` where a full backup is younger than these days."""
    newest = max((one["timestamp"]["stop"] for one in there if one["type"] == "full"), default=0)
    return "full" if now - newest > full_days * 86400 else "incr"


def note(backup: Backup) -> None:
    """Writes the end of the backup into the server."""
    ended = datetime.fromtimestamp(backup["timestamp"]["stop"], UTC).isoformat()
    sql = f"COMMENT ON DATABASE postgres IS 'backed up {ended}'"
    subprocess.run(("psql", "--no-psqlrc", "--quiet", "--dbname=postgres", f"--command={sql}"), check=True)


def main() -> None:
    # A no-op where the stanza is there. It refuses one that is another server's.
    pgbackrest("stanza-create", f"--pg1-port={os.environ['PGPORT']}")
    kind = kind_of(backups(), float(os.environ["FULL_DAYS"]), time.time())
    retained = f"--repo1-retention-full={os.environ['RETAINED_FULL']}"
    pgbackrest("backup", f"--type={kind}", "--start-fast", retained, f"--pg1-port={os.environ['PGPORT']}")
    there = backups()
    newest = there[-1]
    note(newest)
    size = newest["info"]["repository"]["delta"]
    print(
        f"backup {newest['label']} ({newest['type']}): {size} bytes written; {len(there)} backups are kept", flush=True
    )


if __name__ == "__main__":
    main()
