"""The DAGs that bring features up to date: what starts them, what they are asked, and the age that they promise."""

from datetime import timedelta
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG, AssetAll, AssetOrTimeSchedule

from mlops.airflow.authoring.freshness import OFFLINE_FEATURES, ONLINE_FEATURES, FreshFeatures
from mlops.features.repository import MINUTES, NIGHTLY

DAGS = Path(__file__).parents[2] / "dags"


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    found: dict[str, DAG] = BundleDagBag(DAGS, bundle_path=DAGS, bundle_name="dags").dags
    return found


def test_new_data_is_taken_in_and_its_features_are_saved(dags: dict[str, DAG]) -> None:
    dag = dags["feature_engineering_pipeline"]
    collect, save = dag.topological_sort()
    assert collect.arguments[3:] == ["sensor-trainer", "collect"]
    assert (save.task_id, save.arguments[3:]) == ("save_features", ["features", "build", "--dataset=all"])
    assert save.outlets == [OFFLINE_FEATURES]
    assert save.trigger_rule == "all_done", "where no reading is new, or none can be collected, files may be"


def test_materialization_follows_the_features_and_runs_at_two_in_any_case(dags: dict[str, DAG]) -> None:
    dag = dags["feature_materialization"]
    assert isinstance(dag.schedule, AssetOrTimeSchedule)
    assert isinstance(dag.schedule.asset_condition, AssetAll)
    assert list(dag.schedule.asset_condition.objects) == [OFFLINE_FEATURES]
    (last,) = dag.leaves
    assert last.outlets == [ONLINE_FEATURES], "which training waits for"
    assert OFFLINE_FEATURES != ONLINE_FEATURES
    assert FreshFeatures(task_id="fresh").inlets == [ONLINE_FEATURES]


def test_the_network_is_trained_on_the_features_of_its_day(dags: dict[str, DAG]) -> None:
    """Where a run of the day before ended late, its features would be young enough though the night's run failed."""
    (wait,) = dags["training_pipeline"].roots
    assert isinstance(wait, FreshFeatures)
    assert (wait.features, wait.due) == (OFFLINE_FEATURES, NIGHTLY.at)


def test_readings_are_pushed_without_waiting_for_the_night(dags: dict[str, DAG]) -> None:
    collect, push = dags["feature_push"].topological_sort()
    assert collect.arguments[3:] == ["sensor-trainer", "collect"]
    dataset = "--dataset={{ ti.xcom_pull(task_ids='collect_readings')['dataset'] }}"
    assert push.arguments[3:] == ["features", "push", dataset]
    assert push.trigger_rule == "all_success", "where no reading is new, nothing is pushed"


def test_what_writes_features_does_so_one_at_a_time(dags: dict[str, DAG]) -> None:
    writing = {"collect_readings", "save_features", "push_features", "materialize_features"}
    tasks = [task for dag in dags.values() for task in dag.tasks if task.task_id in writing]
    assert {task.pool for task in tasks} == {"materialization"} and len(tasks) == 5


def test_the_schedules_keep_the_age_that_is_promised(dags: dict[str, DAG]) -> None:
    """Models are trained and judged on values of that age (mlops/features/repository.py)."""
    nightly = dags["feature_engineering_pipeline"]
    assert nightly.schedule.expression == f"{NIGHTLY.at.minute} {NIGHTLY.at.hour} * * *"
    late = [
        alert.interval
        for name in ("feature_engineering_pipeline", "feature_materialization")
        for alert in dags[name].deadline
    ]
    assert sum(late, timedelta()) <= NIGHTLY.takes, "both have ended by then, or somebody is told"
    every = dags["feature_push"].schedule
    minutes = timedelta(minutes=int(every.expression.removeprefix("*/").split()[0]))
    assert minutes < MINUTES.within
