"""The sources of DAG files in a real Airflow, as the chart configures them: by which code a run goes on."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from sqlalchemy.engine import make_url

from mlops.airflow.administration.dags import bring, unfinished
from mlops.airflow.bundles.versions import DagVersions
from tests.charts.conftest import Object, find, render
from tests.processes import answers, eventually, free_ports, running
from tests.servers import ROOT, new_database

pytestmark = pytest.mark.timeout(1800)  # three processes of Airflow, on a machine that does much else

REPO = "https://git.example.com/team/dags.git"
# Each task says by which code it runs; the first one waits until it may end. What changes is a file beside the DAG's:
# the DAG itself is the same to Airflow, which makes no version of its own of it.
DAG = """
import os, time
from pathlib import Path
from airflow.sdk import DAG, get_current_context, task
from named import VERSION

def says(task_id):
    run = Path(os.environ["FOLDER"]) / "{dag_id}" / get_current_context()["run_id"]
    run.mkdir(parents=True, exist_ok=True)
    (run / "partly").write_text(VERSION)
    (run / "partly").rename(run / task_id)
    return run

@task
def first():
    run = says("first")
    while not (run / "may-end").exists():
        time.sleep(0.05)

@task
def second():
    says("second")

with DAG(dag_id="{dag_id}", schedule=None, is_paused_upon_creation=False):
    first() >> second()
"""
TRIGGER = """
import sys
from airflow.api.common.trigger_dag import trigger_dag
from airflow.utils.types import DagRunTriggeredByType

trigger_dag(sys.argv[1], run_id=sys.argv[2], triggered_by=DagRunTriggeredByType.TEST)
"""


def git(*arguments: str, of: Path) -> str:
    own = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_CONFIG_GLOBAL": os.devnull}
    own |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com"}
    done = subprocess.run(["git", *arguments], cwd=of, env=os.environ | own, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@dataclass(frozen=True)
class Source:
    """A place that DAG files come from; `put` makes those of a folder current there and says their version."""

    name: str
    bundle: dict[str, Any]
    put: Callable[[Path], str]


def volume(folder: Path) -> Source:
    """The volume, by the chart's bundle and what its Job runs."""
    (bundle,) = bundles({"persistence": {"enabled": True}})
    assert bundle["kwargs"] == {"path": "/opt/maestro/dags"}
    there = folder / "volume"
    there.mkdir()
    own = {"name": "volume", "kwargs": {"path": str(there), "refresh_interval": 1}}
    return Source("volume", bundle | own, lambda files: bring(DagVersions(there), files))


def repository(folder: Path) -> Source:
    """A repository whose DAG files lie in a folder of it, by the chart's bundle."""
    (bundle,) = bundles(
        {"gitSync": {"enabled": True, "repo": REPO, "ref": "trunk", "subPath": "flows", "period": "1s"}}
    )
    bare, work = folder / "dags.git", folder / "work"
    git("init", "--bare", "--initial-branch", "trunk", str(bare), of=folder)
    git("clone", str(bare), str(work), of=folder)

    def put(files: Path) -> str:
        (work / "flows").mkdir(exist_ok=True)
        for path in files.iterdir():
            (work / "flows" / path.name).write_text(path.read_text())
        git("add", "--all", of=work)
        git("commit", "--message", "changed", of=work)
        git("push", "origin", "HEAD:trunk", of=work)
        return git("rev-parse", "HEAD", of=work)

    own = {"name": "git", "kwargs": bundle["kwargs"] | {"repo_url": bare.as_uri()}}
    return Source("git", bundle | own, put)


def objects(dags: dict[str, Any]) -> list[Object]:
    return render("airflow", {"dags": dags})


def bundles(dags: dict[str, Any]) -> list[dict[str, Any]]:
    parser = ConfigParser()  # as Airflow reads it, % for values
    parser.read_string(find(objects(dags), "ConfigMap", "maestro-airflow-config")["data"]["airflow.cfg"])
    made: list[dict[str, Any]] = json.loads(parser["dag_processor"]["dag_bundle_config_list"])
    return made


def connection() -> dict[str, Any]:
    """The chart's connection to the repository."""
    secret = find(objects({"gitSync": {"enabled": True, "repo": REPO}}), "Secret", "maestro-airflow-setup")
    made: dict[str, Any] = yaml.safe_load(secret["stringData"]["settings.yaml"])["connections"]["git_dags"]
    assert made["host"] == REPO
    return made


@dataclass(frozen=True)
class Airflow:
    folder: Path
    database: str
    told: dict[str, str]

    def trigger(self, source: Source, run_id: str) -> None:
        command = [sys.executable, "-c", TRIGGER, dag_id(source), run_id]
        subprocess.run(command, env=os.environ | self.told, check=True, capture_output=True)

    def said(self, source: Source, run_id: str, task: str) -> str | None:
        """By which code a task ran, once it did."""
        file = self.folder / dag_id(source) / run_id / task
        return file.read_text() if file.exists() else None

    def let_end(self, source: Source, run_id: str) -> None:
        (self.folder / dag_id(source) / run_id / "may-end").touch()

    def parsed(self, source: Source) -> str | None:
        """The version of which Airflow read the DAG last."""
        with psycopg.connect(self.database) as connected:
            asked = connected.execute("select bundle_version from dag where dag_id = %s", [dag_id(source)])
            (version,) = asked.fetchone() or (None,)
            return version


def dag_id(source: Source) -> str:
    return f"works_{source.name}"


def files(folder: Path, source: Source, version: str) -> Path:
    made = folder / f"{source.name}-{version}"
    made.mkdir()
    (made / "works.py").write_text(DAG.format(dag_id=dag_id(source)))
    (made / "named.py").write_text(f"VERSION = {version!r}\n")
    return made


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("sources")
    return [volume(folder), repository(folder)]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, postgresql: str, sources: list[Source]) -> Iterator[Airflow]:
    """Dag-processor, scheduler with the LocalExecutor, and the API of tasks, with both sources."""
    folder = tmp_path_factory.mktemp("airflow")
    database = new_database(postgresql)
    (api,) = free_ports(1)
    config = find(objects({"persistence": {"enabled": True}}), "ConfigMap", "maestro-airflow-config")
    (folder / "airflow.cfg").write_text(config["data"]["airflow.cfg"])
    address = make_url(database).set(drivername="postgresql+psycopg2")
    repository = next(source for source in sources if source.name == "git")
    here = {
        "DATABASE__SQL_ALCHEMY_CONN": address.render_as_string(hide_password=False),
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
        "CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "CORE__PARALLELISM": "2",
        "DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([source.bundle for source in sources]),
        "DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(folder / "clones"),
        "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        "LOGGING__REMOTE_LOGGING": "False",
        "METRICS__STATSD_ON": "False",
        "API_AUTH__JWT_SECRET": "a secret of the tests, long enough for each signature " * 2,
    }
    told = {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW_CONFIG": str(folder / "airflow.cfg"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "FOLDER": str(folder),
        **{f"AIRFLOW__{key}": value for key, value in here.items()},
    }
    program = [sys.executable, "-m", "airflow"]
    # As the Job airflow-setup has it in the database, where tasks have none of it by themselves.
    add = [
        "connections",
        "add",
        "git_dags",
        "--conn-json",
        json.dumps(connection() | {"host": repository.bundle["kwargs"]["repo_url"]}),
    ]
    for arguments in (["db", "migrate"], add):
        subprocess.run([*program, *arguments], env={**os.environ, **told}, check=True, capture_output=True)
    server = [
        *program,
        "api-server",
        "--apps",
        "execution",
        "--workers",
        "1",
        "--host",
        "127.0.0.1",
        "--port",
        str(api),
    ]
    there = Airflow(folder, database, told)
    with ExitStack() as stack:
        for source in sources:
            source.put(files(folder, source, "A"))
        ready = lambda: answers(f"http://127.0.0.1:{api}/execution/health")  # noqa: E731
        stack.enter_context(running(server, folder / "api.log", ready, told, signal.SIGTERM))
        known = lambda: all(there.parsed(source) for source in sources)  # noqa: E731
        stack.enter_context(running([*program, "dag-processor"], folder / "processor.log", known, told, signal.SIGTERM))
        stack.enter_context(
            running(
                [*program, "scheduler", "--skip-serve-logs"],
                folder / "scheduler.log",
                lambda: True,
                told,
                signal.SIGTERM,
            )
        )
        yield there


def test_a_run_goes_on_by_the_code_that_it_began_with_and_the_next_one_runs_by_what_is_current(
    airflow: Airflow, sources: list[Source]
) -> None:
    old = {source.name: airflow.parsed(source) for source in sources}
    for source in sources:
        airflow.trigger(source, "one")
    for source in sources:
        eventually(lambda source=source: airflow.said(source, "one", "first") == "A")
    for source in sources:
        version = source.put(files(airflow.folder, source, "B"))
        assert version != old[source.name]
        eventually(lambda source=source, version=version: airflow.parsed(source) == version)
    assert unfinished(airflow.database) == set(old.values()), "what the volume keeps"
    for source in sources:
        airflow.trigger(source, "two")
        airflow.let_end(source, "one")
    for source in sources:
        eventually(lambda source=source: airflow.said(source, "one", "second"))
        assert airflow.said(source, "one", "second") == "A", source.name
        eventually(lambda source=source: airflow.said(source, "two", "first"))
        airflow.let_end(source, "two")
        eventually(lambda source=source: airflow.said(source, "two", "second"))
        assert {airflow.said(source, "two", task) for task in ("first", "second")} == {"B"}, source.name
