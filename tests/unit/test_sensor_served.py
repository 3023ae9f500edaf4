import logging
import statistics
import threading
import time

import mlflow
import numpy as np
import pandas as pd
import pytest

from mlops.config import MLflowSettings
from mlops.registry.aliases import PRODUCTION
from mlops.result import Failure
from mlops.sensor_trainer.model.clusters import fit
from mlops.sensor_trainer.model.scoring import ClusterModel
from mlops.sensor_trainer.model.served import FILE, MODEL, ServedModel
from mlops.stores.tracking import Tracking
from tests.unit.small_models import version_of

COLUMNS = [f"f{number}" for number in range(1, 10)]


def model_of(seed: int) -> ClusterModel:
    values = np.random.default_rng(seed).normal(seed, 1.0, (500, 9))
    return fit(pd.DataFrame(values, columns=COLUMNS), np.full(500, np.nan), seed=7).model


def register(tracking: Tracking, text: str) -> str:
    """A version whose run holds this as its clusters; of the model itself nothing is read here."""
    with tracking.new_run(MODEL, "test", {}) as run_id:
        tracking.log_sealed_text(run_id, FILE, text)
    return version_of(MODEL, run_id)


def serve(tracking: Tracking, text: str) -> str:
    version = register(tracking, text)
    tracking.set_alias(MODEL, PRODUCTION, version)
    return version


def test_before_the_first_training_nothing_is_served(tracking):
    served = ServedModel(tracking, MODEL)
    assert not served.refresh()
    assert served.version is None
    assert served.current is None


def test_the_version_with_the_alias_is_loaded_once_and_another_one_when_the_alias_moves(tracking, monkeypatch):
    first, served = serve(tracking, model_of(1).to_json()), ServedModel(tracking, MODEL)
    assert served.refresh()
    assert served.version == first
    read, reads = tracking.read_sealed_text, []
    monkeypatch.setattr(tracking, "read_sealed_text", lambda *names: reads.append(names) or read(*names))
    assert not served.refresh()
    assert reads == []
    second = serve(tracking, model_of(50).to_json())
    assert served.refresh()
    assert served.version == second
    points = np.full((1, 9), 50.0)
    assert served.current.model.score(points).anomaly == pytest.approx(model_of(50).score(points).anomaly)


def test_the_old_version_goes_on_while_mlflow_is_away_which_is_logged_once(tracking, monkeypatch, caplog):
    serve(tracking, model_of(1).to_json())
    served = ServedModel(tracking, MODEL)
    served.refresh()

    def away(*_: str) -> str:
        raise Failure("MLflow at http://mlflow failed: connection refused: check that MLflow runs")

    caplog.clear()
    with monkeypatch.context() as patched, caplog.at_level(logging.INFO, "mlops.sensor_trainer.model.served"):
        patched.setattr(tracking, "aliased", away)
        assert [served.refresh() for _ in range(3)] == [False] * 3
        assert served.version == "1"
        assert len(served.current.model.score(np.zeros((2, 9))).anomaly) == 2
    assert [record.getMessage() for record in caplog.records if record.name == "mlops.sensor_trainer.model.served"] == [
        "version 1 of sensor-clusters stays: MLflow at http://mlflow failed: connection refused: check that MLflow runs"
    ]
    assert not served.refresh()


def test_a_starting_server_without_mlflow_serves_as_soon_as_it_answers(tracking, monkeypatch):
    serve(tracking, model_of(1).to_json())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = ServedModel(Tracking(MLflowSettings("http://127.0.0.1:9")), MODEL)
    assert not away.refresh()
    assert away.version is None
    away._tracking = tracking
    assert away.refresh()
    assert away.version == "1"


@pytest.mark.parametrize("text", ["{}", "import os", '{"format": 9}'])
def test_a_version_whose_file_is_no_model_does_not_replace_the_served_one(tracking, text):
    first, served = serve(tracking, model_of(1).to_json()), ServedModel(tracking, MODEL)
    served.refresh()
    serve(tracking, text)
    assert not served.refresh()
    assert served.version == first


def test_a_version_without_a_file_does_not_replace_the_served_one(tracking):
    first, served = serve(tracking, model_of(1).to_json()), ServedModel(tracking, MODEL)
    served.refresh()
    with tracking.new_run(MODEL, "empty", {}) as run_id:
        pass
    tracking.set_alias(MODEL, PRODUCTION, version_of(MODEL, run_id))
    assert not served.refresh()
    assert served.version == first


def test_a_model_whose_alias_was_taken_away_is_not_served_any_more(tracking):
    serve(tracking, model_of(1).to_json())
    served = ServedModel(tracking, MODEL)
    served.refresh()
    mlflow.MlflowClient().delete_registered_model_alias(MODEL, PRODUCTION)
    assert served.refresh()
    assert served.version is None


def test_a_version_and_its_scores_belong_together_while_the_model_is_replaced(monkeypatch):
    """A thread that scores never sees the version of one model with the arrays of another."""
    models = {"1": model_of(1), "2": model_of(50)}
    texts = {version: model.to_json() for version, model in models.items()}
    alias, stop = ["1"], threading.Event()

    class Registry:
        def aliased(self, name: str, alias_name: str) -> str:
            return alias[0]

        def made_by(self, name: str, version: str) -> str:
            return version

        def read_sealed_text(self, run_id: str, file: str) -> str:
            return texts[run_id]

    served = ServedModel(Registry(), MODEL)  # the three methods that it calls
    served.refresh()

    def flip() -> None:
        while not stop.is_set():
            alias[0] = "2" if alias[0] == "1" else "1"
            served.refresh()

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        seen = set()
        deadline = time.monotonic() + 60
        while len(seen) < 2 and time.monotonic() < deadline:
            version, model = served.current
            assert (model.middle == models[version].middle).all()
            seen.add(version)
    finally:
        stop.set()
        flipping.join()
    assert seen == {"1", "2"}


def test_one_reading_is_scored_in_a_fraction_of_a_millisecond():
    """The processor's time and not the clock's: other work on the machine is no fault of the model."""
    model, point = model_of(1), np.zeros((1, 9))

    def spent() -> float:
        start = time.thread_time()
        for _ in range(50):
            model.score(point)
        return (time.thread_time() - start) / 50

    assert statistics.median(spent() for _ in range(20)) < 0.0002
