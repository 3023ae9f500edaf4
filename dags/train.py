"""
### The sensor model, trained every hour on what was read since

Asks whether MLflow and the sensor trainer answer, has the trainer train its clustering model on the newest readings,
and waits for the job. A model takes the place of the one that is served only when it is not worse on the readings that
came last; the result of `monitor_training` says whether, and why.

Where too few readings are new, the job and `monitor_training` are skipped. A retry finds the job of its run again and
starts no second one; so does a run that is cleared, unless its job failed or was cancelled. Set
`minimum_new_readings` in the trigger form for one run; the trainer's own is `sensorTrainer.minimumNewReadings` in the
values.
"""

from datetime import timedelta

from airflow.sdk import DAG, Param
from utils.healthcheck import mlflow_healthcheck, trainer_healthcheck
from utils.status import check_status

from mlops.airflow.authoring.alerts import due_within, task_failed
from mlops.airflow.authoring.operator import task_pod
from mlops.airflow.authoring.schedule import cron

with DAG(
    dag_id="train_clustering_model",
    description="The sensor model, trained on the newest readings",
    doc_md=__doc__,
    schedule=cron("@hourly"),
    catchup=False,  # a later run trains on all that an earlier one would have
    max_active_runs=1,  # the trainer takes one training of a model at a time
    is_paused_upon_creation=False,
    params={
        "minimum_new_readings": Param(
            None, type=["null", "integer"], minimum=0, description="Fewer are not trained on (the trainer's setting)"
        )
    },
    default_args={
        "on_failure_callback": task_failed,
        "retries": 3,
        # The commands have asked again for a minute and a half by then: a longer pause gains nothing, and the next run
        # is due within the hour.
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": 1.0,
    },
    deadline=due_within(timedelta(minutes=50)),
    tags=["sensor", "ml", "training"],
):
    train = task_pod(
        "trigger_training",
        "sensor-trainer",
        "trigger",
        minimum_new_readings="{{ params.minimum_new_readings }}",
        timeout=timedelta(minutes=5),
    )
    mlflow_healthcheck() >> trainer_healthcheck() >> train >> check_status(train.result("job_id"))
