"""
### Features of new readings into the online store, every ten minutes

Collects the readings that the sensor trainer has taken in since the last time, computes the features of their
machines, and writes them to the offline and to the online store, without waiting for the night. Where no reading is
new, all of it is skipped. The feature service of `sensor-failure-windows` promises values of that age: a model of it is
trained and judged on them, so pause this DAG only with a service of nightly values in its place.
"""

from datetime import timedelta

from airflow.sdk import DAG

from mlops.airflow.authoring.alerts import due_within, task_failed
from mlops.airflow.authoring.operator import task_pod
from mlops.airflow.authoring.schedule import cron

with DAG(
    dag_id="feature_push",
    description="Features of new readings into the online store",
    doc_md=__doc__,
    schedule=cron("*/10 * * * *"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args={"on_failure_callback": task_failed},
    deadline=due_within(timedelta(minutes=15)),
    tags=["features", "sensor"],
):
    # One at a time of these and of feature_engineering_pipeline's, or one would undo what another has noted.
    collect = task_pod(
        "collect_readings", "sensor-trainer", "collect", pool="materialization", timeout=timedelta(minutes=5)
    )
    push = task_pod(
        "push_features",
        "features",
        "push",
        dataset=collect.result("dataset"),
        image="feast",
        pool="materialization",
        timeout=timedelta(minutes=5),
    )
    collect >> push
