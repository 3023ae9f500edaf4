"""
### A model from the feature store, every Sunday

Waits until the online features are fresh, validates the dataset of a declared model, has Feast join each row with
features of the age at which they are served, trains, and judges the model on the test set by the one gate of this
platform: its metric better than its threshold, and than what knows only the labels by a margin, with a confidence
interval. A model that passes is registered with a card and the alias `staging`; otherwise the reasons stand in the log
and the result of `skip_registration` and in the tags of the MLflow run.

Choose the model in the trigger form. What it is judged by stands in its declaration; the Variables
`model_accuracy_threshold`, `model_f1_threshold`, `model_baseline_margin` and `model_confidence` override that where
they are not empty.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from airflow.sdk import DAG, Param, TaskGroup, task

from mlops.airflow.authoring.alerts import due_within, task_failed
from mlops.airflow.authoring.freshness import FreshFeatures
from mlops.airflow.authoring.operator import task_pod
from mlops.airflow.authoring.schedule import cron
from mlops.models import dataset_of, get, names

# Those that learn from a feature service and are fitted to one table; training_pipeline trains networks.
MODELS = [name for name in names() if get(name).feature_service and get(name).family != "torch"]


@task.branch(
    owner="maestro",
    retries=2,
    retry_delay=timedelta(minutes=1),
    retry_exponential_backoff=2.0,
    execution_timeout=timedelta(minutes=5),
)
def decide(evaluation: Mapping[str, Any]) -> str:
    """Which way the run goes, so that people see it in the graph."""
    return "register_model" if evaluation["passed"] else "skip_registration"


with DAG(
    dag_id="model_training_pipeline",
    description="From fresh features to a registered model",
    doc_md=__doc__,
    schedule=cron("0 4 * * 0"),
    catchup=False,
    max_active_runs=1,  # two runs at once would race for the alias `staging`
    is_paused_upon_creation=False,
    params={
        "model": Param("sensor-failure-windows", type="string", examples=MODELS, description="A declared model"),
        "dataset": Param(None, type=["null"], description="Is now called model", section="Former names"),
    },
    user_defined_macros={"dataset_of": dataset_of},
    default_args={"on_failure_callback": task_failed},
    deadline=due_within(timedelta(hours=2)),
    tags=["ml", "training", "features"],
):
    step = partial(task_pod, timeout=timedelta(minutes=15))
    of_dataset = partial(step, dataset="{{ dataset_of(params.model) }}")
    of_model = partial(step, model="{{ params.model }}")
    fresh = FreshFeatures(task_id="fresh_features")
    with TaskGroup("validate_data") as validate_data:
        download = of_dataset("download", "ingestion", "download")
        validate = of_dataset("validate", "data-quality", "validate", data=download.result("data"), report="index.html")
        download >> validate
    features = of_model(
        "get_features", "features", "historical", data=download.result("data"), image="feast", size="medium"
    )
    train = of_model(
        "train_model",
        "training",
        "fit",
        train=features.result("train"),
        data_version=download.result("data_version"),
        size="medium",
        pool="training",
        timeout=timedelta(minutes=30),
    )
    evaluate = of_model(
        "evaluate_model",
        "training",
        "evaluate",
        run_id=train.result("run_id"),
        test=features.result("test"),
        accuracy_threshold="{{ var.value.model_accuracy_threshold }}",
        f1_threshold="{{ var.value.model_f1_threshold }}",
        baseline_margin="{{ var.value.model_baseline_margin }}",
        confidence="{{ var.value.model_confidence }}",
        champion="none",  # whether it may take the place of the model in production is asked when it is deployed
    )
    register = of_model(
        "register_model", "registry", "register", run_id=train.result("run_id"), report="model_card.html"
    )
    skip = step("skip_registration", "registry", "skip", run_id=train.result("run_id"))
    way = decide(evaluate.output)  # type: ignore[arg-type]  # Airflow hands over what it stands for
    fresh >> validate_data >> features >> train >> evaluate >> way >> [register, skip]
