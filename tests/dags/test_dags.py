"""Every DAG file as Airflow sees it."""

import ast
import os
import subprocess
import sys
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag, DagBag
from airflow.sdk import DAG, AsyncCallback, DeadlineReference  # type: ignore[attr-defined]
from airflow.sdk.exceptions import ParamValidationError

from mlops import models
from mlops.airflow.authoring.alerts import deadline_missed, task_failed
from mlops.airflow.authoring.operator import PodTask
from mlops.airflow.authoring.schedule import cron

DAGS = Path(__file__).parents[2] / "dags"
ALLOWED_IMPORTS = ("airflow.sdk", "mlops.airflow", "mlops.datasets", "mlops.models", "utils.")


def read() -> DagBag:
    """As the dag-processor does: the folder is on Python's path."""
    return BundleDagBag(DAGS, bundle_path=DAGS, bundle_name="dags")


@pytest.fixture(scope="module")
def dag_bag() -> DagBag:
    return read()


@pytest.fixture(scope="module")
def pipeline(dag_bag: DagBag) -> DAG:
    dag: DAG = dag_bag.dags["ml_pipeline_dag"]
    return dag


def test_every_dag_file_is_imported_without_an_error(dag_bag: DagBag) -> None:
    assert dag_bag.import_errors == {}
    assert "ml_pipeline_dag" in dag_bag.dags


def test_a_dag_file_is_parsed_in_no_time(dag_bag: DagBag) -> None:
    """Each task process parses its file anew; the operator is imported there already (mlops/airflow/plugin.py).

    The processor's time and not the clock's: other work on the machine is no fault of the files.
    """
    start = time.process_time()
    read()
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("path", sorted(DAGS.glob("*.py")), ids=lambda path: path.name)
def test_a_dag_file_imports_only_what_dag_files_may(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    foreign = [name for name in imported if name.split(".")[0] not in sys.stdlib_module_names]
    assert [name for name in foreign if not name.startswith(ALLOWED_IMPORTS)] == []


def test_parsing_imports_no_library_of_the_work() -> None:
    """What pods import stays out of Airflow's processes, which do not even have it installed."""
    code = (
        "import sys, ml_pipeline_dag\n"
        "heavy = {'mlflow', 'pandas', 'sklearn', 'great_expectations', 'boto3'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    env = {**os.environ, "PYTHONPATH": str(DAGS.parent)}
    done = subprocess.run([sys.executable, "-c", code], cwd=DAGS, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr


def test_every_task_has_an_owner_retries_and_a_time_limit(dag_bag: DagBag) -> None:
    for dag in dag_bag.dags.values():
        for task in dag.tasks:
            assert task.owner == "maestro", task
            assert task.retries >= 1 or (dag.dag_id, task.task_id) == ("ml_pipeline", "generate_report"), task
            assert task.retry_exponential_backoff == (1.0 if dag.dag_id == "train_clustering_model" else 2.0), task
            assert timedelta(0) < task.execution_timeout <= timedelta(hours=6), task


def test_every_dag_has_tags_and_documentation(dag_bag: DagBag) -> None:
    for dag in dag_bag.dags.values():
        assert dag.tags
        assert dag.doc_md
        assert not dag.catchup


# When each DAG runs (in UTC; None: when somebody asks for it), how long after its queueing a run is late, and which
# tasks update which assets. What stands here is what people plan by: README.md and the DAGs' own documentation say it.
AGREED = {
    "data_validation_pipeline": ("0 */6 * * *", timedelta(minutes=15), {}),
    "feature_engineering_pipeline": ("0 1 * * *", timedelta(minutes=30), {"save_features": ["offline-features"]}),
    "feature_materialization": ("0 2 * * *", timedelta(minutes=30), {"validate_online_features": ["online-features"]}),
    "feature_push": ("*/10 * * * *", timedelta(minutes=15), {}),
    "ml_pipeline": (None, timedelta(hours=4), {}),
    "ml_pipeline_dag": ("0 2 * * *", timedelta(hours=1), {}),
    "model_training_pipeline": ("0 4 * * 0", timedelta(hours=2), {}),
    "monitoring_dag": ("0 * * * *", timedelta(minutes=30), {}),
    "train_clustering_model": ("0 * * * *", timedelta(minutes=50), {}),
    "training_pipeline": ("0 5 * * 0", timedelta(hours=3), {}),
}


def test_each_dag_runs_when_it_was_agreed_and_never_twice_at_once(dag_bag: DagBag) -> None:
    found = {}
    for name, dag in dag_bag.dags.items():
        (alert,) = dag.deadline
        assert alert.reference is DeadlineReference.DAGRUN_QUEUED_AT, "a backfilled run must not be late from the start"
        assert (alert.callback.path, alert.callback.kwargs) == ("mlops.airflow.authoring.alerts.deadline_missed", {})
        assert isinstance(alert.callback, AsyncCallback)
        timetable = getattr(dag.schedule, "timetable", dag.schedule)  # where an asset starts a run as well
        if timetable is not None:
            assert (str(timetable.timezone), timetable.run_immediately) == ("UTC", timedelta(minutes=5))
        assert (dag.catchup, dag.max_active_runs, dag.is_paused_upon_creation) == (False, 1, False)
        outlets = {task.task_id: [asset.name for asset in task.outlets] for task in dag.tasks if task.outlets}
        found[name] = (timetable and timetable.expression, alert.interval, outlets)
    assert found == AGREED


def test_the_pipeline_runs_its_eight_steps_in_order(pipeline: DAG) -> None:
    order = [
        "download_data",
        "validate_data",
        "preprocess_data",
        "feature_engineering",
        "train_model",
        "evaluate_model",
        "deploy_model",
        "send_notification",
    ]
    assert [task.task_id for task in pipeline.topological_sort()] == order
    for first, second in pairwise(order):
        assert pipeline.get_task(first).downstream_task_ids == {second}
    assert all(isinstance(task, PodTask) for task in pipeline.tasks)


def test_the_pipeline_runs_at_two_and_never_twice_at_once(pipeline: DAG) -> None:
    assert pipeline.schedule == cron("0 2 * * *")
    assert pipeline.max_active_runs == 1
    assert pipeline.is_paused_upon_creation is False


def test_a_failed_step_is_tried_again_after_one_and_two_minutes(pipeline: DAG) -> None:
    for task in pipeline.tasks:
        assert (task.retries, task.retry_delay) == (2, timedelta(minutes=1))
        assert task.on_failure_callback == [task_failed] or task.on_failure_callback is task_failed


def test_training_and_deployment_take_slots_of_their_pools_and_only_deployment_an_identity(pipeline: DAG) -> None:
    assert {task.task_id: task.pool for task in pipeline.tasks if task.pool != "default_pool"} == {
        "train_model": "training",
        "deploy_model": "deployment",
    }
    assert {task.task_id: task.identity for task in pipeline.tasks if task.identity} == {"deploy_model": "deployer"}


def test_the_notification_is_sent_whether_the_model_was_deployed_or_not(pipeline: DAG) -> None:
    assert pipeline.get_task("send_notification").trigger_rule == "none_failed"


def test_the_model_can_be_any_that_learns_from_the_columns_of_its_dataset(pipeline: DAG) -> None:
    model = pipeline.params.get_param("model")
    assert model.value == "sensor-failure"
    assert model.schema["examples"] == [name for name in models.names() if models.get(name).feature_service is None]


def test_who_still_asks_for_a_dataset_is_told_of_the_new_name(pipeline: DAG) -> None:
    dataset = pipeline.params.get_param("dataset")
    assert dataset.resolve() is None
    with pytest.raises(ParamValidationError):
        dataset.resolve("shuttle")
    assert dataset.description == "Is now called model"
    assert dataset.schema["type"] == ["null"], (
        "a field whose type is no list with null in it must be filled in the form"
    )


def test_a_late_run_is_told_of(pipeline: DAG) -> None:
    (alert,) = pipeline.deadline
    assert alert.reference is DeadlineReference.DAGRUN_QUEUED_AT, "a backfilled run must not be late from the start"
    assert alert.callback.path == f"{deadline_missed.__module__}.{deadline_missed.__qualname__}"


def test_a_results_template_names_its_task_and_field(pipeline: DAG) -> None:
    arguments = pipeline.get_task("train_model").arguments
    assert "--train={{ ti.xcom_pull(task_ids='feature_engineering')['train'] }}" in arguments
    assert "--data-version={{ ti.xcom_pull(task_ids='download_data')['data_version'] }}" in arguments


def test_every_result_that_is_pulled_is_of_an_earlier_task(dag_bag: DagBag) -> None:
    for dag in dag_bag.dags.values():
        for task in dag.tasks:
            text = " ".join(getattr(task, "arguments", ()))
            pulled = {other.task_id for other in dag.tasks if f"task_ids='{other.task_id}'" in text}
            assert pulled <= task.get_flat_relative_ids(upstream=True), task
