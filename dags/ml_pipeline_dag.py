"""
### From raw data to a served model, every night

Downloads the dataset of a declared model, validates it, trains the model, compares it with what knows only the labels,
with the threshold and with the model in production, and rolls the model server to it if it passed. Each task is a pod.
Data passes between tasks as keys in the object store that are derived from the run, so a retry or a backfill
overwrites its own data only.

Choose the model in the trigger form. What it is judged by stands in its declaration; the Variables
`model_accuracy_threshold`, `model_f1_threshold`, `model_baseline_margin` and `model_confidence` override that where
they are not empty.
"""

from datetime import timedelta
from functools import partial

from airflow.sdk import DAG, Param

from mlops.airflow.authoring.alerts import due_within, task_failed
from mlops.airflow.authoring.operator import task_pod
from mlops.airflow.authoring.schedule import cron
from mlops.models import dataset_of, get, names

# Those that learn from the columns of their data set; the others are trained by model_training_pipeline.
MODELS = [name for name in names() if get(name).feature_service is None]
DEPLOYED = """{% set it = ti.xcom_pull(task_ids='deploy_model') -%}
{{ it.skipped if it.skipped is defined else 'version %s is in production' % it.version }}"""

with DAG(
    dag_id="ml_pipeline_dag",
    description="From raw data to a served model",
    doc_md=__doc__,
    schedule=cron("0 2 * * *"),
    catchup=False,
    max_active_runs=1,  # those of a backfill are counted apart, and may overlap
    is_paused_upon_creation=False,
    params={
        "model": Param("sensor-failure", type="string", examples=MODELS, description="A declared model"),
        "dataset": Param(None, type=["null"], description="Is now called model", section="Former names"),
    },
    user_defined_macros={"dataset_of": dataset_of},
    default_args={"on_failure_callback": task_failed},
    deadline=due_within(timedelta(hours=1)),
    tags=["ml", "training"],
):
    of_dataset = partial(task_pod, dataset="{{ dataset_of(params.model) }}", timeout=timedelta(minutes=15))
    of_model = partial(task_pod, model="{{ params.model }}", timeout=timedelta(minutes=15))
    download = of_dataset("download_data", "ingestion", "download")
    validate = of_dataset(
        "validate_data", "data-quality", "validate", data=download.result("data"), report="index.html"
    )
    preprocess = of_dataset("preprocess_data", "features", "preprocess", data=download.result("data"))
    engineer = of_dataset("feature_engineering", "features", "engineer", data=preprocess.result("data"))
    train = of_model(
        "train_model",
        "training",
        "fit",
        train=engineer.result("train"),
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
        test=engineer.result("test"),
        accuracy_threshold="{{ var.value.model_accuracy_threshold }}",
        f1_threshold="{{ var.value.model_f1_threshold }}",
        baseline_margin="{{ var.value.model_baseline_margin }}",
        confidence="{{ var.value.model_confidence }}",
    )
    deploy = of_model(
        "deploy_model",
        "serving",
        "deploy",
        run_id=train.result("run_id"),
        report="model_card.html",
        identity="deployer",
        pool="deployment",
    )
    notify = task_pod(
        "send_notification",
        "notify",
        "send",
        text=[
            "{{ dag.dag_id }}, {{ params.model }}, run {{ run_id }}",
            evaluate.result("summary"),
            DEPLOYED,
        ],
        metrics=evaluate.result_json("metrics"),
        run_id=train.result("run_id"),
        page=["Checks of the data=validate_data/index.html"],
        trigger_rule="none_failed",  # a model that is not deployed is news as well
        timeout=timedelta(minutes=5),
    )
    download >> validate >> preprocess >> engineer >> train >> evaluate >> deploy >> notify
