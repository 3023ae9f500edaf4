"""`python -m tests.bench.scheduler`: Airflow's scheduler at 10,000 tasks an hour, and at more.

The schedulers are real, with the settings of charts/maestro/values-prod.yaml, over a real PostgreSQL, and so are the
runs, which the schedule makes each minute. Tasks end when they are asked for (`tests.bench.at_once`), and as the
operator's do by a statement at the database: what is measured is the scheduler and its database, and no worker, pod
or API server.

For each rate: tasks that ended in an hour, by the number of those in the window; how long a task that could begin
waited until it was handed over, p50 and p95; how late a run began; processors used by the schedulers and by PostgreSQL.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg
import yaml
from sqlalchemy.engine import make_url

from tests.charts.conftest import find, render
from tests.processes import free_ports, is_healthy, running
from tests.servers import ROOT, PostgreSQL, new_database

TASKS = 10  # of a run, each after the one before
DAGS = """
from airflow.sdk import DAG, task

for number in range({dags}):
    with DAG(dag_id=f"chain_{{number}}", schedule="* * * * *", catchup=False, is_paused_upon_creation=False):
        before = None
        for place in range({tasks}):
            now = task(lambda: None, task_id=f"task_{{place}}")()
            if before is not None:
                before >> now
            before = now
"""
SYNC = """
import sys
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db

DagBundlesManager().sync_bundles_to_db()
sync_bag_to_db(BundleDagBag(sys.argv[1], bundle_path=sys.argv[1], bundle_name="dags-folder"), "dags-folder", None)
"""
# Of a task that could begin: when its run did, or the task before it ended.
WAITED = """
with tasks as (
    select ti.queued_dttm, ti.end_date, greatest(dr.start_date, lag(ti.end_date) over chain) as possible
    from task_instance ti join dag_run dr using (dag_id, run_id)
    window chain as (partition by ti.dag_id, ti.run_id order by ti.task_id)
)
select count(*), coalesce(percentile_cont(array[0.5, 0.95]) within group (
    order by extract(epoch from queued_dttm - possible)), array[0, 0])
from tasks where end_date between to_timestamp(%s) and to_timestamp(%s)
"""
LATE = """
select coalesce(percentile_cont(array[0.5, 0.95]) within group (
    order by extract(epoch from start_date - run_after)), array[0, 0])
from dag_run where start_date between to_timestamp(%s) and to_timestamp(%s)
"""


class Row(NamedTuple):
    """asked, done: tasks an hour. waited, late: seconds, p50 and p95. scheduler, database: processors, all of each."""

    asked: int
    schedulers: int
    done: float
    waited: tuple[float, float]
    late: tuple[float, float]
    scheduler: float
    database: float

    @property
    def text(self) -> str:
        return (
            f"{self.asked:>9,} | {self.schedulers} | {self.done:>9,.0f} | {self.waited[0]:.2f} {self.waited[1]:.2f} | "
            f"{self.late[0]:.2f} {self.late[1]:.2f} | {self.scheduler:.2f} | {self.database:.2f}"
        )


def configured(folder: Path, database: str) -> dict[str, str]:
    """The environment of Airflow's processes: the chart's airflow.cfg of production, and what stands elsewhere here."""
    values = yaml.safe_load((ROOT / "charts/maestro/values-prod.yaml").read_text())["airflow"]
    config = find(render("airflow", values), "ConfigMap", "maestro-airflow-config")["data"]["airflow.cfg"]
    (folder / "airflow.cfg").write_text(config)
    here = {
        "DATABASE__SQL_ALCHEMY_CONN": make_url(database).set(drivername="postgresql+psycopg2").render_as_string(),
        "CORE__DAGS_FOLDER": str(folder / "dags"),
        "CORE__EXECUTOR": "tests.bench.at_once.AtOnce",
        "LOGGING__REMOTE_LOGGING": "False",
        "METRICS__STATSD_ON": "False",
        "API_AUTH__JWT_SECRET": "a secret of the bench, long enough for each signature " * 2,
    }
    return {
        **os.environ,
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW_CONFIG": str(folder / "airflow.cfg"),
        "PYTHONPATH": str(ROOT),
        **{f"AIRFLOW__{key}": value for key, value in here.items()},
    }


@contextmanager
def scheduling(folder: Path, told: dict[str, str], count: int) -> Iterator[list[psutil.Process]]:
    """Schedulers that run; at the end they are killed."""
    with ExitStack() as stack:
        processes = []
        for number, port in enumerate(free_ports(count)):
            own = {**told, "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(port)}
            own["AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK"] = "True"
            command = [sys.executable, "-m", "airflow", "scheduler", "--skip-serve-logs"]
            ready = lambda port=port: is_healthy(f"http://127.0.0.1:{port}/health")  # noqa: E731
            started = running(command, folder / f"scheduler-{number}.log", ready, own, signal.SIGKILL)
            processes.append(psutil.Process(stack.enter_context(started).pid))
        yield processes


def used(roots: list[psutil.Process]) -> dict[tuple[int, float], float]:
    """Seconds of the processors by process: those of the roots and of all that stem from them."""
    found = {}
    for root in roots:
        for process in (root, *root.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            found[process.pid, process.create_time()] = times.user + times.system
    return found


def processors(before: dict[tuple[int, float], float], after: dict[tuple[int, float], float], seconds: float) -> float:
    """How many were used on the average; a process that ended within the window is not counted."""
    return sum(spent - before.get(process, 0.0) for process, spent in after.items()) / seconds


def measured(rate: int, schedulers: int, warm: float, seconds: float) -> Row:
    """One rate, in a database of its own."""
    with ExitStack() as stack:
        folder, dags = Path(stack.enter_context(tempfile.TemporaryDirectory())), round(rate / 60 / TASKS)
        folder.chmod(0o755)  # PostgreSQL runs as another user
        server = stack.enter_context(PostgreSQL(folder))
        database = new_database(server.url)
        (folder / "dags").mkdir()
        (folder / "dags/chains.py").write_text(DAGS.format(dags=dags, tasks=TASKS))
        told = configured(folder, database)
        for command in (["-m", "airflow", "db", "migrate"], ["-c", SYNC, str(folder / "dags")]):
            subprocess.run([sys.executable, *command], env=told, check=True, capture_output=True)
        with scheduling(folder, told, schedulers) as processes:
            postgres = [process for process in psutil.process_iter(["cmdline"]) if _is_server(process, server.folder)]
            time.sleep(warm)
            began, spent, of_server = time.time(), used(processes), used(postgres)
            time.sleep(seconds)
            ended, passed = time.time(), time.time() - began
            scheduler = processors(spent, used(processes), passed)
            of_database = processors(of_server, used(postgres), passed)
        with psycopg.connect(database) as connection:
            count, waited = connection.execute(WAITED, (began, ended)).fetchone() or (0, (0.0, 0.0))
            (late,) = connection.execute(LATE, (began, ended)).fetchone() or ((0.0, 0.0),)
        asked = dags * TASKS * 60
        return Row(asked, schedulers, count * 3600 / passed, tuple(waited), tuple(late), scheduler, of_database)


def _is_server(process: psutil.Process, folder: Path) -> bool:
    words = process.info["cmdline"] or []
    return bool(words) and words[0].endswith("/postgres") and f"{folder}/data" in words


def main() -> int:
    """Prints a row for each rate and number of schedulers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rates", type=int, nargs="+", default=[10_000, 20_000, 40_000], metavar="TASKS", help="an hour"
    )
    parser.add_argument("--schedulers", type=int, nargs="+", default=[1, 2], metavar="COUNT")
    parser.add_argument("--warm", type=float, default=90.0, metavar="SECONDS", help="before it (%(default)s)")
    parser.add_argument("--seconds", type=float, default=180.0, help="of the window (%(default)s)")
    given = parser.parse_args()
    print("asked/h | schedulers | ended/h | waited s p50 p95 | run late s p50 p95 | CPUs schedulers | CPUs PostgreSQL")
    for count in given.schedulers:
        for rate in given.rates:
            print(measured(rate, count, given.warm, given.seconds).text, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
