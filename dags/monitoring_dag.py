"""
### How do Airflow and its DAGs fare?

Three checks ask Airflow's API, as a user who may only read, and Prometheus: runs (success rates, DAGs that fail, late
runs, durations against each DAG's own history), tasks that failed and what their failures have in common (the task,
the error, the node, the task before), and scheduler, triggerer, dag-processor, pools and DAG files.
`generate_health_report` writes one page, with what is wrong first, since when, since which version, and links to logs.

`send_alerts` tells of each incident once when it begins and once when it is over, and is skipped where neither is the
case. What a check could not look at, since a service is slow or away, stands in the report and is an incident itself;
what nobody could look for is not told to be over.
"""

from datetime import timedelta
from functools import partial

from airflow.sdk import DAG, Param

from mlops.airflow.authoring.alerts import due_within, task_failed
from mlops.airflow.authoring.operator import task_pod
from mlops.airflow.authoring.schedule import cron

with DAG(
    dag_id="monitoring_dag",
    description="How Airflow and its DAGs fare: a report, and alerts of what has changed",
    doc_md=__doc__,
    schedule=cron("0 * * * *"),
    catchup=False,  # an hour that has passed cannot be looked at any more
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={
        "window_hours": Param(
            24, type="number", exclusiveMinimum=0, maximum=744, description="Hours of runs and failures to look at"
        )
    },
    default_args={"on_failure_callback": task_failed, "retries": 1},  # the next run is due within the hour
    deadline=due_within(timedelta(minutes=30)),
    tags=["monitoring"],
):
    # A check that breaks is a hole in the report, and no reason to look no further.
    step = partial(task_pod, timeout=timedelta(minutes=5), trigger_rule="all_done")
    look = partial(step, window_hours="{{ params.window_hours }}")
    report = step(
        "generate_health_report",
        "health",
        "report",
        # What a try before left of a task that did not run in this one is no finding.
        states="{{ ti.get_task_states(dag_id=dag.dag_id, run_ids=[run_id])[run_id] | tojson }}",
        report="report.html",
    )
    (
        look("check_dag_runs", "health", "runs")
        >> look("check_task_failures", "health", "failures")
        >> look("check_scheduler_health", "health", "components")
        >> report
        >> task_pod(
            "send_alerts", "health", "alert", timeout=timedelta(minutes=5), report_json=report.result("report_json")
        )
    )
