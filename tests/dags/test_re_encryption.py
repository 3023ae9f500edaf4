"""`make rotate SECRET=airflow-fernet` on a database of Airflow's in which a task waits."""

from pathlib import Path

from tests.dags.conftest import Printed

PROGRAM = """
import json, os, subprocess, sys
from infrastructure import rotate

change = rotate.Change("fernet-key", rotate.fernet_key(), rotate.fernet_key())
os.environ["AIRFLOW__CORE__FERNET_KEY"] = change.old
from cryptography.fernet import Fernet
from sqlalchemy import select
from airflow.models import Connection, Trigger, Variable
from airflow.utils.session import create_session

PLAIN = json.dumps({"pod": "waits"})  # as Airflow's API for tasks stores what the trigger of a waiting task is given
with create_session() as session:
    waits = Trigger(classpath="waits", kwargs={})
    waits.encrypted_kwargs = PLAIN
    session.add_all([
        waits,
        Trigger(classpath="encrypted", kwargs={"told": "secret"}),
        Connection(conn_id="c", conn_type="http", password="secret", extra='{"token": "secret"}'),
        Variable(key="v", val="secret"),
    ])

def inside(_, *command, stdin, **__):
    subprocess.run([sys.executable, *command[1:]], input=stdin, text=True, check=True, capture_output=True)

both = {**os.environ, "AIRFLOW__CORE__FERNET_KEY": rotate.old_and_new(change)[-1]}
own = [sys.executable, "-m", "airflow", "rotate-fernet-key"]
airflow = subprocess.run(own, env=both, capture_output=True, text=True)
rotate._inside = inside
rotate.re_encrypt(change)

def read(encrypted):
    return Fernet(change.new.encode()).decrypt(encrypted.encode()).decode()

with create_session() as session:
    triggers = dict(session.execute(select(Trigger.classpath, Trigger.encrypted_kwargs)).all())
    password, extra = session.execute(select(Connection._password, Connection._extra)).one()
    stored = {
        "waits": triggers["waits"] == PLAIN,
        "trigger": "secret" in read(triggers["encrypted"]),
        "password": read(password),
        "extra": json.loads(read(extra))["token"],
        "variable": read(session.scalar(select(Variable._val))),
    }
print(json.dumps({"airflow": airflow.stderr[-2000:], "stored": stored}))
"""


def test_all_that_is_encrypted_is_so_by_the_new_key_alone_and_a_task_that_waits_goes_on(
    tmp_path: Path, printed_in_its_own_airflow: Printed
) -> None:
    found = printed_in_its_own_airflow(tmp_path, tmp_path, PROGRAM)
    assert "InvalidToken" in found["airflow"], "Airflow has mended it: its own command can be used"
    assert found["stored"] == {
        "waits": True,
        "trigger": True,
        "password": "secret",
        "extra": "secret",
        "variable": "secret",
    }
