"""
### Are the newest rows still what the models were made for?

Takes the newest window out of a dataset, checks it against the declaration (schema, then quality), compares it with the
stored reference (drift, anomalies), and writes one page of all of it, also when a check failed: the run fails after
that. The window is read from the set once; the steps behind read the table that it was written to. Rows dated in the
future are left out and counted. Drift, anomalies and such rows raise an alert and do not fail the run. People are told
when a problem begins, when it gets worse, and when it is over.

Choose the dataset and the window in the trigger form. Thresholds are the Variables `data_max_age_hours` (`declared`:
twice the cadence of the dataset), `drift_effect_threshold` and `anomaly_excess_threshold`. The reference is the
training data of the model that was put into production last; before there is one, the earliest 60 % of the set.
`python -m mlops drift reference` stores another one, until the next model.
"""

from datetime import timedelta
from functools import partial

from airflow.sdk import DAG, Param

from mlops.airflow.authoring.alerts import due_within, task_broke
from mlops.airflow.authoring.operator import task_pod
from mlops.airflow.authoring.schedule import cron
from mlops.datasets import names

with DAG(
    dag_id="data_validation_pipeline",
    description="Schema, quality, drift and anomalies of the newest rows, and a report",
    doc_md=__doc__,
    schedule=cron("0 */6 * * *"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={
        "dataset": Param("shuttle", type="string", examples=names(), description="A declared dataset"),
        "window_hours": Param(
            24, type="number", exclusiveMinimum=0, maximum=87_600, description="Hours before the newest event"
        ),
    },
    # Of what it refuses, generate_report tells once.
    default_args={"on_failure_callback": task_broke},
    deadline=due_within(timedelta(minutes=15)),
    tags=["ml", "monitoring"],
):
    step = partial(task_pod, dataset="{{ params.dataset }}", timeout=timedelta(minutes=5))
    window = step("select_window", "data-quality", "window", window_hours="{{ params.window_hours }}")
    look = partial(step, data=window.result("data"))
    schema = look("validate_schema", "data-quality", "schema")
    quality = look("check_quality", "data-quality", "quality", max_age="{{ var.value.data_max_age_hours }}")
    drift = look("detect_drift", "drift", "compare", effect_threshold="{{ var.value.drift_effect_threshold }}")
    anomalies = look(
        "detect_anomalies", "drift", "anomalies", excess_threshold="{{ var.value.anomaly_excess_threshold }}"
    )
    report = step(
        "generate_report",
        "data-quality",
        "report",
        # What a try before left of a task that did not run in this one is no finding.
        states="{{ ti.get_task_states(dag_id=dag.dag_id, run_ids=[run_id])[run_id] | tojson }}",
        trigger_rule="all_done",
        report="report.html",
    )
    window >> schema >> quality >> [drift, anomalies] >> report
