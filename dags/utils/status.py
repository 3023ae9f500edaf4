"""The task that waits for a training job of the sensor trainer."""

from datetime import timedelta

from mlops.airflow.authoring.operator import PodTask, task_pod

_JOB = timedelta(minutes=30)  # a training takes less than a minute; the rest is for a worker that died, and the next
_START = timedelta(minutes=5)  # what the pod itself may need beside


def check_status(job_id: str) -> PodTask:
    """Ends as the job does: with its metrics, model version and a link to its card, skipped, or failed with its cause.

    job_id: a template of it. A retry waits for the same job; while the trainer is away it is asked again.
    """
    patience = f"{_JOB.total_seconds():.0f}"
    return task_pod(
        "monitor_training",
        "sensor-trainer",
        "monitor",
        job_id=job_id,
        patience=patience,
        report="model_card.html",
        timeout=_JOB + _START,
    )
