"""Workers of Celery, real, as the chart configures and starts them: what one holds that is to end, and who sees it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from celery import Celery
from sqlalchemy.engine import make_url

from mlops.airflow.administration.broker import PREFIX, config
from mlops.airflow.internals import liveness
from tests.charts.conftest import environment, find, render
from tests.processes import answers, eventually, free_ports, is_healthy, running
from tests.servers import PASSWORD, ROOT, Redis, new_database

pytestmark = pytest.mark.timeout(1800)  # five processes of Airflow, on a machine that does much else

VALUES = {"executor": "CeleryExecutor", "config": {"celery": {"worker_concurrency": "1"}}}
DATABASE = 2
# A task says where it runs and waits until it may end.
DAG = """
import os, time
from pathlib import Path
from airflow.sdk import DAG, task

FOLDER = Path(os.environ["FOLDER"])

@task
def work(name):
    (FOLDER / f"{name}.began").write_text(os.environ["WORKER"])
    while not (FOLDER / f"{name}.may-end").exists():
        time.sleep(0.05)
    (FOLDER / f"{name}.done").write_text(os.environ["WORKER"])

with DAG(dag_id="works", schedule=None):
    for name in ("first", "second"):
        work.override(task_id=name)(name)
"""
# Airflow's scheduler is played here: by its executor it sends each task that a line names, and at the end of its input
# it says what became of them, by their own word and by the executor's.
SCHEDULER = """
import json, sys, time
from airflow.api.common.trigger_dag import trigger_dag
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.executors.executor_loader import ExecutorLoader
from airflow.executors.workloads import ExecuteTask
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select
from sqlalchemy.orm import joinedload

DagBundlesManager().sync_bundles_to_db()
bag = BundleDagBag(sys.argv[1], bundle_path=sys.argv[1], bundle_name="dags-folder")
sync_bag_to_db(bag, "dags-folder", None)
trigger_dag("works", triggered_by=DagRunTriggeredByType.TEST)
executor = ExecutorLoader.get_default_executor()
executor.start()

def instances(session):
    return {ti.task_id: ti for ti in session.scalar(select(DagRun)).task_instances}

print("ready", flush=True)
for line in sys.stdin:
    with create_session() as session:
        run = session.scalar(select(DagRun))
        run.state = "running"
        ti = instances(session)[line.strip()]
        ti.state, ti.try_number = "queued", 1
        session.flush()
        executor.queue_workload(ExecuteTask.make(ti, generator=executor.jwt_generator), session)
        session.commit()
    executor.heartbeat()
    print(line.strip(), flush=True)
while executor.running:
    executor.heartbeat()
    time.sleep(0.1)
told = {str(key[1]): str(state) for key, (state, _) in executor.event_buffer.items()}
with create_session() as session:
    print(json.dumps([{name: str(ti.state) for name, ti in instances(session).items()}, told]), flush=True)
"""


@dataclass(frozen=True)
class Scene:
    """What workers stand on: Redis, Airflow's database and the API that tasks report to."""

    folder: Path
    broker: Redis
    told: dict[str, str]
    tokens: dict[str, str]

    def said(self, name: str) -> str | None:
        file = self.folder / name
        return file.read_text() if file.exists() else None

    def let_end(self, task: str) -> None:
        (self.folder / f"{task}.may-end").touch()

    def celery(self) -> Celery:
        """Who asks workers, as Airflow does to revoke what is queued for too long."""
        told = {"broker_url": self.told["AIRFLOW__CELERY__BROKER_URL"], "broker_transport_options": {}}
        return Celery(config_source=config(told, self.told))

    @contextmanager
    def worker(self, name: str) -> Iterator["subprocess.Popen[bytes]"]:
        """One that listens: it answers as the kubelet asks it."""
        (port,) = free_ports(1)
        program, *arguments = container()["args"]
        assert program == "airflow"
        command = [sys.executable, "-m", program, *arguments, "--skip-serve-logs", "--celery-hostname", name]
        own = {"WORKER": name, liveness.PORT: str(port), **self.told}
        ready = lambda: is_healthy(f"http://127.0.0.1:{port}")  # noqa: E731
        with running(command, self.folder / f"{name}.log", ready, own) as process:
            yield process


def objects():
    return render("airflow", VALUES)


def container():
    (celery,) = find(objects(), "Deployment", "maestro-airflow-worker")["spec"]["template"]["spec"]["containers"]
    return celery


def configured(folder: Path, database: str, broker: Redis, api: int) -> dict[str, str]:
    """The chart's airflow.cfg, and what stands elsewhere here; of secrets what a worker is told in the cluster."""
    (folder / "airflow.cfg").write_text(find(objects(), "ConfigMap", "maestro-airflow-config")["data"]["airflow.cfg"])
    (folder / "plugins").mkdir()
    (folder / "plugins/maestro.py").write_text("from mlops.airflow.plugin import MaestroPlugin\n")
    here = {
        "DATABASE__SQL_ALCHEMY_CONN": make_url(database).set(drivername="postgresql+psycopg2").render_as_string(),
        "CELERY__BROKER_URL": f"redis://127.0.0.1:{broker.port}/{DATABASE}",
        "CORE__DAGS_FOLDER": str(folder / "dags"),
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
        "CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "LOGGING__REMOTE_LOGGING": "False",
        "METRICS__STATSD_ON": "False",
    }
    return {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW_CONFIG": str(folder / "airflow.cfg"),
        "PYTHONPATH": str(ROOT),
        "FOLDER": str(folder),
        "MAESTRO_REDIS_HOST": "127.0.0.1",
        "MAESTRO_REDIS_PORT": str(broker.port),
        "MAESTRO_REDIS_USERNAME": environment(container())["MAESTRO_REDIS_USERNAME"],
        "MAESTRO_REDIS_PASSWORD": PASSWORD,
        **{f"AIRFLOW__{key}": value for key, value in here.items()},
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, postgresql: str) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("airflow")
    (folder / "dags").mkdir()
    (folder / "dags/works.py").write_text(DAG)
    (api,) = free_ports(1)
    with ExitStack() as stack:
        broker = stack.enter_context(Redis(folder))
        told = configured(folder, new_database(postgresql), broker, api)
        # Who signs the tokens of tasks, and who checks them; a worker does neither.
        tokens = {"AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests, long enough for each signature " * 2}
        for_all = {**os.environ, **told, **tokens}
        subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=for_all, check=True, capture_output=True)
        server = [sys.executable, "-m", "airflow", "api-server", "--apps", "execution", "--workers", "1"]
        ready = lambda: answers(f"http://127.0.0.1:{api}/execution/health")  # noqa: E731
        server += ["--host", "127.0.0.1", "--port", str(api)]
        stack.enter_context(running(server, folder / "api.log", ready, {**told, **tokens}, signal.SIGTERM))
        yield Scene(folder, broker, told, tokens)


@pytest.fixture
def scheduler(scene: Scene) -> Iterator["subprocess.Popen[str]"]:
    """Sends the tasks of its input's lines, and says each when it is sent."""
    command = [sys.executable, "-c", SCHEDULER, str(scene.folder / "dags")]
    env = {**os.environ, **scene.told, **scene.tokens}
    with (
        (scene.folder / "scheduler.log").open("w") as log,
        subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert line_of(process) == "ready", (scene.folder / "scheduler.log").read_text()[-3000:]
            yield process
        finally:
            process.kill()


def line_of(process: "subprocess.Popen[str]") -> str:
    """The next line that is not one of Airflow's log."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() in ("ready", "first", "second") or line.startswith("["):
            return line.strip()
    return ""


def send(process: "subprocess.Popen[str]", task: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{task}\n")
    process.stdin.flush()
    assert line_of(process) == task


def test_a_worker_that_is_told_to_end_ends_the_task_that_it_has_and_leaves_what_waits_to_another(
    scene: Scene, scheduler: "subprocess.Popen[str]"
) -> None:
    assert "AIRFLOW__CORE__FERNET_KEY" not in environment(container()), "it reads nothing that is encrypted"
    with scene.worker("one") as one:
        eventually(lambda: len(scene.celery().control.ping(timeout=5)) == 1)
        send(scheduler, "first")
        eventually(lambda: scene.said("first.began") == "one")
        one.send_signal(signal.SIGTERM)
        send(scheduler, "second")
        with scene.worker("two") as two:
            eventually(lambda: scene.said("second.began") == "two")
            assert one.poll() is None, "it waits for its task"
            scene.let_end("first")
            assert one.wait(240) == 0
            assert scene.said("first.done") == "one"
            scene.let_end("second")
            eventually(lambda: scene.said("second.done") == "two")
            assert scheduler.stdin is not None
            scheduler.stdin.close()
            done = {"first": "success", "second": "success"}
            assert json.loads(line_of(scheduler)) == [done, done]
            two.send_signal(signal.SIGTERM)
            assert two.wait(240) == 0
    of_celery = redis.Redis(port=scene.broker.port, password=PASSWORD, db=DATABASE)
    used = {key.decode() for key in of_celery.keys()}  # noqa: SIM118 - no dict
    assert used, "bindings stay"
    assert {key for key in used if not key.startswith(PREFIX)} == set()
    assert scene.broker.client.dbsize() == 0, "where features are"


def test_the_user_of_celery_reads_nothing_of_features_and_trainer_and_they_nothing_of_its(scene: Scene) -> None:
    features, queue, celery = "entity:maestro", "rq:queue:training", f"{PREFIX}default"
    scene.broker.client.hset(features, "value", "1")
    scene.broker.client.rpush(queue, "job")
    scene.broker.client.rpush(celery, "message")
    reads = {"features": ("hgetall", features), "queue": ("lrange", queue, 0, 1), "celery": ("lrange", celery, 0, 1)}
    for user in reads:
        client = redis.Redis(port=scene.broker.port, username=user, password=PASSWORD)
        for whose, command in reads.items():
            if whose == user:
                assert client.execute_command(*command)
            else:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command)
    scene.broker.client.flushdb()


def test_a_worker_whose_broker_is_away_is_alive_and_works_when_it_is_back(
    scene: Scene, scheduler: "subprocess.Popen[str]"
) -> None:
    for file in scene.folder.glob("*.may-end"):
        file.unlink()
    with scene.worker("three"):
        log = scene.folder / "three.log"
        scene.broker.kill()
        eventually(lambda: "Trying again" in log.read_text())
        scene.broker.start()
        send(scheduler, "first")
        eventually(lambda: scene.said("first.began") == "three")
        scene.let_end("first")
        eventually(lambda: scene.said("first.done") == "three")
