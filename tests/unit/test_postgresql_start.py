"""postgresql-start with Debian's PostgreSQL, as the user without rights that the image runs it as."""

import os
import shutil
import signal
import subprocess
import time

import psycopg2
import pytest

from tests.certificates import Authority
from tests.conftest import free_ports
from tests.unit.postgresql_volume import (
    PASSWORDS,
    PROGRAMS,
    UNPRIVILEGED,
    answers,
    ask,
    command,
    hand_over,
    new_volume,
    server,
)


@pytest.fixture
def volume():
    with new_volume() as folder:
        yield folder


def fails(volume, **environment):
    """What it says when it does not start."""
    words, fixed = command(volume, 1)
    environment = {**fixed, **environment}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240, **UNPRIVILEGED)
    assert result.returncode != 0
    return result.stderr


def test_each_database_gets_an_owner_who_enters_by_password_and_no_other(volume):
    with server(volume, POSTGRES_DATABASES="airflow mlflow", **PASSWORDS) as port:
        for name in ("airflow", "mlflow"):
            password = PASSWORDS[f"{name.upper()}_PASSWORD"]
            assert ask(port, "CREATE TABLE t (); SELECT current_user", name, password) == name
            assert not answers(port, name, "wrong")
        assert not answers(port, "mlflow", PASSWORDS["MLFLOW_PASSWORD"], database="airflow")
        assert ask(port, "SELECT rolpassword FROM pg_authid WHERE rolname = 'mlflow'").startswith("SCRAM-SHA-256$")
        assert ask(port, "SHOW data_checksums") == "on"
        assert ask(port, "SELECT datcollate FROM pg_database WHERE datname = 'airflow'") == "C.UTF-8"


def test_a_start_adds_databases_applies_changed_passwords_and_keeps_the_data(volume):
    with server(volume, POSTGRES_DATABASES="mlflow", **PASSWORDS) as port:
        ask(port, "CREATE TABLE kept AS SELECT 42 AS answer", "mlflow", PASSWORDS["MLFLOW_PASSWORD"])
    changed = {**PASSWORDS, "POSTGRES_PASSWORD": "new", "MLFLOW_PASSWORD": "newer", "FEATURE_STORE_PASSWORD": "f"}
    with server(volume, POSTGRES_DATABASES="mlflow feature-store", **changed) as port:
        assert ask(port, "SELECT answer FROM kept", "mlflow", "newer") == 42
        assert not answers(port, "mlflow", PASSWORDS["MLFLOW_PASSWORD"])
        assert not answers(port, "postgres", PASSWORDS["POSTGRES_PASSWORD"])
        assert answers(port, "feature-store", "f")


def test_a_password_that_is_the_same_stays_as_it_is_kept(volume):
    """The pooler logs in by what it was shown: another salt, and it could not."""
    kept = "SELECT string_agg(rolname || rolpassword, ' ' ORDER BY rolname) FROM pg_authid WHERE rolname IN {}"
    told = {**PASSWORDS, "FEAST_PASSWORD": "ümlaut", "MONITORING_PASSWORD": "m", "POOLER_PASSWORD": "p"}
    databases = {"POSTGRES_DATABASES": "airflow mlflow feast", "POSTGRES_POOLED": "airflow"}
    found = []
    for changed in ({}, {}, {"MLFLOW_PASSWORD": "another"}):
        with server(volume, **databases, **{**told, **changed}) as port:
            found.append(
                [ask(port, kept.format(names)) for names in ("('airflow', 'monitoring', 'pooler')", "('mlflow')")]
            )
            assert answers(port, "feast", "ümlaut")
    assert found[0] == found[1]
    assert found[1][0] == found[2][0]
    assert found[1][1] != found[2][1]


def test_what_could_not_be_pooled_is_refused_in_words(volume):
    assert "POSTGRES_POOLED holds 'mlflow'" in fails(volume, POSTGRES_POOLED="mlflow", **PASSWORDS)
    told = {**PASSWORDS, "POSTGRES_DATABASES": "airflow", "POSTGRES_POOLED": "airflow"}
    assert "POOLER_PASSWORD is not set" in fails(volume, **told)


FORBIDDEN = {
    "a table in public": "CREATE TABLE public.t ()",
    "another schema": "CREATE SCHEMA other",
    "its database": "ALTER DATABASE sensors SET work_mem = '1GB'",
    "an extension": "CREATE EXTENSION pg_trgm",
    "another role": "CREATE ROLE other",
    "a table of another": "SELECT answer FROM public.kept",
}


def test_a_confined_user_touches_its_own_schema_only(volume):
    passwords = {**PASSWORDS, "SENSORS_PASSWORD": "s"}
    with server(volume, POSTGRES_DATABASES="airflow sensors", **passwords) as port:
        assert ask(port, "CREATE SCHEMA before; SELECT 1", "sensors", "s") == 1, "not confined"
    for _ in range(2):
        with server(volume, POSTGRES_DATABASES="airflow sensors", POSTGRES_CONFINED="sensors", **passwords) as port:
            ask(port, "CREATE TABLE IF NOT EXISTS public.kept AS SELECT 42 AS answer", database="sensors")
            for what, statement in FORBIDDEN.items():
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    pytest.fail(f"it may touch {what}: {ask(port, statement, 'sensors', 's')}")
            assert not answers(port, "sensors", "s", database="airflow")
            assert not answers(port, "sensors", "s", database="postgres")
            assert not answers(port, "airflow", PASSWORDS["AIRFLOW_PASSWORD"], database="sensors")
            own = "CREATE TEMPORARY TABLE t (); CREATE TABLE sensors.kept (); DROP TABLE kept; SELECT current_schema()"
            assert ask(port, own, "sensors", "s") == "sensors"


def test_the_ledgers_user_adds_to_one_table_and_reads_it_and_may_do_nothing_else(volume):
    passwords = {**PASSWORDS, "LEDGER_PASSWORD": "l"}
    add = "INSERT INTO promotions VALUES ('m', {}, 'adopt', 'w', now(), NULL, '1', 'w', '{{}}', 'r{}', '')"
    forbidden = ("UPDATE promotions SET why = ''", "DELETE FROM promotions", "TRUNCATE promotions", "CREATE TABLE t ()")
    for number in (1, 2):
        with server(volume, POSTGRES_DATABASES="airflow ledger", **passwords) as port:
            ask(port, add.format(number, number), "ledger", "l")
            assert ask(port, "SELECT count(*) FROM promotions", "ledger", "l") == number, "a start keeps what there is"
            for statement in (*forbidden, "ALTER TABLE promotions DROP why"):
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    pytest.fail(f"it may: {ask(port, statement, 'ledger', 'l')}")
            assert not answers(port, "airflow", PASSWORDS["AIRFLOW_PASSWORD"], database="ledger")


def test_who_watches_sees_sizes_and_activity_and_what_an_owner_lets_it_read(volume):
    told = {**PASSWORDS, "MONITORING_PASSWORD": "m"}
    with server(volume, POSTGRES_DATABASES="airflow", **PASSWORDS) as port:
        ask(port, "CREATE TABLE t AS SELECT 42 AS answer, 7 AS secret", "airflow", PASSWORDS["AIRFLOW_PASSWORD"])
        assert not answers(port, "monitoring", "m", database="airflow"), "nobody asked for it"
    for _ in range(2):
        with server(volume, POSTGRES_DATABASES="airflow mlflow", **told) as port:
            watch = {"user": "monitoring", "password": "m", "database": "airflow"}
            assert ask(port, "SELECT pg_database_size('mlflow')", **watch) > 0
            ask(port, "GRANT SELECT (answer) ON t TO monitoring", "airflow", PASSWORDS["AIRFLOW_PASSWORD"])
            assert ask(port, "SELECT answer FROM t", **watch) == 42
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                ask(port, "SELECT secret FROM t", **watch)
            with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
                ask(port, "CREATE TABLE u ()", **watch)


def test_with_a_certificate_nobody_comes_in_without_tls_and_clients_can_verify_the_server(volume, tmp_path):
    authority, other = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    folder = authority.certificate(volume / "tls", "localhost")
    hand_over(folder)

    def said_by(host, **options):
        """What libpq says of the server; nothing where it lets it in."""
        user = {"user": "airflow", "dbname": "airflow", "password": PASSWORDS["AIRFLOW_PASSWORD"]}
        try:
            psycopg2.connect(host=host, hostaddr="127.0.0.1", port=port, connect_timeout=5, **user, **options).close()
        except psycopg2.OperationalError as error:
            return str(error)
        return ""

    with server(volume, POSTGRES_DATABASES="airflow", POSTGRES_TLS=str(folder), **PASSWORDS) as port:
        verified = {"sslmode": "verify-full", "sslrootcert": str(authority.ca)}
        assert said_by("localhost", **verified) == ""
        assert "no encryption" in said_by("localhost", sslmode="disable")
        assert "certificate verify failed" in said_by("localhost", **{**verified, "sslrootcert": str(other.ca)})
        assert "does not match host name" in said_by("elsewhere", **verified)
        probe = [f"{PROGRAMS}/pg_isready", "--host=127.0.0.1", f"--port={port}", "--username=postgres"]
        assert subprocess.run(probe, stdout=subprocess.DEVNULL).returncode == 0


def test_an_interrupted_initdb_is_done_again(volume):
    half = volume / "data/pgdata.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("15\n")
    if os.geteuid() == 0:
        shutil.chown(half, "nobody", "nogroup")
    with server(volume, POSTGRES_DATABASES="", **PASSWORDS) as port:
        assert ask(port, "SELECT 1") == 1
    assert not half.exists()


def test_a_folder_that_kubernetes_opened_to_its_group_is_closed_again(volume):
    with server(volume, **PASSWORDS):
        pass
    (volume / "data/pgdata").chmod(0o2770)
    with server(volume, **PASSWORDS) as port:
        assert ask(port, "SELECT 1") == 1


def test_files_that_are_no_cluster_are_left_alone(volume):
    data = volume / "data/pgdata"
    data.mkdir()
    (data / "precious").touch()
    assert "holds files but no cluster" in fails(volume, **PASSWORDS)
    assert (data / "precious").exists()


def test_a_cluster_of_another_version_is_left_alone_and_the_remedy_said(volume):
    data = volume / "data/pgdata"
    data.mkdir()
    (data / "PG_VERSION").write_text("14\n")
    assert "pg_dump" in fails(volume, **PASSWORDS)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "POSTGRES_PASSWORD is not set"),
        ({**PASSWORDS, "POSTGRES_DATABASES": "feature-store"}, "FEATURE_STORE_PASSWORD is not set"),
        (
            {**PASSWORDS, "POSTGRES_DATABASES": "monitoring", "MONITORING_PASSWORD": "m"},
            "the user that watches: use another name",
        ),
        ({**PASSWORDS, "POSTGRES_DATABASES": 'x";DROP'}, "use a-z, 0-9, _ and -"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_made(volume, environment, said):
    assert said in fails(volume, **environment)
    assert not (volume / "data/pgdata").exists()


def test_a_start_that_was_killed_is_completed_by_the_next_one(volume):
    words, fixed = command(volume, free_ports(1)[0])
    environment = {**fixed, **PASSWORDS, "POSTGRES_DATABASES": "airflow mlflow"}
    process = subprocess.Popen(words, env=environment, start_new_session=True, **UNPRIVILEGED)
    lock = volume / "data/pgdata/postmaster.pid"
    deadline = time.monotonic() + 240
    while not (lock.exists() and lock.read_text()):
        assert time.monotonic() < deadline, "no server has started"
        time.sleep(0.01)  # the start must not have got any further
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # The server is in a session of its own; in a container it dies with the script. It ends without a checkpoint.
    crash = [f"{PROGRAMS}/pg_ctl", "stop", "--mode=immediate", "--silent", f"--pgdata={volume}/data/pgdata"]
    subprocess.run(crash, check=True, **UNPRIVILEGED)
    with server(volume, POSTGRES_DATABASES="airflow mlflow", **PASSWORDS) as port:
        assert answers(port, "airflow", PASSWORDS["AIRFLOW_PASSWORD"])
        assert answers(port, "mlflow", PASSWORDS["MLFLOW_PASSWORD"])


def test_space_is_kept_from_the_server_and_given_up_where_the_volume_is_full(volume, capfd):
    def with_free(mebibytes):
        """Starts a server on a volume of which df says so."""
        (volume / "df").write_text(f"#!/bin/sh\nprintf 'Avail\\n%s\\n' {mebibytes}\n")
        (volume / "df").chmod(0o755)
        path = f"{volume}:{PROGRAMS}:/usr/bin:/bin"
        with server(volume, POSTGRES_DATABASES="airflow", PATH=path, **PASSWORDS) as port:
            assert ask(port, "SELECT 1") == 1
        return capfd.readouterr().err

    ballast = volume / "data/ballast"
    with_free(511)
    assert not ballast.exists(), "a volume that is nearly full keeps what it has"
    with_free(512)
    assert ballast.stat().st_size == 64 << 20
    with_free(64)
    assert ballast.exists(), "there is room to start"
    assert "DiskFilling" in with_free(63)
    assert not ballast.exists()
    assert "DiskFilling" not in with_free(0)
