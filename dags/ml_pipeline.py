"""
### Batch inference: delivered files, scored once

Waits for a marker that says that files in a folder of the data bucket are whole, by default
`inbox/<date>/_READY`, and scores them with the version of a registered model that has the alias, which is pinned before
the first row is read. Rows that cannot be scored are put aside with the reason of each. Partitions are scored side by
side, each in a pod, and each is written once: a retry, a cleared task or a second run for the same delivery changes
nothing. The report moves the marker to `done/`.

Who delivers triggers it, by the UI, the command line or the API. To have it wait for a delivery of each day, give it a
schedule: `schedule=cron("0 5 * * *")`. Where nothing is delivered within two hours, the run fails.
"""

from datetime import timedelta
from functools import partial

from airflow.sdk import DAG, Param

from mlops.airflow.authoring.alerts import due_within, task_failed
from mlops.airflow.authoring.arrival import DataDelivered
from mlops.airflow.authoring.operator import task_pod, task_pods
from mlops.models import names

# A run that was triggered need not have a logical date.
MARKER = (
    "{{ params.marker or 'inbox/' ~ (dag_run.logical_date or dag_run.run_after).strftime('%Y-%m-%d') ~ '/_READY' }}"
)

with DAG(
    dag_id="ml_pipeline",
    description="Delivered files, scored once",
    doc_md=__doc__,
    schedule=None,  # one run at a time: another that waits would keep those waiting whose data is there
    catchup=False,
    max_active_runs=1,
    max_active_tasks=4,
    is_paused_upon_creation=False,
    params={
        "model": Param("sensor-failure", type="string", examples=names(), description="A registered model"),
        "alias": Param("production", type="string", description="Of the version that scores"),
        "marker": Param(
            None, type=["null", "string"], description="Key of the marker, or a file; empty: inbox/<date>/_READY"
        ),
        "folder": Param(None, type=["null", "string"], description="Of the files; empty: that of the marker"),
        "partition_rows": Param(524288, type="integer", minimum=1, description="Rows that one pod scores at most"),
    },
    default_args={"on_failure_callback": task_failed},
    deadline=due_within(timedelta(hours=4)),
    tags=["ml", "inference"],
):
    step = partial(task_pod, timeout=timedelta(hours=1))
    wait = DataDelivered(task_id="wait_for_data", marker=MARKER)
    ingest = step(
        "ingest_data",
        "inference",
        "ingest",
        model="{{ params.model }}",
        alias="{{ params.alias }}",
        marker=MARKER,
        folder="{{ params.folder or '' }}",
        size="medium",
    )
    batch = ingest.result("batch")
    preprocess = step(
        "preprocess_data", "inference", "preprocess", batch=batch, partition_rows="{{ params.partition_rows }}"
    )
    score = task_pods(
        "run_inference",
        "inference",
        "score",
        each="partition",
        of=preprocess,
        at_once=4,
        timeout=timedelta(hours=1),
        pool="inference",
    )
    # Where each row was put aside there is no partition to score, and yet something to tell.
    evaluate = step("evaluate_results", "inference", "evaluate", batch=batch, trigger_rule="none_failed")
    report = step(
        "generate_report",
        "inference",
        "report",
        batch=batch,
        report="index.html",
        retries=0,  # that it failed is to be seen at once
        timeout=timedelta(minutes=15),
    )
    wait >> ingest >> preprocess >> score >> evaluate >> report
