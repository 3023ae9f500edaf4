"""
### The newest feature values into the online store, every night

Runs when feature_engineering_pipeline has updated the asset `offline-features`, and at 2 in any case. Looks whether the
feature store is set up as the code says, puts each entity's newest values of the last `feature_materialization_days`
days (a Variable) that had events from the offline store into Redis, and compares what is served of sampled entities
with the offline store. A value is never replaced by an older one, so this may be repeated, overlap with another run, or
end half way. Where nothing new has come, the values of before are still the newest, and the run ends well.

Its last task updates the asset `online-features`, which a DAG that needs fresh features can wait for.
"""

from datetime import timedelta
from functools import partial

from airflow.sdk import DAG, AssetOrTimeSchedule

from mlops.airflow.authoring.alerts import due_within, task_failed
from mlops.airflow.authoring.freshness import OFFLINE_FEATURES, ONLINE_FEATURES
from mlops.airflow.authoring.operator import task_pod
from mlops.airflow.authoring.schedule import cron

with DAG(
    dag_id="feature_materialization",
    description="The newest feature values into the online store",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(timetable=cron("0 2 * * *"), assets=[OFFLINE_FEATURES]),
    catchup=False,  # a later run brings all that an earlier one would have
    max_active_runs=1,  # two at once would do no harm, and the work twice
    is_paused_upon_creation=False,
    default_args={"on_failure_callback": task_failed},
    deadline=due_within(timedelta(minutes=30)),
    tags=["features"],
):
    step = partial(task_pod, image="feast", timeout=timedelta(minutes=10))
    days = "{{ var.value.feature_materialization_days }}"
    check = step("validate_feature_store", "features", "validate-store")
    materialize = step(
        "materialize_features",
        "features",
        "materialize",
        days=days,
        end="{{ dag_run.data_interval_end or dag_run.run_after }}",  # a run by hand has no interval
        size="medium",
        pool="materialization",
        timeout=timedelta(minutes=20),
    )
    validate = step(
        "validate_online_features",
        "features",
        "validate-online",
        days=days,
        end=materialize.result("end"),
        written=materialize.result("began"),  # what is pushed meanwhile is in one store before it is in the other
        sample=200,
        outlets=[ONLINE_FEATURES],
    )
    check >> materialize >> validate
