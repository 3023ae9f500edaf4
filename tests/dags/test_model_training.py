"""The training pipeline: its order, what each step is asked for, and which way a run goes."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, DeadlineReference  # type: ignore[attr-defined]
from airflow.task.trigger_rule import TriggerRule

from mlops.airflow.authoring.alerts import task_failed
from mlops.airflow.authoring.freshness import FreshFeatures
from mlops.airflow.authoring.operator import PodTask
from mlops.airflow.authoring.schedule import cron
from tests.dags.conftest import Printed

ROOT = Path(__file__).parents[2]
FILE = ROOT / "dags/model_training_pipeline.py"

# What the pods hand back, the features' age and the verdict are the test's; the rest is Airflow's own machinery.
RUN = """
import json, sys
from datetime import UTC, datetime
from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetActive, AssetEvent, AssetModel
from airflow.models.variable import Variable
from airflow.utils.session import create_session
from mlops.airflow.authoring.operator import PodTask

verdict, asked = {}, {}

def execute(self, context):
    asked[self.task_id] = self.arguments[3:]
    return {
        "data": "raw", "data_version": "v", "train": "tr", "test": "te", "feature_service": "s",
        "run_id": "r", **verdict
    }

PodTask.execute = execute
for name in ("model_f1_threshold", "model_baseline_margin", "model_confidence"):
    Variable.set(name, "0.5")
Variable.set("model_accuracy_threshold", "")
with create_session() as session:
    asset = AssetModel(name="online-features", uri="online-features")
    session.add(asset)
    session.flush()
    session.add(AssetActive.for_asset(asset))
    session.add(AssetEvent(asset_id=asset.id, timestamp=datetime.now(UTC)))
dag = DagBag(sys.argv[1]).dags["model_training_pipeline"]
dag.deadline = None  # dag.test() of Airflow 3.3 cannot store one
outcome = {}
for passed in (True, False):
    verdict["passed"] = passed
    run = dag.test(run_conf={"model": "click-through-activity"})
    outcome[str(passed)] = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
print(json.dumps({"states": outcome, "asked": asked}))
"""


@pytest.fixture(scope="module")
def pipeline() -> DAG:
    dag: DAG = DagBag(FILE).dags["model_training_pipeline"]
    return dag


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, printed_in_its_own_airflow: Printed) -> dict[str, dict]:
    """The states of all tasks by verdict, and what each pod was asked for, of two runs in an Airflow of their own."""
    return printed_in_its_own_airflow(tmp_path_factory.mktemp("airflow"), FILE.parent, RUN, str(FILE))


def test_a_model_that_passed_is_registered_and_the_other_way_is_skipped(outcome: dict[str, dict]) -> None:
    states = outcome["states"]["True"]
    assert states.pop("skip_registration") == "skipped"
    assert set(states.values()) == {"success"}
    assert states["register_model"] == "success"


def test_a_model_that_did_not_pass_is_skipped_and_the_run_is_well(outcome: dict[str, dict]) -> None:
    states = outcome["states"]["False"]
    assert states.pop("register_model") == "skipped"
    assert set(states.values()) == {"success"}
    assert states["skip_registration"] == "success"


def test_a_run_by_hand_does_not_wait_where_features_are_fresh(outcome: dict[str, dict]) -> None:
    assert outcome["states"]["True"]["fresh_features"] == "success"


def test_each_pod_is_asked_with_what_the_one_before_it_handed_back(outcome: dict[str, dict]) -> None:
    dataset, model = "--dataset=movielens", "--model=click-through-activity"
    assert outcome["asked"] == {
        "validate_data.download": ["ingestion", "download", dataset],
        "validate_data.validate": ["data-quality", "validate", dataset, "--data=raw"],
        "get_features": ["features", "historical", model, "--data=raw"],
        "train_model": ["training", "fit", model, "--train=tr", "--data-version=v"],
        "evaluate_model": [
            *("training", "evaluate", model, "--run-id=r", "--test=te", "--accuracy-threshold="),
            *("--f1-threshold=0.5", "--baseline-margin=0.5", "--confidence=0.5", "--champion=none"),
        ],
        "register_model": ["registry", "register", model, "--run-id=r"],
        "skip_registration": ["registry", "skip", "--run-id=r"],
    }


def test_the_steps_follow_one_another_and_part_at_the_decision(pipeline: DAG) -> None:
    order = [
        "fresh_features",
        "validate_data.download",
        "validate_data.validate",
        "get_features",
        "train_model",
        "evaluate_model",
        "decide",
    ]
    assert [task.task_id for task in pipeline.topological_sort()][: len(order)] == order
    for first, second in pairwise(order):
        assert pipeline.get_task(first).downstream_task_ids == {second}
    assert pipeline.get_task("decide").downstream_task_ids == {"register_model", "skip_registration"}
    assert {task.trigger_rule for task in pipeline.tasks} == {TriggerRule.ALL_SUCCESS}


def test_all_work_is_in_pods_and_only_waiting_and_deciding_in_airflow(pipeline: DAG) -> None:
    others = {task.task_id for task in pipeline.tasks if not isinstance(task, PodTask)}
    assert others == {"fresh_features", "decide"}
    assert isinstance(pipeline.get_task("fresh_features"), FreshFeatures)
    assert pipeline.get_task("fresh_features").mode == "reschedule"


def test_only_the_step_that_asks_feast_has_its_image(pipeline: DAG) -> None:
    images = {task.task_id: task.image for task in pipeline.tasks if isinstance(task, PodTask) and task.image != "task"}
    assert images == {"get_features": "feast"}


def test_it_runs_on_sundays_at_four_and_never_twice_at_once(pipeline: DAG) -> None:
    assert pipeline.schedule == cron("0 4 * * 0")
    assert (pipeline.max_active_runs, pipeline.catchup, pipeline.is_paused_upon_creation) == (1, False, False)


def test_people_are_told_of_a_failure_and_of_a_run_that_takes_more_than_two_hours(pipeline: DAG) -> None:
    (alert,) = pipeline.deadline
    assert (alert.interval, alert.reference) == (timedelta(hours=2), DeadlineReference.DAGRUN_QUEUED_AT)
    for task in pipeline.tasks:
        assert task.on_failure_callback == [task_failed] or task.on_failure_callback is task_failed


def test_it_offers_the_models_that_learn_from_a_feature_service(pipeline: DAG) -> None:
    model = pipeline.params.get_param("model")
    offered = ["click-through-activity", "sensor-failure-windows"]
    assert (model.value, model.schema["examples"]) == ("sensor-failure-windows", offered)
