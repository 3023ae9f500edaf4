"""The operator is imported where processes fork, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlops.airflow.internals import liveness
from mlops.masking import SECRETS
from tests.conftest import free_ports

ROOT = Path(__file__).parents[2]
METADATA = """Metadata-Version: 2.1
Name: maestro
Version: 0.1.0
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that makes the package look installed, with the entry points of pyproject.toml."""
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["airflow.plugins"]
    info = tmp_path / "site" / "maestro-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA)
    points = "".join(f"{name} = {target}\n" for name, target in declared.items())
    (info / "entry_points.txt").write_text(f"[airflow.plugins]\n{points}")
    return info.parent


@pytest.mark.parametrize(
    ("component", "loaded"),
    [
        ("scheduler", ["KubernetesPodOperator", "mlops.airflow.authoring.operator", "mlops.airflow.pods.trigger"]),
        ("celery", ["KubernetesPodOperator", "mlops.airflow.authoring.operator", "mlops.airflow.pods.trigger"]),
        ("dag-processor", ["KubernetesPodOperator", "mlops.airflow.authoring.operator", "mlops.airflow.pods.trigger"]),
        ("triggerer", ["mlops.airflow.pods.trigger"]),
        ("api-server", []),
    ],
)
def test_a_component_that_forks_has_the_operator_before_it_does(
    installed: Path, tmp_path: Path, component: str, loaded: list[str]
) -> None:
    code = (
        f"import sys; sys.argv = ['airflow', '{component}']\n"
        "import airflow\n"
        "names = {'airflow.providers.cncf.kubernetes.operators.pod': 'KubernetesPodOperator'}\n"
        "names |= {name: name for name in ('mlops.airflow.authoring.operator', 'mlops.airflow.pods.trigger')}\n"
        "print(sorted(title for name, title in names.items() if name in sys.modules))"
    )
    assert printed(code, installed, tmp_path) == str(loaded)


@pytest.mark.parametrize(
    "former", ["mlops.airflow.trigger.PodTrigger", "mlops.airflow.alerts.deadline_missed"], ids=["trigger", "deadline"]
)
def test_the_triggerer_finds_what_the_database_of_an_earlier_release_names(
    installed: Path, tmp_path: Path, former: str
) -> None:
    code = (
        "import sys; sys.argv = ['airflow', 'triggerer']\n"
        "import airflow\n"
        "from airflow._shared.module_loading import import_string\n"
        f"print(import_string('{former}').__module__)"
    )
    assert printed(code, installed, tmp_path).startswith("mlops.airflow.")


def printed(code: str, installed: Path, home: Path) -> str:
    """The last line that a process prints in which Airflow loads its plugins."""
    return all_printed(code, installed, home).splitlines()[-1]


def all_printed(code: str, installed: Path, home: Path) -> str:
    env = {
        **os.environ,
        "PYTHONPATH": f"{installed}{os.pathsep}{ROOT}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LAZY_LOAD_PLUGINS": "False",
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "Failed to" not in done.stdout + done.stderr
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_airflows_own_server_stands_behind_the_guard(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['airflow', 'api-server']\n"
        "from airflow.utils.db import upgradedb; upgradedb()\n"
        "from airflow.api_fastapi.app import create_app\n"
        "from starlette.testclient import TestClient\n"
        "client = TestClient(create_app(), raise_server_exceptions=False)\n"
        "large = client.post('/api/v2/dags/d/dagRuns', json={'conf': 'x' * 100_000})\n"
        "small = client.post('/api/v2/dags/d/dagRuns', json={'conf': {}})\n"
        "page = client.get('/')\n"
        "framed = 'frame-ancestors' in page.headers['Content-Security-Policy']\n"
        "print(large.status_code, small.status_code, page.status_code, framed, client.get('/reports/%00').status_code)"
    )
    assert printed(code, installed, tmp_path) == "413 401 200 True 400"


@pytest.mark.parametrize("component", ["scheduler", "dag-processor", "triggerer"])
def test_a_component_that_has_a_loop_says_whether_it_goes_round(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv(liveness.PORT, str(port))
    code = (
        f"import sys; sys.argv = ['airflow', '{component}']\n"
        "from airflow.jobs.job import Job\n"
        "from http.client import HTTPConnection\n"
        "def alive():\n"
        f"    connection = HTTPConnection('127.0.0.1', {port}, timeout=10); connection.request('GET', '/')\n"
        "    return connection.getresponse().status\n"
        "before = alive()\n"
        "Job().heartbeat(lambda session: None)\n"
        "print(before, alive())"
    )
    assert printed(code, installed, tmp_path) == "503 200"


LEAKS = """
import json, os
from airflow.sdk import dag, task

print("parsed with", dict(os.environ))


@dag
def leaks():
    @task
    def prints():
        print(os.environ)
        print(json.dumps(dict(os.environ)))
        os.system("env")

    prints()


leaks()
"""
SUPERVISED = """
import sys; sys.argv = ["airflow", "scheduler"]
from uuid import uuid4
import airflow, httpx
from airflow.sdk.api.client import Client
from airflow.sdk.api.datamodels._generated import BundleInfo, TaskInstance
from airflow.sdk.execution_time.supervisor import supervise_task

task = {"dag_id": "leaks", "task_id": "prints", "run_id": "r", "try_number": 1}
moments = ("logical_date", "start_date", "run_after", "data_interval_start", "data_interval_end")
times = dict.fromkeys(moments, "2026-01-01T00:00:00Z")
none = dict.fromkeys(("end_date", "partition_key"))
run = {"dag_id": "leaks", "run_id": "r", "run_type": "manual", "state": "running", "consumed_asset_events": []}
answer = httpx.Response(200, json={"dag_run": {**run, **times, **none}, "max_tries": 0, "should_retry": False})
code = supervise_task(
    ti=TaskInstance(id=uuid4(), dag_version_id=uuid4(), queue="default", **task),
    bundle_info=BundleInfo(name="dags-folder"), dag_rel_path="leaks.py", token="", log_path="task.log",
    client=Client(base_url=None, dry_run=True, token="", transport=httpx.MockTransport(lambda _: answer)),
    subprocess_logs_to_stdout=True,
)
assert code == 0
"""


def test_a_task_that_airflow_itself_runs_shows_no_secret_of_its_environment(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it the chart says is secret, in each form in which it is printed."""
    told = {"PGPASSWORD": "of-the-database", "OWN": "quoted \"and' long", "PLAIN": "of no secret"}
    for name, value in {**told, SECRETS: "PGPASSWORD,OWN,UNSET"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "leaks.py").write_text(LEAKS)
    of_the_process = all_printed(SUPERVISED, installed, tmp_path)
    for log in ((tmp_path / "logs" / "task.log").read_text(), of_the_process):
        assert log.count("of no secret") == 4, "the environment was printed"
        assert log.count("***") == 8
        assert "of-the-database" not in log
        assert "and' long" not in log and "and\\' long" not in log
