"""Work that writes down itself what was done of it. tests/chaos/placed.py builds this file into the release's image."""

from datetime import timedelta

from airflow.sdk import DAG, task

from mlops.airflow.authoring.operator import PodTask

# Each try writes when it began and ended, below a name of its own, and claims the task's work under one name: the store
# lets one try have it (a conditional put). What a try that was ended has claimed, the next one finds done.
PROGRAM = """
import json, os, sys, time, uuid
from mlops.config import S3Settings
from mlops.stores.object_store import ObjectStore

settings = S3Settings.from_environment()
store = ObjectStore(settings, settings.data_bucket)
place = f"chaos/{os.environ['MAESTRO_RUN_ID']}/{os.environ['MAESTRO_TASK_ID']}"
attempt = uuid.uuid4().hex[:12]

def note(what, **more):
    row = {"attempt": attempt, "try": int(os.environ["MAESTRO_TRY_NUMBER"]), "at": time.time(), **more}
    return store.write_new(f"{place}/{what}", json.dumps(row).encode())

note(f"began/{attempt}")
time.sleep(float(sys.argv[1]))
note("done")
note(f"ended/{attempt}")
with open("/dev/termination-log", "w") as result:
    json.dump({"attempt": attempt}, result)
"""
SECONDS = 15
# A service that is away for two minutes is waited for, and its return is noticed soon.
TRIED = {"retries": 8, "retry_delay": timedelta(seconds=10), "retry_exponential_backoff": 1.5}


def noted(task_id: str, seconds: float) -> PodTask:
    return PodTask(task_id=task_id, arguments=["python", "-c", PROGRAM, str(seconds)], needs=["s3"], **TRIED)


with DAG(
    dag_id="chaos_ledger",
    schedule=None,
    is_paused_upon_creation=False,
    max_active_runs=32,
    max_active_tasks=64,
    tags=["chaos"],
):
    noted("first", 1) >> [noted(f"work_{number}", SECONDS) for number in range(3)] >> noted("last", 1)


@task(**TRIED)
def held() -> None:
    """Holds its place in a worker, as Maestro's own tasks do not."""
    import time

    time.sleep(20)


with DAG(dag_id="chaos_burst", schedule=None, is_paused_upon_creation=False, max_active_tasks=64, tags=["chaos"]):
    for number in range(60):
        held.override(task_id=f"held_{number}")()
