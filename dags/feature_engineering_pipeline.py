"""
### Features of what is new, every night

Collects the readings that the sensor trainer has taken in since the last time, and brings the features of all data sets
up to date in the offline store: new files of a set, rows that came late, collected readings. Only partitions of time
that an event changed are computed; a second run changes nothing, so this may be repeated, or end half way.

Its last task updates the asset `offline-features`, and so has feature_materialization follow.
"""

from datetime import timedelta

from airflow.sdk import DAG

from mlops.airflow.authoring.alerts import due_within, task_failed
from mlops.airflow.authoring.freshness import OFFLINE_FEATURES
from mlops.airflow.authoring.operator import task_pod
from mlops.airflow.authoring.schedule import cron

with DAG(
    dag_id="feature_engineering_pipeline",
    description="Features of what is new, into the offline store",
    doc_md=__doc__,
    schedule=cron("0 1 * * *"),
    catchup=False,  # a later run brings all that an earlier one would have
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args={"on_failure_callback": task_failed},
    deadline=due_within(timedelta(minutes=30)),
    tags=["features"],
):
    # One at a time of these and of feature_push's, or one would undo what another has noted.
    collect = task_pod(
        "collect_readings", "sensor-trainer", "collect", pool="materialization", timeout=timedelta(minutes=10)
    )
    save = task_pod(
        "save_features",
        "features",
        "build",
        dataset="all",
        image="feast",
        size="medium",
        pool="materialization",
        timeout=timedelta(minutes=20),
        # Where no reading is new, files may be; a trainer that is away holds up no other set, and its task tells of it.
        trigger_rule="all_done",
        outlets=[OFFLINE_FEATURES],
    )
    collect >> save
