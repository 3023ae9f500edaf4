"""Tasks that ask whether a service answers, before a run sends it work.

A pod asks from where the work will: a name, a NetworkPolicy or a token that is wrong shows there. It asks again for a
minute and a half, with ever longer pauses, and fails with what kept it from an answer: a connection that was refused, a
service that is slow, or a wrong answer. Only then do the task's own retries begin.
"""

from datetime import timedelta

from mlops.airflow.authoring.operator import PodTask, task_pod

_TIMEOUT = timedelta(minutes=5)


def mlflow_healthcheck() -> PodTask:
    """Asks MLflow's process, and its database by a look at the experiments."""
    return task_pod("check_mlflow_health", "sensor-trainer", "check-mlflow", timeout=_TIMEOUT)


def trainer_healthcheck() -> PodTask:
    """Asks the sensor trainer, which says whether Redis, PostgreSQL or MLflow is away."""
    return task_pod("check_trainer_health", "sensor-trainer", "check-trainer", timeout=_TIMEOUT)
