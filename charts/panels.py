"""What the dashboards show: each panel with its queries. charts/dashboards.py makes Grafana's files of it.

`make dashboard` draws them without Grafana, so a query holds none of its variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

SECONDS = {"1h": 3600, "1d": 86400}

Kind = Literal["timeseries", "stat", "bargauge"]


@dataclass(frozen=True)
class Panel:
    """queries: in PromQL, by the name of what each gives, with labels as {{label}}. unit: one of Grafana's.

    none: why there may be no data on a platform that is well; such a panel is one that need not have any.
    """

    title: str
    unit: str
    queries: Mapping[str, str]
    kind: Kind = "timeseries"
    none: str = ""


@dataclass(frozen=True)
class Dashboard:
    """uid: also the name of its file."""

    uid: str
    title: str
    panels: Sequence[Panel]


def within(counter: str, window: str = "1d") -> str:
    """How much a counter rose, one that is gone by now as well.

    One that is new in the window counts from 0, where `increase` sees no change; one that is new and began anew in it
    lacks what it began with.
    """
    known = f"{counter} offset {window} or resets({counter}[{window}]) > 0"
    return f"last_over_time({counter}[{window}]) unless ({known}) or increase({counter}[{window}])"


def pushed(counter: str, by: str, selector: str = "", window: str = "1d") -> str:
    """What pods counted that pushed in the window (docs/operations.md, Metrics of tasks)."""
    return (
        f"sum by ({by}) (last_over_time({counter}{selector}[{window}]) and on (instance) "
        f'last_over_time(push_time_seconds{{job="maestro-pod"}}[{window}]) > time() - {SECONDS[window]})'
    )


def ratio(part: str, whole: str, by: str = "") -> str:
    """The one sum through the other."""
    clause = f" by ({by}) " if by else ""
    return f"sum{clause}({part}) / sum{clause}({whole})"


def quantiles(histogram: str, window: str = "1h", by: str = "") -> dict[str, str]:
    """The median and the slowest of twenty and of a hundred; of each `by`, the slowest of twenty."""
    labels, buckets = f"{by}, le" if by else "le", within(f"{histogram}_bucket", window)
    shares = {f"{{{{{by}}}}}": 0.95} if by else {"half": 0.5, "95 %": 0.95, "99 %": 0.99}
    return {name: f"histogram_quantile({share}, sum by ({labels}) ({buckets}))" for name, share in shares.items()}


def mean(histogram: str, by: str) -> str:
    """The mean of what ended in the last day."""
    return ratio(within(f"{histogram}_sum"), within(f"{histogram}_count"), by)


def answered(counter: str) -> dict[str, str]:
    """The share of a service's requests that it did not fail."""
    good = counter + '{status!~"5.."}'
    return {"answered": ratio(within(good, "1h"), within(counter, "1h"))}


FAILED = within("airflow_task_failed")
ENDED = {
    how: f"round(sum by (dag_id) ({within(f'airflow_dag_run_{rule}')}))"  # `increase` extrapolates
    for how, rule in (("succeeded", "success"), ("failed", "failed"))
}
HEARTBEATS = {"{{job_type}}": "time() - max by (job_type) (airflow_db_heartbeat_timestamp_seconds)"}
TASKS = {"{{state}}": "sum by (state) (airflow_db_tasks_count)"}
JOBS = {"{{state}}": "max by (state) (maestro_training_jobs)"}
WAITING_JOBS = {"jobs": "max(maestro_training_jobs_waiting)"}
SERVED_VERSION = {"version": "max(maestro_sensor_model_version)"}
FEATURES_AGE = {"{{view}}": "max by (view) (maestro_materialization_age_seconds)"}
SUCCESS = ratio(within("airflow_dag_run_success"), within("airflow_dagrun_total"))
FREE, TOTAL = (f"minio_cluster_capacity_usable_{part}_bytes" for part in ("free", "total"))
MEMORY = 'container_memory_working_set_bytes{container!=""}'
UNMEASURED = "no pod's memory is known: the cluster has no metrics-server"
TRAINING = '{group=~"training|registry"}'
LEARNING = '{dag_id=~"ml_pipeline_dag|model_training_pipeline|train_clustering_model"}'
BATCHES = '{group="inference"}'
CHECKS = '{group=~"data-quality|drift"}'

DASHBOARDS = (
    Dashboard(
        "overview",
        "Maestro: overview",
        (
            Panel("Alerts now", "short", {"": 'sum(ALERTS{alertstate="firing"}) or vector(0)'}, "stat"),
            Panel("Runs that succeeded in a day", "percentunit", {"": SUCCESS}, "stat"),
            Panel("Services that are silent", "short", {"": "count(up == 0) or vector(0)"}, "stat"),
            Panel(
                "Tasks that wait for a slot",
                "short",
                {"": 'sum(airflow_db_tasks_count{state=~"scheduled|queued"})'},
                "stat",
            ),
            Panel(
                "Alerts",
                "short",
                {"{{alertname}}": 'sum by (alertname) (ALERTS{alertstate="firing"})'},
                none="no alert has fired",
            ),
            Panel("Services that answer", "short", {"{{job}}": "min by (job) (up)"}),
            Panel("Seconds since Airflow's last heartbeat", "s", HEARTBEATS),
            Panel("Tasks", "short", TASKS),
            Panel("Pods", "short", {"{{phase}}": "sum by (phase) (kube_pod_status_phase)"}),
            Panel(
                "Predictions and requests for features, a second",
                "reqps",
                {
                    "model server": "sum(rate(maestro_model_server_requests_total[5m]))",
                    "features": "sum(rate(feast_feature_server_request_total[5m]))",
                    "sensor trainer": "sum(rate(maestro_sensor_requests_total[5m]))",
                },
            ),
            Panel(
                "Object store: used",
                "percentunit",
                {
                    "of the disk": f"1 - {ratio(FREE, TOTAL)}",
                },
                none="the object store is not MinIO of this release",
            ),
            Panel(
                "Databases and Redis",
                "bytes",
                {
                    "{{datname}}": "sum by (datname) (pg_database_size_bytes)",
                    "Redis": "sum(redis_memory_used_bytes)",
                },
            ),
        ),
    ),
    Dashboard(
        "dags",
        "Maestro: DAGs",
        (
            Panel(
                "Runs that ended in a day", "short", {f"{{{{dag_id}}}} {how}": query for how, query in ENDED.items()}
            ),
            Panel(
                "Success rate of a day",
                "percentunit",
                {
                    "{{dag_id}}": ratio(within("airflow_dag_run_success"), within("airflow_dagrun_total"), "dag_id"),
                },
            ),
            Panel(
                "Failure rate of a day",
                "percentunit",
                {
                    "{{dag_id}}": ratio(within("airflow_dag_run_failed"), within("airflow_dagrun_total"), "dag_id"),
                },
            ),
            Panel(
                "Run time, mean of a day",
                "s",
                {"{{dag_id}} {{state}}": mean("airflow_dag_run_duration", "dag_id, state")},
            ),
            Panel("Task time, slowest of twenty in a day", "s", quantiles("airflow_task_duration", "1d", "dag_id")),
            Panel(
                "Slowest tasks, mean of a day",
                "s",
                {
                    "{{dag_id}} {{task_id}}": f"topk(12, {mean('airflow_task_duration', 'dag_id, task_id')})",
                },
                "bargauge",
            ),
            Panel(
                "Tries that failed in a day",
                "short",
                {"{{dag_id}} {{task_id}}": f"topk(12, sum by (dag_id, task_id) ({FAILED}) > 0)"},
                "bargauge",
                "no task has failed",
            ),
            Panel(
                "Runs that run and wait",
                "short",
                {
                    "{{dag_id}} running": "max by (dag_id) (airflow_db_dag_running_runs) > 0",
                    "{{dag_id}} queued": "max by (dag_id) (airflow_db_dag_queued_runs) > 0",
                },
                none="no run has run for long enough to be seen",
            ),
            Panel("Tasks by state", "short", TASKS),
            Panel("Pools: slots taken", "short", {"{{pool}}": "max by (pool) (airflow_db_pool_taken_slots)"}),
            Panel("Pools: longest wait", "s", {"{{pool}}": "max by (pool) (airflow_db_pool_longest_wait_seconds)"}),
            Panel(
                "Executor",
                "short",
                {
                    "open slots": "max(airflow_executor_open_slots)",
                    "queued": "max(airflow_executor_queued_tasks)",
                    "running": "max(airflow_executor_running_tasks)",
                },
            ),
            Panel(
                "Scheduler: heartbeats a second", "short", {"heartbeats": "sum(rate(airflow_scheduler_heartbeat[5m]))"}
            ),
            Panel("Seconds since the last heartbeat", "s", HEARTBEATS),
            Panel("Tasks in the triggerer", "short", {"triggers": "sum(airflow_triggers_running)"}),
            Panel("DAG files that cannot be read", "short", {"files": "max(airflow_dag_processing_import_errors)"}),
        ),
    ),
    Dashboard(
        "pods",
        "Maestro: pods",
        (
            Panel("Pods by phase", "short", {"{{phase}}": "sum by (phase) (kube_pod_status_phase)"}),
            Panel(
                "Containers that are not ready",
                "short",
                {
                    "containers": "count(kube_pod_container_status_ready == 0) or vector(0)",
                },
            ),
            Panel(
                "Why containers wait",
                "short",
                {
                    "{{reason}}": "sum by (reason) (kube_pod_container_status_waiting_reason)",
                },
                none="no container waits",
            ),
            Panel(
                "How containers ended",
                "short",
                {
                    "{{reason}}": "sum by (reason) (kube_pod_container_status_terminated_reason)",
                },
                none="no pod of a task is there any more",
            ),
            Panel(
                "Restarts in a day",
                "short",
                {
                    "{{container}}": "sum by (container) (increase(kube_pod_container_status_restarts_total[1d])) > 0",
                },
                "bargauge",
                "no container has restarted",
            ),
            Panel(
                "Memory by container",
                "bytes",
                {
                    "{{container}}": f"topk(12, sum by (container) ({MEMORY}))",
                },
                "bargauge",
                UNMEASURED,
            ),
            Panel("Memory in all", "bytes", {"memory": f"sum({MEMORY})"}, none=UNMEASURED),
            Panel(
                "Memory, of the limit",
                "percentunit",
                {
                    "{{container}}": (
                        f"max by (container) (max by (namespace, pod, container) ({MEMORY})"
                        ' / max by (namespace, pod, container) (kube_pod_container_resource_limits{resource="memory"}))'
                    ),
                },
                none=UNMEASURED,
            ),
        ),
    ),
    Dashboard(
        "training",
        "Maestro: training",
        (
            Panel(
                "Run time of training, mean of a day",
                "s",
                {
                    "{{dag_id}}": ratio(
                        within(f"airflow_dag_run_duration_sum{LEARNING}"),
                        within(f"airflow_dag_run_duration_count{LEARNING}"),
                        "dag_id",
                    ),
                },
            ),
            Panel(
                "Success rate of training, of a day",
                "percentunit",
                {
                    "{{dag_id}}": ratio(
                        within(f"airflow_dag_run_success{LEARNING}"),
                        within(f"airflow_dagrun_total{LEARNING}"),
                        "dag_id",
                    ),
                },
            ),
            Panel(
                "Seconds of commands in a day",
                "s",
                {
                    "{{group}} {{command}}": pushed("maestro_command_seconds_total", "group, command", TRAINING),
                },
            ),
            Panel(
                "Rows read to train and to judge, in a day",
                "short",
                {
                    "{{command}}": pushed("maestro_command_records_total", "command", TRAINING),
                },
                none="no command has told how many rows it read",
            ),
            Panel(
                "Commands that failed in a day",
                "short",
                {
                    "{{command}} {{kind}}": pushed("maestro_command_errors_total", "command, kind", TRAINING),
                },
                "bargauge",
                "none has failed",
            ),
            Panel("Sensor trainer: jobs", "short", JOBS),
            Panel("Sensor trainer: jobs that wait", "short", WAITING_JOBS),
            Panel("Sensor trainer: version that is served", "short", SERVED_VERSION),
        ),
    ),
    Dashboard(
        "inference",
        "Maestro: inference",
        (
            Panel(
                "Model server: requests a second",
                "reqps",
                {
                    "{{status}}": "sum by (status) (rate(maestro_model_server_requests_total[5m]))",
                },
            ),
            Panel(
                "Model server: success rate of an hour", "percentunit", answered("maestro_model_server_requests_total")
            ),
            Panel("Model server: latency of an hour", "s", quantiles("maestro_model_server_request_seconds")),
            Panel(
                "Features: requests a second",
                "reqps",
                {"{{status}}": "sum by (status) (rate(feast_feature_server_request_total[5m]))"},
            ),
            Panel("Features: latency of an hour", "s", quantiles("feast_feature_server_request_latency_seconds")),
            Panel("Features: age of the newest", "s", FEATURES_AGE),
            Panel(
                "Batches: rows in a day",
                "short",
                {
                    "{{command}}": pushed("maestro_command_records_total", "command", BATCHES),
                },
            ),
            Panel(
                "Batches: rows a second and pod, in a day",
                "short",
                {
                    "{{command}}": (
                        f"{pushed('maestro_command_records_total', 'command', BATCHES)}"
                        f" / {pushed('maestro_command_seconds_total', 'command', BATCHES)}"
                    ),
                },
            ),
            Panel(
                "Batches: commands that failed in a day",
                "short",
                {
                    "{{command}} {{kind}}": pushed("maestro_command_errors_total", "command, kind", BATCHES),
                },
                "bargauge",
                "none has failed",
            ),
        ),
    ),
    Dashboard(
        "data-quality",
        "Maestro: data quality",
        (
            Panel(
                "Drift", "percentunit", {"{{dataset}} {{column}}": "max by (dataset, column) (maestro_drift_effect)"}
            ),
            Panel(
                "Anomalies",
                "percentunit",
                {
                    "{{dataset}}": "max by (dataset) (maestro_anomaly_rate)",
                    "{{dataset}} expected": "max by (dataset) (maestro_anomaly_rate_expected)",
                },
            ),
            Panel(
                "Findings that people were told of in a day",
                "short",
                {
                    "{{dataset}} {{column}} {{kind}}": pushed("maestro_alerts_total", "dataset, column, kind"),
                },
                "bargauge",
                "nobody was told of any",
            ),
            Panel(
                "Rows looked at in a day",
                "short",
                {
                    "{{group}} {{command}}": pushed("maestro_command_records_total", "group, command", CHECKS),
                },
            ),
            Panel(
                "Checks that failed in a day",
                "short",
                {
                    "{{group}} {{command}} {{kind}}": pushed(
                        "maestro_command_errors_total", "group, command, kind", CHECKS
                    ),
                },
                "bargauge",
                "none has failed",
            ),
            Panel(
                "Seconds of checks in a day",
                "s",
                {
                    "{{group}} {{command}}": pushed("maestro_command_seconds_total", "group, command", CHECKS),
                },
                "bargauge",
            ),
            Panel(
                "Assets: seconds since the last update",
                "s",
                {
                    "{{asset}}": "time() - max by (asset) (airflow_db_asset_updated_timestamp_seconds)",
                },
            ),
            Panel(
                "Features: share that is missing",
                "percentunit",
                {
                    "{{view}}": "max by (view) (maestro_materialization_null_share)",
                },
            ),
            Panel("Features: age of the newest", "s", FEATURES_AGE),
            Panel(
                "Features: entities written in a day",
                "short",
                {
                    "{{view}}": pushed("maestro_materialization_rows_written_total", "view"),
                },
            ),
        ),
    ),
    Dashboard(
        "sensors",
        "Maestro: sensors",
        (
            Panel(
                "Readings in an hour",
                "short",
                {"{{outcome}}": f"sum by (outcome) ({within('maestro_sensor_readings_total', '1h')})"},
            ),
            Panel(
                "Requests a second",
                "reqps",
                {
                    "{{method}} {{route}}": "sum by (method, route) (rate(maestro_sensor_requests_total[5m]))",
                },
            ),
            Panel("Success rate of an hour", "percentunit", answered("maestro_sensor_requests_total")),
            Panel(
                "Latency of an hour, slowest of twenty", "s", quantiles("maestro_sensor_request_seconds", by="route")
            ),
            Panel("Requests being answered", "short", {"requests": "sum(maestro_sensor_requests_in_progress)"}),
            Panel("Training jobs", "short", JOBS),
            Panel("Training jobs that wait", "short", WAITING_JOBS),
            Panel("Version that is served", "short", SERVED_VERSION),
            Panel(
                "Features that were pushed: age",
                "s",
                {
                    "{{view}}": "max by (view) (maestro_push_age_seconds)",
                },
                none="no new reading has been pushed",
            ),
            Panel("Redis: memory", "bytes", {"used": "sum(redis_memory_used_bytes)"}),
        ),
    ),
)
