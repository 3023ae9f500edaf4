"""administration.setup and the probe that reads what components write, with a real PostgreSQL and a real Airflow."""

import base64
import json
import operator
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
import yaml
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from mlops.airflow.administration.setup import resolve, wait_for_database
from tests.clock import Clock
from tests.conftest import ROOT
from tests.servers import copied, new_database

FERNET_KEY = base64.b64encode(b"\xfb\xff" * 16).decode()  # as the chart makes it: in the standard alphabet
PASSWORD = "first"
READER, READER_PASSWORD = "monitoring", "of the reader"
ADMIN = {"username": "admin", "email": "a@example.com", "firstName": "Ada", "lastName": "Min", "role": "Admin"}


@dataclass(frozen=True)
class Airflow:
    """An Airflow database, and setup as the chart's Job runs it."""

    url: str
    home: Path

    def setup(self, password: str = PASSWORD, environment: dict[str, str] | None = None, **declared: Any) -> str:
        """Runs it, hands back what it wrote; fails the test where it fails."""
        process = self.try_setup(password, environment, **declared)
        assert process.returncode == 0, process.stderr
        return process.stderr

    def try_setup(
        self, password: str = PASSWORD, environment: dict[str, str] | None = None, **declared: Any
    ) -> "subprocess.CompletedProcess[str]":
        users = {"adminUser": ADMIN, "readOnlyUser": {"username": READER}}
        settings = {"owner": "Helm release test", **users, "connections": {}, "variables": {}, "pools": {}}
        path = self.home / "settings.yaml"
        path.write_text(yaml.safe_dump(settings | declared))
        return subprocess.run(
            [sys.executable, "-m", "mlops.airflow.administration.setup", "migrate", "apply", str(path)],
            cwd=ROOT,
            env=self.environment
            | {"MAESTRO_ADMIN_PASSWORD": password, "MAESTRO_READ_ONLY_PASSWORD": READER_PASSWORD}
            | (environment or {}),
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        own = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
        return own | {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
            "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url.replace("postgresql:", "postgresql+psycopg2:"),
        }

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def names(self, table: str, column: str) -> set[str]:
        return {name for (name,) in self.query(f"SELECT {column} FROM {table}")}  # noqa: S608


DECLARED: dict[str, Any] = {
    "connections": {
        "mlflow_default": {"conn_type": "http", "host": "mlflow", "port": "5000", "login": "me"},
        "warehouse": {"conn_type": "postgres", "password": {"environment": "SECRET_1"}, "extra": {"a": [1]}},
    },
    "variables": {"model_accuracy_threshold": "0.85", "absent": {"environment": "NOT_SET"}},
    "pools": {"training": {"slots": 1, "include_deferred": True}, "default_pool": {"slots": 64}},
}


def own_airflow(postgresql: str, home: Path) -> Airflow:
    """One whose empty database was given its schema, an admin, and what is declared: a copy of the first of these."""

    def first() -> str:
        made = Airflow(new_database(postgresql), home)
        made.setup(environment={"SECRET_1": "s3cr/t:@"}, **DECLARED)
        return made.url

    return Airflow(copied(postgresql, "airflow_set_up", first), home)


@pytest.fixture
def airflow(postgresql: str, tmp_path: Path) -> Airflow:
    return own_airflow(postgresql, tmp_path)


def test_a_database_that_is_away_is_waited_for_and_not_for_ever(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine("postgresql+psycopg2://airflow@127.0.0.1:9/airflow")
    monkeypatch.setitem(sys.modules, "airflow.settings", SimpleNamespace(get_engine=lambda: engine))
    with caplog.at_level("INFO"), pytest.raises(OperationalError):
        wait_for_database(300)
    assert sum(clock.pauses) == 300
    assert caplog.messages[0].startswith("waiting for the database: connection to server")


def test_an_empty_database_gets_its_schema_an_admin_and_what_is_declared(airflow: Airflow) -> None:
    ((port, note),) = airflow.query("SELECT port, description FROM connection WHERE conn_id = 'mlflow_default'")
    assert port == 5000
    assert "Helm release test" in note
    ((password, extra),) = airflow.query("SELECT password, extra FROM connection WHERE conn_id = 'warehouse'")
    assert decrypt(password) == "s3cr/t:@"
    assert json.loads(decrypt(extra)) == {"a": [1]}
    assert [(key, decrypt(value)) for key, value in airflow.query("SELECT key, val FROM variable")] == [
        ("model_accuracy_threshold", "0.85")
    ]
    assert airflow.query("SELECT slots, include_deferred FROM slot_pool WHERE pool = 'training'") == [(1, True)]
    assert airflow.query(
        "SELECT u.username, r.name FROM ab_user u JOIN ab_user_role ur ON ur.user_id = u.id "
        "JOIN ab_role r ON r.id = ur.role_id ORDER BY u.username"
    ) == [("admin", "Admin"), (READER, "Viewer")]


def test_the_reader_may_change_nothing_but_its_own_profile(airflow: Airflow) -> None:
    allowed = airflow.query(
        "SELECT p.name, v.name FROM ab_role r JOIN ab_permission_view_role pvr ON pvr.role_id = r.id "
        "JOIN ab_permission_view pv ON pv.id = pvr.permission_view_id JOIN ab_permission p ON p.id = pv.permission_id "
        "JOIN ab_view_menu v ON v.id = pv.view_menu_id WHERE r.name = 'Viewer'"
    )
    changes = {(action, of) for action, of in allowed if action not in ("can_read", "menu_access")}
    assert changes == {("can_edit", "My Password"), ("can_edit", "My Profile")}
    assert {"DAG Runs", "Task Instances", "Task Logs", "XComs", "Pools", "ImportError"} <= {of for _, of in allowed}


def test_a_reader_who_is_called_like_the_admin_is_refused(airflow: Airflow) -> None:
    done = airflow.try_setup(readOnlyUser={"username": ADMIN["username"]})
    assert done.returncode != 0
    assert "global.airflow.readOnlyUser are both called 'admin'" in done.stderr


def test_a_database_that_nobody_watches_is_set_up_all_the_same_and_it_is_said(airflow: Airflow) -> None:
    done = airflow.try_setup()
    assert done.returncode == 0
    assert "the server has no user monitoring: nobody watches Airflow's database" in done.stdout


def test_what_is_no_longer_declared_is_removed_and_what_people_made_stays(airflow: Airflow) -> None:
    airflow.query(
        "INSERT INTO connection (conn_id, conn_type, is_encrypted, is_extra_encrypted) VALUES ('hand','x',false,false)"
    )
    airflow.query("INSERT INTO variable (key, val, is_encrypted) VALUES ('hand', '1', false)")
    airflow.query("INSERT INTO slot_pool (pool, slots, include_deferred) VALUES ('hand', 1, false)")

    airflow.setup(connections={"mlflow_default": {"conn_type": "http", "host": "b"}})

    assert airflow.names("connection", "conn_id") == {"mlflow_default", "hand"}
    assert airflow.query("SELECT host, login FROM connection WHERE conn_id = 'mlflow_default'") == [("b", None)]
    assert airflow.names("variable", "key") == {"hand"}
    assert airflow.names("slot_pool", "pool") == {"hand", "default_pool"}


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9)


def some_of(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


CONNECTION = st.builds(
    operator.or_,
    st.fixed_dictionaries({"conn_type": st.sampled_from(["http", "aws", "postgres"])}),
    some_of(
        {
            **dict.fromkeys(("host", "schema", "login", "password"), TEXTS),
            "port": st.integers(1, 65535),
            "extra": st.dictionaries(TEXTS, TEXTS, max_size=2),
        }
    ),
)
POOL = st.builds(
    operator.or_, st.fixed_dictionaries({"slots": st.integers(0, 999)}), some_of({"include_deferred": st.booleans()})
)
SETTINGS = st.fixed_dictionaries(
    {
        "connections": some_of(dict.fromkeys(("one", "two"), CONNECTION)),
        "variables": some_of(dict.fromkeys(("one", "two"), TEXTS)),
        "pools": some_of(dict.fromkeys(("one", "default_pool"), POOL)),
    }
)


def test_what_is_there_after_settings_is_theirs_whatever_was_declared_before(airflow: Airflow) -> None:
    command = [sys.executable, "-m", "tests.unit.airflow_settings"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=airflow.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process as applier:

        def state(settings: dict[str, Any]) -> Any:
            assert applier.stdin is not None
            assert applier.stdout is not None
            print(json.dumps({"owner": "test", **settings}), file=applier.stdin, flush=True)
            return json.loads(applier.stdout.readline())

        nothing: dict[str, Any] = {"connections": {}, "variables": {}, "pools": {}}
        empty = state(nothing)
        assert empty == nothing | {"pools": {"default_pool": [128, False]}}

        @given(before=SETTINGS, after=SETTINGS)
        def same(before: dict[str, Any], after: dict[str, Any]) -> None:
            state(before)
            found = state(after)
            assert state(nothing) == empty
            assert state(after) == found
            assert {kind: found[kind].keys() - {"default_pool"} for kind in found} == {
                kind: after[kind].keys() - {"default_pool"} for kind in found
            }

        same()


def test_the_admin_gets_the_password_of_the_secret_and_no_second_account(airflow: Airflow) -> None:
    ((hashed,), (of_reader,)) = airflow.query("SELECT password FROM ab_user ORDER BY username")
    airflow.setup()
    after = airflow.query("SELECT password FROM ab_user ORDER BY username")
    assert after == [(hashed,), (of_reader,)], "an unchanged password would end the sessions"
    said = airflow.setup(password="after")
    after = airflow.query("SELECT password = %s, password = %s FROM ab_user ORDER BY username", hashed, of_reader)
    assert after == [(False, False), (False, True)]
    assert "after" not in said


def test_one_wrong_entry_is_named_and_nothing_of_the_rest_is_applied(airflow: Airflow) -> None:
    before = airflow.names("variable", "key")
    process = airflow.try_setup(variables={"new": "1"}, pools={"training": {"slots": 1, "slotz": 2}})
    assert process.returncode != 0
    assert "pools.training has unknown fields slotz" in process.stderr
    assert airflow.names("variable", "key") == before


def test_secrets_are_put_in_wherever_they_are_named() -> None:
    declared = {"a": {"environment": "KEY"}, "b": [{"environment": "KEY"}], "c": {"environment": "UNSET"}, "d": 1}
    assert resolve(declared, {"KEY": "value"}) == {"a": "value", "b": ["value"], "d": 1}


def decrypt(text: str) -> str:
    return Fernet(FERNET_KEY).decrypt(text.encode()).decode()
