"""
### A click-through model by a network, every Sunday

Waits until feature_engineering_pipeline has updated the features of the day, makes a training, a validation and a test
set of them at the age at which they are served, checks these and the config, trains a DeepFM network on the clicks of
MovieLens, and judges it on the test set. A model that misses a threshold fails `evaluate_model`, which says by how
much. One that passes is registered with a card and the alias `staging`.

A pod that is killed while it trains is followed by one that goes on in its epoch and ends with the same weights. The
run's folder in the data bucket (`run_dir`) has both checkpoints, the config, metrics and curves; MLflow has the curves
while it trains. Set `config_path` to a YAML file in the data bucket to train otherwise: `mlops/models/network.yaml` has
all keys, and a key or a value that it cannot have is refused before anything is trained.
"""

from datetime import time, timedelta
from functools import partial

from airflow.sdk import DAG, Param

from mlops.airflow.authoring.alerts import due_within, task_failed
from mlops.airflow.authoring.freshness import OFFLINE_FEATURES, FreshFeatures
from mlops.airflow.authoring.operator import task_pod
from mlops.airflow.authoring.schedule import cron
from mlops.models import get, names

MODELS = [name for name in names() if get(name).family == "torch"]

with DAG(
    dag_id="training_pipeline",
    description="A click-through model, from fresh features to the registry",
    doc_md=__doc__,
    schedule=cron("0 5 * * 0"),
    catchup=False,
    max_active_runs=1,  # two runs at once would race for the alias `staging`
    is_paused_upon_creation=False,
    params={
        "config_path": Param(
            None, type=["null", "string"], description="Key of a YAML file in the data bucket; empty: the platform's"
        ),
        "model_name": Param("ctr_model", type="string", enum=MODELS, description="A declared model"),
        "min_auc": Param(0.65, type="number", minimum=0, maximum=1, description="AUC on the test set that is enough"),
        "min_accuracy": Param(0.60, type="number", minimum=0, maximum=1, description="The same of the accuracy"),
        "epochs": Param(
            None, type=["null", "integer"], minimum=1, maximum=1000, description="The most; empty: the config's"
        ),
        "gpu": Param(False, type="boolean", description="Train on a GPU (taskSizes.gpu)"),
    },
    default_args={"on_failure_callback": task_failed},
    deadline=due_within(timedelta(hours=3)),
    tags=["ml", "training", "features"],
):
    of_model = partial(task_pod, model="{{ params.model_name }}", timeout=timedelta(minutes=15))
    # feature_engineering_pipeline is due at one.
    wait = FreshFeatures(
        task_id="wait_for_features", features=OFFLINE_FEATURES, due=time(1), timeout=timedelta(minutes=10)
    )
    features = of_model(
        "validate_features",
        "features",
        "parts",
        config="{{ params.config_path or '' }}",
        epochs="{{ params.epochs or '' }}",
        image="feast",
        size="medium",
    )
    train = of_model(
        "train_model",
        "training",
        "train",
        features=features.result("features_path"),
        config=features.result("config"),
        data_version=features.result("data_version"),
        gpu="{{ params.gpu | string | lower }}",
        image="torch",
        size="{{ 'gpu' if params.gpu else 'medium' }}",
        pool="training",
        timeout=timedelta(hours=2),
    )
    evaluate = of_model(
        "evaluate_model",
        "training",
        "evaluate",
        run_id=train.result("run_id"),
        test=features.result("test"),
        auc_threshold="{{ params.min_auc }}",
        accuracy_threshold="{{ params.min_accuracy }}",
        champion="told",  # its card says it; whether it takes that one's place, who promotes it
        refused="fail",
        image="torch",
        size="medium",
    )
    register = of_model(
        "register_model", "registry", "register", run_id=train.result("run_id"), report="model_card.html"
    )
    notify = task_pod(
        "notify_completion",
        "notify",
        "send",
        text=[
            "{{ dag.dag_id }}, {{ params.model_name }}, run {{ run_id }}",
            evaluate.result("summary"),
            "version " + register.result("model_version") + " is in staging: " + register.result("registered_path"),
        ],
        metrics=evaluate.result_json("metrics"),
        run_id=train.result("run_id"),
        model=register.result("model"),
        version=register.result("version"),
        page=["Model card=register_model/model_card.html"],
        timeout=timedelta(minutes=5),
    )
    wait >> features >> train >> evaluate >> register >> notify
