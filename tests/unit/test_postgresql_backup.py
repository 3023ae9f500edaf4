"""Backups by pgbackrest to the store over TLS, and what is restored of them, with the programs that the images hold."""

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from ssl import create_default_context
from typing import Any, ClassVar

import pytest

from tests.certificates import Authority
from tests.conftest import eventually, free_ports
from tests.servers import ACCESS_KEY, REGION, ROOT, S3, SECRET_KEY
from tests.unit.postgresql_volume import PASSWORDS, UNPRIVILEGED, answers, ask, command, hand_over, new_volume, server

pytestmark = pytest.mark.timeout(1800)  # several servers each, one after the other
KEYS = {"access-key": "backups-access-key", "secret-key": "backups-secret-key"}
ARCHIVED = {**PASSWORDS, "POSTGRES_ARCHIVE_TIMEOUT": "300", "POSTGRES_DATABASES": "airflow"}
CHECKSUM = "SELECT count(*) || ' ' || md5(string_agg(id || name, ',' ORDER BY id)) FROM kept"


class SecureS3(S3):
    """MinIO that speaks TLS, as global.tls has it; `ca` verifies it."""

    environment: ClassVar = S3.environment

    def prepared(self) -> tuple[list[str], str]:
        words, url = super().prepared()
        authority = Authority(self.folder / "authority")
        self.ca = authority.ca
        made = authority.certificate(self.folder / "certificates", "127.0.0.1", "localhost")
        (made / "tls.crt").rename(made / "public.crt")
        (made / "tls.key").rename(made / "private.key")
        return [*words, f"--certs-dir={made}"], url.replace("http:", "https:")

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"{self.url}/minio/health/ready", timeout=2, context=create_default_context(cafile=str(self.ca))
            ):
                return True
        except (OSError, urllib.error.HTTPError):
            return False


@pytest.fixture(scope="module")
def store() -> Iterator[SecureS3]:
    """A store with the bucket `backups` and its user, made by the commands of the chart's Job."""
    with tempfile.TemporaryDirectory() as folder, SecureS3(Path(folder)) as started:
        Path(folder).chmod(0o755)
        users = Path(folder) / "users/backups"
        users.mkdir(parents=True)
        for name, text in KEYS.items():
            (users / name).write_text(text)
        mlops = partial(
            subprocess.run,
            check=True,
            cwd=ROOT,
            env={
                **os.environ,
                "AWS_ENDPOINT_URL_S3": started.url,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_CA_BUNDLE": str(started.ca),
                "SSL_CERT_FILE": str(started.ca),
                **{f"MAESTRO_{name}_BUCKET": name.lower() for name in ("DATA", "REPORTS", "PREDICTIONS")},
            },
        )
        ingestion = (sys.executable, "-m", "mlops", "ingestion")
        mlops((*ingestion, "buckets", "--name", "backups", "--name", "data"))
        grant = ("--grant", "backups:write:backups")
        mlops((*ingestion, "users", "--folder", str(users.parent), *grant))
        yield started


@pytest.fixture
def volume() -> Iterator[Path]:
    with new_volume() as folder:
        yield folder


def repository(store: SecureS3, volume: Path, stanza: str, port: int | None = None) -> dict[str, str]:
    """What the chart tells the server, the restore and the backup of where backups lie."""
    keys = volume / "keys"
    keys.mkdir(exist_ok=True)
    for name, text in KEYS.items():
        (keys / name).write_text(text)
    (volume / "ca.crt").write_bytes(store.ca.read_bytes())
    hand_over(keys)
    return {
        "BACKUP_KEYS": str(keys),
        "PGBACKREST_STANZA": stanza,
        "PGBACKREST_REPO1_PATH": "/postgresql",
        "PGBACKREST_REPO1_S3_BUCKET": "backups",
        # In a certificate it looks for names, and for no address.
        "PGBACKREST_REPO1_S3_ENDPOINT": f"localhost:{port or store.url.rpartition(':')[2]}",
        "PGBACKREST_REPO1_S3_REGION": REGION,
        "SSL_CERT_FILE": str(volume / "ca.crt"),
        "SSL_CERT_DIR": "/etc/ssl/certs",
    }


def run(volume: Path, words: list[str], told: Mapping[str, str], **more: str) -> "subprocess.CompletedProcess[str]":
    """One of the image's programs, as its user."""
    _, fixed = command(volume, 1)
    own: dict[str, Any] = UNPRIVILEGED
    words = [str(volume / "image" / words[0]), *words[1:]]
    return subprocess.run(words, env={**fixed, **told, **more}, capture_output=True, text=True, timeout=600, **own)


def back_up(volume: Path, told: Mapping[str, str], port: int, **more: str) -> str:
    """What the backup says; fails where it fails."""
    done = backed_up(volume, told, port, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def backed_up(volume: Path, told: Mapping[str, str], port: int, **more: str) -> "subprocess.CompletedProcess[str]":
    client = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres"}
    client |= {"PGPASSWORD": PASSWORDS["POSTGRES_PASSWORD"], "FULL_DAYS": "7", "RETAINED_FULL": "2"}
    return run(volume, ["backup.py"], told, **{**client, **more})


def restore(volume: Path, told: Mapping[str, str], stanza: str, at: str = "") -> "subprocess.CompletedProcess[str]":
    return run(volume, ["postgresql-restore"], told, RESTORE_FROM=stanza, RESTORE_AT=at)


def airflow(port: int, query: str) -> Any:
    return ask(port, query, "airflow", PASSWORDS["AIRFLOW_PASSWORD"])


def write(port: int, first: int, last: int) -> str:
    """Adds these rows; hands back the time after it, by the server's clock."""
    airflow(port, "CREATE TABLE IF NOT EXISTS kept (id int PRIMARY KEY, name text)")
    rows = f"generate_series({first}, {last}) AS n"
    airflow(port, f"INSERT INTO kept SELECT n, md5(n::text) FROM {rows}")  # noqa: S608 - of these numbers
    return str(airflow(port, "SELECT clock_timestamp()"))


def archive_all(port: int) -> None:
    """Waits until all that was written so far is in the archive."""
    written = ask(port, "SELECT pg_walfile_name(pg_switch_wal())")
    archived = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"
    eventually(lambda: ask(port, archived) >= written)


def test_what_was_backed_up_and_archived_is_restored_to_a_point_in_time_and_to_the_end(store, volume):
    told = repository(store, volume, "ours-maestro")
    with server(volume, **ARCHIVED, **told) as port:
        write(port, 1, 1000)
        assert "(full)" in back_up(volume, told, port)
        write(port, 1001, 3000)
        assert "(incr)" in back_up(volume, told, port)
        middle = write(port, 3001, 5000)
        at_the_middle = airflow(port, CHECKSUM)
        airflow(port, "DELETE FROM kept WHERE id % 2 = 0")
        write(port, 5001, 6000)
        at_the_end = airflow(port, CHECKSUM)
        archive_all(port)
    assert at_the_middle.split()[0] == "5000"
    assert at_the_end.split()[0] == "3500"
    for at, expected in ((middle, at_the_middle), ("", at_the_end)):
        with new_volume() as other:
            own = repository(store, other, f"restored-{len(at)}")
            done = restore(other, own, "ours-maestro", at)
            assert done.returncode == 0, done.stdout + done.stderr
            # Another release: passwords of its own, and a stanza, which gets all from the first start on.
            passwords = {**ARCHIVED, "AIRFLOW_PASSWORD": "of the other release"}
            with server(other, **passwords, **own) as port:
                assert ask(port, CHECKSUM, "airflow", "of the other release") == expected
                assert not answers(port, "airflow", PASSWORDS["AIRFLOW_PASSWORD"])
                assert "(full)" in back_up(other, own, port)
                ask(port, "INSERT INTO kept VALUES (0, 'after')", "airflow", "of the other release")
                archive_all(port)
                afterwards = ask(port, CHECKSUM, "airflow", "of the other release")
            # What the other release made is restored in its turn.
            with new_volume() as third:
                done = restore(third, repository(store, third, "third"), own["PGBACKREST_STANZA"])
                assert done.returncode == 0, done.stdout + done.stderr
                with server(third, **ARCHIVED, **repository(store, third, "third")) as port:
                    assert airflow(port, CHECKSUM) == afterwards


def test_a_restore_leaves_a_cluster_that_is_there_alone(store, volume):
    told = repository(store, volume, "alone")
    with server(volume, **ARCHIVED, **told) as port:
        write(port, 1, 10)
        back_up(volume, told, port)
        write(port, 11, 20)
    done = restore(volume, told, "alone")
    assert done.returncode == 0, done.stderr
    assert "nothing is restored" in done.stdout
    with server(volume, **ARCHIVED, **told) as port:
        assert airflow(port, "SELECT count(*) FROM kept") == 20


def test_a_restore_that_was_interrupted_is_done_again_and_one_of_nothing_says_where_it_looked(store, volume):
    told = repository(store, volume, "again")
    with server(volume, **ARCHIVED, **told) as port:
        write(port, 1, 10)
        back_up(volume, told, port)
    with new_volume() as other:
        own = repository(store, other, "other")
        half = other / "data/pgdata.restored"
        half.mkdir()
        (half / "PG_VERSION").write_text("15\n")
        hand_over(half)
        none = restore(other, own, "nobodys")
        assert none.returncode != 0
        assert "nobodys was not restored from bucket backups" in none.stderr
        assert not (other / "data/pgdata").exists()
        assert restore(other, own, "again").returncode == 0
        assert not half.exists()
        with server(other, **ARCHIVED, **own) as port:
            assert airflow(port, "SELECT count(*) FROM kept") == 10


def test_a_backup_is_full_when_the_newest_full_one_is_too_old_and_old_ones_go(store, volume):
    told = repository(store, volume, "kinds")
    with server(volume, **ARCHIVED, **told) as port:
        for kind, days in (("full", "7"), ("incr", "7"), ("full", "0"), ("full", "0")):
            said = back_up(volume, told, port, FULL_DAYS=days)
            assert f"({kind})" in said
        assert said.endswith("2 backups are kept\n"), "of the first nothing is left, nor of what stood on it"
        noted = ask(port, "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'postgres'")
        ended = ask(port, f"SELECT now() - '{noted.removeprefix('backed up ')}'::timestamptz")
        assert 0 <= ended.total_seconds() < 600


def test_a_stanza_of_another_server_is_left_as_it_is(store, volume):
    told = repository(store, volume, "theirs")
    with server(volume, **ARCHIVED, **told) as port:
        write(port, 1, 10)
        back_up(volume, told, port)
    with new_volume() as other:
        own = repository(store, other, "theirs")
        with server(other, **ARCHIVED, **own) as port:
            refused = backed_up(other, own, port)
            assert refused.returncode != 0
            assert "do not match" in refused.stderr + refused.stdout
    with new_volume() as third:
        assert restore(third, repository(store, third, "third"), "theirs").returncode == 0


def test_the_user_of_backups_opens_no_other_bucket(store, volume):
    told = repository(store, volume, "elsewhere")
    with server(volume, **ARCHIVED, **told) as port:
        refused = backed_up(volume, told, port, PGBACKREST_REPO1_S3_BUCKET="data")
        assert refused.returncode != 0
        assert "AccessDenied" in refused.stderr


def test_without_its_store_the_server_starts_works_and_ends_and_archives_later_what_it_wrote(store, volume):
    (nobodys,) = free_ports(1)
    away, there = repository(store, volume, "late", nobodys), repository(store, volume, "late")
    with server(volume, **ARCHIVED, **away) as port:
        write(port, 1, 10)
        ask(port, "SELECT pg_switch_wal()")
        write(port, 11, 20)
        eventually(lambda: ask(port, "SELECT failed_count FROM pg_stat_archiver") > 0)
        began = time.monotonic()
    assert time.monotonic() - began < 100, "the grace period of the pod is 120 s"
    with server(volume, **ARCHIVED, **there) as port:
        back_up(volume, there, port)
        eventually(lambda: ask(port, "SELECT archived_count FROM pg_stat_archiver") > 1)
        archive_all(port)
        assert ask(port, "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'") == 0


def test_a_point_in_time_after_what_was_archived_is_refused_and_said(store, volume):
    told = repository(store, volume, "of-tomorrow")
    with server(volume, **ARCHIVED, **told) as port:
        write(port, 1, 10)
        back_up(volume, told, port)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%d %H:%M:%S+00")
    with new_volume() as other:
        own = repository(store, other, "other")
        assert restore(other, own, told["PGBACKREST_STANZA"], tomorrow).returncode == 0
        done = run(other, ["postgresql-start", "-c", "port=1"], {**own, **ARCHIVED})
        assert done.returncode != 0
        assert "has to lie in what was archived" in done.stderr


def test_a_point_in_time_before_the_first_backup_is_refused_and_nothing_is_restored(store, volume):
    told = repository(store, volume, "of-2001")
    with server(volume, **ARCHIVED, **told) as port:
        back_up(volume, told, port)
    with new_volume() as other:
        own = repository(store, other, "other")
        done = restore(other, own, told["PGBACKREST_STANZA"], "2001-01-01 00:00:00+00")
        assert done.returncode != 0
        assert "unable to find backup set with stop time less than '2001-01-01" in done.stderr
        assert not (other / "data/pgdata").exists()
