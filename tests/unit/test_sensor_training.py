import json
import multiprocessing
import os
import signal
import uuid

import numpy as np
import pandas as pd
import pytest

from mlops.config import MLflowSettings
from mlops.datasets.declaration import EVENT_TIME, LABEL
from mlops.registry.aliases import PREVIOUS, PRODUCTION
from mlops.result import Failure, Refused
from mlops.sensor_trainer.model.clusters import FEWEST_ROWS, fit
from mlops.sensor_trainer.model.served import FILE, MODEL, load
from mlops.sensor_trainer.worker import training
from mlops.sensor_trainer.worker.training import EXPERIMENT, JOB_ID, Trained, publish, split, train
from mlops.stores.ledger import Ledger
from mlops.stores.tracking import SUPERSEDED, Tracking
from tests.unit import small_models
from tests.unit.dying import losing

pytestmark = pytest.mark.usefixtures("ledger")

COLUMNS = [f"f{number}" for number in range(1, 10)]
NAN = float("nan")


def quiet(step: str, done: float) -> None:
    assert 0 <= done <= 1, step


def new_job() -> str:
    return str(uuid.uuid4())


def as_readings(raw: pd.DataFrame) -> pd.DataFrame:
    """The raw set in the shape that Readings.table gives."""
    return (
        raw[COLUMNS]
        .astype(float)
        .assign(id=np.arange(1, len(raw) + 1), sensor="shuttle", time=raw[EVENT_TIME], failure=raw[LABEL].astype(float))
        .reset_index(drop=True)
    )


@pytest.fixture(scope="module")
def readings(tables) -> pd.DataFrame:
    """The first 4,000 readings of the real set."""
    return as_readings(first(tables))


@pytest.fixture(scope="module")
def few(tables) -> pd.DataFrame:
    """Every fourth of them, where their number proves nothing."""
    return as_readings(first(tables).iloc[::4])


def first(tables) -> pd.DataFrame:
    return tables("shuttle").clean.sort_values(EVENT_TIME).head(4_000)


def run_of(tracking: Tracking, readings: pd.DataFrame, job_id: str | None = None) -> tuple[str, Trained]:
    job_id = job_id or new_job()
    return job_id, train(readings, COLUMNS, job_id=job_id, tracking=tracking, report=quiet)


def published(tracking: Tracking, readings: pd.DataFrame) -> dict[str, object]:
    job_id, trained = run_of(tracking, readings)
    return publish(trained, job_id=job_id, tracking=tracking, ledger=Ledger.from_environment())


# --------------------------------------------------------------------------------------------------- the window


def test_the_window_is_the_latest_fifth_and_holds_no_reading_that_is_learned_from(readings):
    known, window = split(readings.sample(frac=1, random_state=1), COLUMNS)
    assert (len(known), len(window)) == (3_200, 800)
    assert known["time"].max() < window["time"].min()


def test_readings_of_one_moment_are_on_one_side(readings):
    same = readings.assign(time=readings["time"].dt.floor("300min"))
    known, window = split(same, COLUMNS)
    assert known["time"].max() < window["time"].min()
    assert len(known) + len(window) == 4_000


def test_a_value_that_is_no_number_is_on_neither_side(readings):
    broken = readings.copy()
    broken.loc[[5, 3_999], "f1"] = [NAN, np.inf]
    known, window = split(broken, COLUMNS)
    assert len(known) + len(window) == 3_998


@pytest.mark.parametrize("rows", [0, 1, 10, 62])
def test_too_few_readings_are_refused_with_the_count(readings, rows):
    with pytest.raises(Refused, match=rf"{rows} readings give .* at least {FEWEST_ROWS} .* send more"):
        split(readings.head(rows), COLUMNS)


def test_a_failed_training_leaves_no_finished_run(tracking, readings):
    job_id = new_job()
    with pytest.raises(Refused):
        run_of(tracking, readings.head(20), job_id)
    assert tracking.runs(EXPERIMENT, JOB_ID, job_id) == []


# -------------------------------------------------------------------------------------------------------- a run


def test_a_run_holds_the_model_twice_its_measures_and_what_it_was_made_from(tracking, few):
    job_id, trained = run_of(tracking, few)
    run = tracking.run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags[JOB_ID] == job_id
    assert run.data.params["newest_reading"] == "1000"
    assert trained.newest_reading == 1_000
    assert run.data.metrics == trained.metrics
    assert [trained.metrics[f"{name}_rows"] for name in ("train", "window")] == [800, 200]
    assert trained.metrics["window_labelled"] == 200
    assert trained.metrics["window_failures"] == few["failure"].tail(200).sum()
    model = small_models.loaded(tracking, f"runs:/{trained.run_id}/model")
    arrays = load_run(tracking, trained.run_id)
    values = few[COLUMNS].head(500)
    assert model.predict(values).tolist() == arrays.score(values.to_numpy()).cluster.tolist()
    by_clusters = json.loads(tracking.read_text(trained.run_id, "comparison.json"))["davies_bouldin_by_clusters"]
    assert min(by_clusters, key=by_clusters.get) == str(trained.clusters)


def load_run(tracking: Tracking, run_id: str):
    from mlops.sensor_trainer.model.scoring import ClusterModel

    return ClusterModel.from_json(tracking.read_text(run_id, FILE))


def test_the_real_sets_failures_are_found_and_each_method_is_measured_without_labels(tracking, readings):
    _, trained = run_of(tracking, readings)
    assert trained.metrics["auc"] > 0.98
    assert trained.metrics["f1"] > 0.9
    for method in ("clusters", "isolation_forest", "isolation_forest_told_share", "dbscan", "dbscan_large"):
        assert 0 <= trained.metrics[f"unlabelled_{method}_auc"] <= 1
        assert 0 <= trained.metrics[f"unlabelled_{method}_f1"] <= 1
    assert trained.metrics["unlabelled_clusters_auc"] > 0.98


def test_labels_do_not_reach_the_compared_methods(tracking, readings):
    """Other labels of the readings learned from change what is served, and nothing that is compared unlabelled."""
    _, right = run_of(tracking, readings)
    known = readings.index < 3_200
    wrong = np.where(known, np.random.default_rng(1).integers(0, 2, len(readings)), readings["failure"])
    _, other = run_of(tracking, readings.assign(failure=wrong.astype(float)))
    compared = [name for name in right.metrics if name.startswith("unlabelled_")]
    assert {name: right.metrics[name] for name in compared} == {name: other.metrics[name] for name in compared}


def test_without_any_label_distance_alone_is_measured_and_decides(tracking, few):
    first = published(tracking, few.assign(failure=NAN))
    assert first["served"]
    _, trained = run_of(tracking, few.assign(failure=NAN))
    assert not any(name.endswith(("f1", "_auc")) and "label_free" not in name for name in trained.metrics)
    assert trained.metrics["failure_prone_clusters"] == 0
    assert trained.replaces
    assert "without labels" in trained.reason


def test_progress_grows_and_names_its_steps(tracking, few):
    told: list[tuple[str, float]] = []
    train(few, COLUMNS, job_id=new_job(), tracking=tracking, report=lambda *step: told.append(step))
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert len({step for step, _ in told}) == len(told) >= 4


# --------------------------------------------------------------------------------------- one job, one model


def test_a_second_attempt_takes_the_run_that_the_first_one_finished(tracking, few):
    job_id, first = run_of(tracking, few)
    _, second = run_of(tracking, few.head(100), job_id)
    assert second == first
    assert len(tracking.runs(EXPERIMENT, JOB_ID, job_id)) == 1


class Stopped(Exception):
    pass


@pytest.mark.parametrize("at", ["clustering", "comparing with the champion", "logging"])
def test_an_attempt_that_was_stopped_is_followed_by_one_that_ends(tracking, few, at):
    job_id = new_job()

    def stop(step: str, done: float) -> None:
        if step == at:
            raise Stopped

    with pytest.raises(Stopped):
        train(few, COLUMNS, job_id=job_id, tracking=tracking, report=stop)
    _, trained = run_of(tracking, few, job_id)
    statuses = sorted(run.info.status for run in tracking.runs(EXPERIMENT, JOB_ID, job_id))
    assert statuses == ["FAILED", "FINISHED"]
    publish(trained, job_id=job_id, tracking=tracking, ledger=Ledger.from_environment())
    assert tracking.versions(MODEL, JOB_ID, job_id) == ["1"]


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(where: str, tracking: Tracking, readings: pd.DataFrame, job_id: str) -> None:
    """What a worker does with a job until it is killed."""
    log, set_alias = tracking.log, tracking.set_alias

    def log_and_die(*arguments, **options):
        log(*arguments, **options)
        die()

    def set_alias_and_die(*arguments):
        set_alias(*arguments)
        die()

    replaced = {
        "logged": ("log", log_and_die),
        "registered": ("set_alias", die),
        "half served": ("set_alias", set_alias_and_die),
    }
    if where in replaced:
        setattr(tracking, *replaced[where])
    report = die if where == "training" else quiet
    trained = train(readings, COLUMNS, job_id=job_id, tracking=tracking, report=report)
    publish(trained, job_id=job_id, tracking=tracking, ledger=Ledger.from_environment())


@pytest.mark.parametrize("where", ["training", "logged", "registered", "half served"])
def test_a_worker_killed_anywhere_leaves_a_job_that_makes_one_model(tracking, few, where):
    """`half served`: between the two aliases, where the version served before must still be."""
    job_id = new_job()
    before = published(tracking, few)["model_version"]
    worker = multiprocessing.get_context("fork").Process(target=killed_at, args=(where, tracking, few, job_id))
    worker.start()
    worker.join(120)
    assert worker.exitcode == -signal.SIGKILL
    assert tracking.aliased(MODEL, PRODUCTION) == before
    _, trained = run_of(tracking, few, job_id)
    result = publish(trained, job_id=job_id, tracking=tracking, ledger=Ledger.from_environment())
    assert tracking.versions(MODEL, JOB_ID, job_id) == [result["model_version"]]
    assert tracking.aliased(MODEL, PRODUCTION) == result["model_version"] == result["served_version"]
    assert tracking.aliased(MODEL, PREVIOUS) == before
    finished = [run for run in tracking.runs(EXPERIMENT, JOB_ID, job_id) if run.info.status == "FINISHED"]
    assert [run.info.run_id for run in finished] == [trained.run_id]


def test_a_run_finished_by_an_attempt_that_was_taken_for_dead_does_not_count(tracking, few):
    job_id, late = run_of(tracking, few)
    tracking.log(late.run_id, tags={SUPERSEDED: "replaced by a later attempt of the job"})
    _, trained = run_of(tracking, few, job_id)
    assert trained.run_id != late.run_id
    assert run_of(tracking, few, job_id)[1].run_id == trained.run_id


def test_a_registration_whose_answer_was_lost_leaves_one_version(tracking, few):
    """MLflow's client sends the request again, and both were carried out."""
    job_id, trained = run_of(tracking, few)
    with losing("/model-versions/create"):
        result = publish(trained, job_id=job_id, tracking=tracking, ledger=Ledger.from_environment())
    assert result["model_version"] == "1"
    assert tracking.versions(MODEL, JOB_ID, job_id) == ["1"]
    assert tracking.aliased(MODEL, PRODUCTION) == "1"


def test_publishing_again_changes_nothing(tracking, few):
    job_id, trained = run_of(tracking, few)
    results = [publish(trained, job_id=job_id, tracking=tracking, ledger=Ledger.from_environment()) for _ in range(3)]
    assert results[0] == results[1] == results[2]
    assert tracking.aliased(MODEL, PREVIOUS) is None


# ------------------------------------------------------------------------------------------ who is served


def test_the_first_model_is_served(tracking, few):
    result = published(tracking, few)
    assert result == {
        "model_version": "1",
        "served_version": "1",
        "served": True,
        "reason": "no version was served before",
    }
    assert load(tracking, "1").columns == tuple(COLUMNS)


def test_a_model_that_is_not_worse_is_served_and_the_one_before_stays_at_hand(tracking, few):
    published(tracking, few)
    result = published(tracking, few)
    assert (result["served"], result["served_version"]) == (True, "2")
    assert str(result["reason"]).startswith("not worse: AUC")
    assert (tracking.aliased(MODEL, PRODUCTION), tracking.aliased(MODEL, PREVIOUS)) == ("2", "1")


def test_a_worse_model_is_registered_and_not_served(tracking, readings, monkeypatch):
    published(tracking, readings)
    right = fit

    def wrong(values: pd.DataFrame, failure: np.ndarray, seed: int):
        """Learned from failures as if they were healthy."""
        return right(values[failure == 1], np.full(int((failure == 1).sum()), NAN), seed)

    monkeypatch.setattr(training, "fit", wrong)
    result = published(tracking, readings)
    assert (result["model_version"], result["served_version"], result["served"]) == ("2", "1", False)
    assert "worse, so it is not served: AUC 0." in str(result["reason"])
    assert (tracking.aliased(MODEL, PRODUCTION), tracking.aliased(MODEL, PREVIOUS)) == ("1", None)
    monkeypatch.setattr(training, "fit", right)
    assert published(tracking, readings)["served_version"] == "3"


def test_a_worse_model_is_not_served_without_labels_either(tracking, readings, monkeypatch):
    bare, right = readings.assign(failure=NAN), fit
    published(tracking, bare)
    scrambled = np.random.default_rng(1).permuted(readings[COLUMNS].to_numpy(), axis=0)
    monkeypatch.setattr(
        training,
        "fit",
        lambda values, failure, seed: right(
            pd.DataFrame(scrambled[: len(values)], columns=values.columns), failure, seed
        ),
    )
    result = published(tracking, bare)
    assert (result["served_version"], result["served"]) == ("1", False)
    assert "without labels" in str(result["reason"])


def test_a_champion_of_other_columns_is_replaced_and_named(tracking, few):
    job_id = new_job()
    other = train(few, COLUMNS[:4], job_id=job_id, tracking=tracking, report=quiet)
    publish(other, job_id=job_id, tracking=tracking, ledger=Ledger.from_environment())
    result = published(tracking, few)
    assert result["served"]
    assert result["reason"] == "version 1 knows other columns: f1, f2, f3, f4"


def test_without_mlflow_the_cause_is_named(readings, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Failure, match=r"MLflow at http://127.0.0.1:9 failed"):
        run_of(Tracking(MLflowSettings("http://127.0.0.1:9")), readings)
