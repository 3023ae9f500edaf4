"""PgBouncer in front of PostgreSQL, as its chart starts it: what each client does there, and who comes in."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import psycopg2
import pytest

from tests.certificates import Authority
from tests.conftest import eventually
from tests.servers import ROOT
from tests.unit.postgresql_volume import PASSWORDS, hand_over, new_volume, pooler, server

POOLED = ("airflow", "mlflow", "feast")
CONNECTIONS = 4  # of each database
PASSWORD = {**PASSWORDS, "FEAST_PASSWORD": "fe'ast", "POOLER_PASSWORD": 'po"ol er'}
POOLS = {
    "POOLER_POOLS": " ".join(f"{name}={CONNECTIONS}" for name in POOLED),
    "POOLER_CLIENTS": "200",
    "POOLER_WAIT": "30",
    "PGPASSWORD": PASSWORD["POOLER_PASSWORD"],
}
DATABASES = {"POSTGRES_DATABASES": "airflow mlflow feast", "POSTGRES_POOLED": " ".join(POOLED), **PASSWORD}


class Both(NamedTuple):
    """A server that speaks TLS only, and a pooler in front of it that does, too."""

    volume: Path
    ca: Path
    server: int
    pooler: int

    def connect(self, user: str = "airflow", password: str | None = None, **changed: Any) -> Any:
        """A connection by the pooler, where no other port is given."""
        where = {"host": "127.0.0.1", "port": self.pooler, "dbname": user, "connect_timeout": 10, **self.verified}
        who = {"user": user, "password": password or PASSWORD[f"{user.upper()}_PASSWORD"]}
        connection = psycopg2.connect(**{**where, **who, **changed})
        connection.autocommit = True
        return connection

    def ask(self, query: str, *user: str, **changed: Any) -> Any:
        connection = self.connect(*user, **changed)
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchone()[0] if cursor.description else None
        finally:
            connection.close()

    def refused(self, *user: str, **changed: Any) -> str:
        """What who asks for a connection is told, who gets none."""
        with pytest.raises(psycopg2.OperationalError) as refusal:
            self.connect(*user, **changed).close()
        return str(refusal.value)

    @property
    def verified(self) -> dict[str, str]:
        return {"sslmode": "verify-full", "sslrootcert": str(self.ca)}

    def url(self, database: str, scheme: str = "postgresql+psycopg2", port: int | None = None) -> str:
        """As the charts write it: password and TLS are told by the environment."""
        return f"{scheme}://{database}@127.0.0.1:{port or self.pooler}/{database}"

    def environment(self, database: str) -> dict[str, str]:
        """What a client is told beside the address."""
        return {
            "PGPASSWORD": PASSWORD[f"{database.upper()}_PASSWORD"],
            "PGCONNECT_TIMEOUT": "10",
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(self.ca),
        }


def certificates(volume: Path) -> Path:
    """The authority's file, beside which server and pooler have theirs."""
    authority = Authority(volume / "authority")
    for name in ("server", "front"):
        authority.certificate(volume / name, "127.0.0.1")
    hand_over(volume)
    volume.chmod(0o755)
    return authority.ca


def told(volume: Path, ca: Path) -> dict[str, str]:
    """What a pooler is told of TLS."""
    return {"POOLER_TLS": f"{volume}/front", "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(ca)}


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with new_volume() as volume:
        ca = certificates(volume)
        with (
            server(volume, **DATABASES, POSTGRES_TLS=f"{volume}/server") as port,
            pooler(volume, port, **POOLS, **told(volume, ca)) as (_, front),
        ):
            yield Both(volume, ca, port, front)


# Who comes in


def test_a_client_comes_in_as_itself_by_its_own_password(both: Both) -> None:
    for name in POOLED:
        assert both.ask("select current_user || '@' || current_database()", name) == f"{name}@{name}"
        assert "SASL authentication failed" in both.refused(name, "wrong")


def test_nobody_else_comes_in(both: Both) -> None:
    assert "no such user" in both.refused("mlflow", dbname="airflow")
    assert "no such user" in both.refused("postgres", dbname="airflow")
    assert "no such user" in both.refused("nobody", "x", dbname="airflow")
    assert both.refused("airflow", dbname="postgres")
    assert "SSL required" in both.refused("airflow", sslmode="disable")
    assert "certificate verify failed" in both.refused("airflow", sslrootcert=str(other_authority(both)))


def other_authority(both: Both) -> Path:
    return Authority(both.volume / "other").ca


def test_who_pools_looks_up_the_one_who_owns_the_database_and_may_do_nothing_else(both: Both) -> None:
    def asked(query: str) -> Any:
        return both.ask(query, "pooler", dbname="airflow")

    assert asked("select kept from pooler.password('airflow')").startswith("SCRAM-SHA-256$")
    for name in ("postgres", "mlflow", "pooler"):
        assert asked(f"select count(*) from pooler.password('{name}')") == 0  # noqa: S608
    for forbidden in ("select rolpassword from pg_authid", "create table t ()", "create temporary table t ()"):
        with pytest.raises((psycopg2.errors.InsufficientPrivilege, psycopg2.errors.ReadOnlySqlTransaction)):
            asked(f"set transaction read write; {forbidden}")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        both.ask("select kept from pooler.password('airflow')", "airflow")


def test_a_changed_password_holds_at_once_and_who_is_there_stays(both: Both) -> None:
    there = both.connect("feast")
    both.ask("alter role feast password 'another'", "postgres", port=both.server)
    try:
        assert both.ask("select 1", "feast", "another") == 1
        assert "SASL authentication failed" in both.refused("feast")
        with there.cursor() as cursor:
            cursor.execute("select 1")
    finally:
        both.ask(f"alter role feast password $${PASSWORD['FEAST_PASSWORD']}$$", "postgres", port=both.server)
        there.close()
    # All that was opened by the one before is of no use to who comes now.
    both.ask(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'feast'", "postgres", port=both.server
    )
    assert both.ask("select 1", "feast") == 1


def test_the_poolers_own_password_changes_while_clients_come(both: Both) -> None:
    """Until its pods start anew, the connections that they have still tell who may come in."""
    both.ask("select 1", "mlflow")
    both.ask("alter role pooler password 'another'", "postgres", port=both.server)
    try:
        assert both.ask("select 1", "mlflow") == 1
    finally:
        both.ask(f"alter role pooler password $${PASSWORD['POOLER_PASSWORD']}$$", "postgres", port=both.server)


# What clients do there

SESSIONS = f"""
import asyncio, json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from sqlalchemy import text
from airflow import settings
from airflow.utils.db import DBLocks
from airflow.utils.session import create_session, create_session_async

PID = text("select pg_backend_pid(), pg_sleep(0.05)")
start = Barrier(3 * {CONNECTIONS})

def once(_):
    start.wait()
    with create_session(scoped=False) as session:
        return session.execute(PID).scalar()

async def asynchronously():
    async def once():
        async with create_session_async() as session:
            pids.append((await session.execute(PID)).scalar())
            await asyncio.sleep(0)
            arrived.append(1)
            while len(arrived) < 2 * {CONNECTIONS}:
                await asyncio.sleep(0.01)
    pids, arrived = [], []
    await asyncio.gather(*(once() for _ in range(2 * {CONNECTIONS})))
    await settings.async_engine.dispose()
    return pids

def locked():
    # As the scheduler takes its lock: until the transaction ends.
    take = text("select pg_try_advisory_xact_lock(:id)").bindparams(id=DBLocks.SCHEDULER_CRITICAL_SECTION.value)
    with create_session(scoped=False) as one, create_session(scoped=False) as other:
        during = [one.execute(take).scalar(), other.execute(take).scalar()]
        one.commit()
        return [*during, other.execute(take).scalar()]

with ThreadPoolExecutor(3 * {CONNECTIONS}) as threads:
    pids = list(threads.map(once, range(3 * {CONNECTIONS})))
print(json.dumps({{"pooled": pids, "direct": asyncio.run(asynchronously()), "locked": locked()}}))
"""


def test_airflow_shares_connections_but_for_what_it_does_asynchronously(both: Both, tmp_path: Path) -> None:
    told = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": both.url("airflow"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": both.url("airflow", "postgresql+asyncpg", both.server),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE": "5",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW": "35",
        **both.environment("airflow"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SESSIONS], env={**os.environ, **told}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert len(said["pooled"]) == 3 * CONNECTIONS
    assert len(set(said["pooled"])) <= CONNECTIONS
    assert len(set(said["direct"])) == 2 * CONNECTIONS
    assert said["locked"] == [True, False, True]


def test_what_asyncpg_prepares_is_lost_so_it_goes_past(both: Both) -> None:
    """The premise of docs/decisions/0023, which a PgBouncer from 1.21 on takes away."""

    def connect() -> Any:
        told = {"user": "airflow", "database": "airflow", "password": PASSWORD["AIRFLOW_PASSWORD"]}
        context = ssl.create_default_context(cafile=str(both.ca))
        return asyncpg.connect(host="127.0.0.1", port=both.pooler, ssl=context, **told)

    async def on_another_connection() -> None:
        """Asks twice the same, while somebody else has the connection that was asked first."""
        one, others = await connect(), [await connect() for _ in range(CONNECTIONS)]
        try:
            first = await one.fetchval(ask)
            for other in others:
                await other.execute("begin")
                if await other.fetchval(ask) == first:
                    break
                await other.execute("rollback")
            await one.fetchval(ask)
        finally:
            for connection in (one, *others):
                connection.terminate()

    ask = "select pg_backend_pid()"
    with pytest.raises(asyncpg.InvalidSQLStatementNameError):
        asyncio.run(on_another_connection())


def test_rows_that_one_client_holds_are_skipped_by_another(both: Both) -> None:
    both.ask("create table if not exists jobs as select generate_series(1, 2) as id", "airflow")
    one, other = both.connect("airflow"), both.connect("airflow")
    try:
        found = []
        for connection in (one, other):
            connection.autocommit = False
            with connection.cursor() as cursor:
                cursor.execute("select id from jobs order by id limit 1 for update skip locked")
                found.append(cursor.fetchone()[0])
        assert found == [1, 2]
    finally:
        one.close()
        other.close()


def test_more_clients_than_connections_all_have_their_turn(both: Both) -> None:
    clients = 15 * CONNECTIONS
    there = threading.Barrier(clients, timeout=120)

    def work(_: int) -> int:
        connection = both.connect("mlflow")
        try:
            there.wait()  # all are connected
            with connection.cursor() as cursor:
                cursor.execute("select pg_backend_pid(), pg_sleep(0.02)")
                return int(cursor.fetchone()[0])
        finally:
            connection.close()

    with ThreadPoolExecutor(clients) as threads:
        pids = list(threads.map(work, range(clients)))
    assert len(pids) == clients
    assert len(set(pids)) <= CONNECTIONS


def test_all_who_hold_one_and_wait_for_a_second_are_not_stuck_for_good(both: Both) -> None:
    waiting = {**POOLS, "POOLER_POOLS": "airflow=2", "POOLER_WAIT": "2"}
    with pooler(both.volume, both.server, "waiting", **waiting, **told(both.volume, both.ca)) as (_, port):
        held = [both.connect("airflow", port=port) for _ in range(2)]
        for connection in held:
            connection.autocommit = False
            asked(connection, "select 1")
        with closing(both.connect("airflow", port=port)) as second, pytest.raises(psycopg2.OperationalError):
            asked(second, "select 1")
        for connection in held:
            connection.close()
        assert both.ask("select 1", "airflow", port=port) == 1


def test_mlflow_logs_runs(both: Both, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mlflow.entities import Metric
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for name, value in both.environment("mlflow").items():
        monkeypatch.setenv(name, value)
    SqlAlchemyStore(both.url("mlflow", port=both.server), str(tmp_path))  # migrates, which goes past
    store = SqlAlchemyStore(both.url("mlflow"), str(tmp_path))
    run = store.create_run("0", "user", 0, [], "a run")

    def log(step: int) -> None:
        store.log_batch(run.info.run_id, [Metric("loss", step / 2, 0, step)], [], [])

    # To log a batch takes a connection, and a second one while it is held.
    with ThreadPoolExecutor(CONNECTIONS - 1) as threads:
        list(threads.map(log, range(30)))
    history = store.get_metric_history(run.info.run_id, "loss")
    assert sorted(metric.step for metric in history) == list(range(30))


def test_feast_keeps_its_registry_there(both: Both, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from feast import Entity

    from mlops.stores.feature_store import FeatureStoreConfig, open_configured

    for name, value in both.environment("feast").items():
        monkeypatch.setenv(name, value)
    config = FeatureStoreConfig(both.url("feast"), "127.0.0.1:1", str(tmp_path), None)
    open_configured(config).apply([Entity(name="machine")])
    assert [entity.name for entity in open_configured(config).list_entities()] == ["machine"]


def test_pods_wait_there_for_their_migration(both: Both) -> None:
    told = {**os.environ, **both.environment("airflow"), "DATABASE_URL": both.url("airflow", "postgresql")}
    gate = [sys.executable, str(ROOT / "images/base/release_gate.py")]
    direct = {**told, "DATABASE_URL": both.url("airflow", "postgresql", both.server)}
    subprocess.run([*gate, "mark", "airflow", "1a2b"], env=direct, check=True)
    subprocess.run([*gate, "wait", "airflow", "1a2b", "--timeout", "60"], env=told, check=True)
    assert (
        subprocess.run([*gate, "wait", "airflow", "another", "--timeout", "0"], env=told, check=False).returncode == 1
    )


# What happens to it


def test_a_restart_of_the_server_is_nothing_that_a_client_between_two_transactions_sees() -> None:
    with new_volume() as volume, ExitStack() as stack:
        ca = certificates(volume)
        serving = {**DATABASES, "POSTGRES_TLS": f"{volume}/server"}
        with server(volume, **serving) as port:
            _, own = stack.enter_context(pooler(volume, port, **POOLS, **told(volume, ca)))
            here = Both(volume, ca, port, own)
            client = stack.enter_context(closing(here.connect("airflow")))
            assert probe(here) == 0
            assert asked(client, "select 1") == 1
        assert probe(here) != 0, "the server is away"
        with server(volume, port=port, **serving):
            assert asked(client, "select 2") == 2
            eventually(lambda: probe(here) == 0)
            assert here.ask("select 3", "mlflow") == 3


def asked(client: Any, query: str) -> Any:
    with client.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def probe(here: Both) -> int:
    """What the readiness probe says: its command as the chart has it, but for the port."""
    from tests.charts.conftest import containers, find, render

    objects = render("postgresql", {"global": {"postgresql": {"pooler": {"enabled": True}}, "tls": {"enabled": True}}})
    (container,) = containers(find(objects, "Deployment", "maestro-postgresql-pooler")["spec"]["template"]["spec"])
    words = [word.replace("6432", str(here.pooler)) for word in container["readinessProbe"]["exec"]["command"]]
    told = {"PGUSER": "pooler", "PGDATABASE": "airflow", "PGPASSWORD": PASSWORD["POOLER_PASSWORD"]}
    verified = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(here.ca), "PGCONNECT_TIMEOUT": "5"}
    return subprocess.run(words, env={**os.environ, **told, **verified}, check=False, timeout=60).returncode


def test_one_that_is_told_to_end_ends_when_transactions_have(both: Both) -> None:
    with pooler(both.volume, both.server, "ending", **POOLS, **told(both.volume, both.ca)) as (process, port):
        client = both.connect("airflow", port=port)
        client.autocommit = False
        with client.cursor() as cursor:
            cursor.execute("create temporary table kept on commit drop as select 42 as answer")
            process.send_signal(signal.SIGINT)
            # Who comes now is not served, so it has heard it.
            assert both.refused("airflow", port=port, connect_timeout=3)
            cursor.execute("select answer from kept")
            assert cursor.fetchone() == (42,)
        client.commit()
        assert process.wait(timeout=60) == 0
        client.close()


def test_a_server_that_another_authority_vouches_for_is_not_asked(both: Both) -> None:
    other = other_authority(both)
    hand_over(both.volume / "other")
    with pooler(both.volume, both.server, "deceived", **POOLS, **told(both.volume, other)) as (_, port):
        assert "SASL" not in both.refused("airflow", port=port, connect_timeout=20)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"POOLER_POOLS": "airflow"}, "write <database>=<connections>"),
        ({"POOLER_POOLS": "airflow=0"}, "write <database>=<connections>"),
        ({"PGPASSWORD": ""}, "PGPASSWORD is not set"),
    ],
)
def test_what_it_could_not_start_with_is_refused_in_words(changed: dict[str, str], said: str) -> None:
    told = {"PATH": os.environ["PATH"], "PGHOST": "127.0.0.1", "PGPORT": "1", **POOLS, **changed}
    start = [str(ROOT / "images/postgresql/pooler-start")]
    done = subprocess.run(start, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
