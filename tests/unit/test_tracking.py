import shutil
from pathlib import Path

import mlflow
import pytest
import yaml
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from mlops.config import MLflowSettings
from mlops.datasets.declaration import LABEL
from mlops.result import Failure
from mlops.stores.http import WrongAnswer
from mlops.stores.tracking import Tracking, health_check
from tests.unit import small_models, trainer_api
from tests.unit.dying import losing

MODEL = "sensor-failure"


@pytest.fixture
def trained(tables):
    train = tables("shuttle").train.head(2000)
    features, labels = train.drop(columns=LABEL), train[LABEL]
    return small_models.fitted(features, labels), features


def logged(tracking: Tracking, trained) -> str:
    model, features = trained
    return small_models.log(tracking, model, features.head(2), {"a": "b"})


def test_a_tracking_server_that_answers_without_its_database_is_not_healthy():
    with trainer_api.serving() as api:
        api.answer = lambda method, path, body: (200, b"OK") if path == "/health" else (500, {"message": "no database"})
        with pytest.raises(WrongAnswer, match="no database"):
            health_check(MLflowSettings(api.url))()


def test_a_real_tracking_server_is_healthy(mlflow_uri):
    health_check(MLflowSettings.from_environment())()


def test_registering_a_run_twice_makes_one_version(platform, trained):
    run_id = logged(platform.tracking, trained)
    assert [platform.tracking.register(MODEL, run_id) for _ in range(3)] == ["1", "1", "1"]
    assert platform.tracking.register(MODEL, logged(platform.tracking, trained)) == "2"


def test_a_registration_whose_answer_was_lost_leaves_one_version(platform, trained):
    """MLflow's client sends the request again, and both were carried out."""
    run_id = logged(platform.tracking, trained)
    with losing("/model-versions/create"):
        assert platform.tracking.register(MODEL, run_id, {"a": "b"}) == "1"
    assert platform.tracking.model(MODEL).versions == ["1"]


@pytest.mark.parametrize("used", [True, False])
def test_a_second_version_that_an_earlier_try_left_is_deleted_unless_somebody_uses_it(platform, trained, used):
    run_id = logged(platform.tracking, trained)
    for _ in range(2):
        mlflow.register_model(f"runs:/{run_id}/model", MODEL)
    if used:
        platform.tracking.set_alias(MODEL, "production", "2")
    assert platform.tracking.register(MODEL, run_id) == "1"
    assert platform.tracking.model(MODEL).versions == (["1", "2"] if used else ["1"])


def test_a_model_that_holds_a_function_is_not_logged(platform, trained):
    _, features = trained
    model = Pipeline([("own", FunctionTransformer(shutil.rmtree)), ("classify", DummyClassifier())])
    with pytest.raises(Failure, match=r"the model holds .*rmtree"):
        small_models.log(platform.tracking, model, features.head(2))


def test_a_pickled_model_is_not_loaded(platform, trained, monkeypatch):
    model, _ = trained
    with platform.tracking.new_run("shuttle", "pickled", {}) as run_id:
        mlflow.sklearn.log_model(model, name="model", serialization_format="cloudpickle", pip_requirements=[])
    with pytest.raises(Failure, match="may run code when it is loaded"):
        small_models.loaded(platform.tracking, f"runs:/{run_id}/model")


@pytest.mark.parametrize(
    ("flavor", "change"),
    [
        ("sklearn", {"skops_trusted_types": ["shutil.rmtree"]}),
        ("sklearn", {"code": "code"}),
        ("python_function", {"code": "code"}),
        ("python_function", {"data": "nested"}),
        ("python_function", {"loader_module": "os"}),
    ],
)
def test_a_model_file_that_was_changed_to_run_code_is_not_loaded(
    platform, trained, tmp_path, monkeypatch, flavor, change
):
    """As somebody with write access to the artifact store could do it."""
    uri = f"runs:/{logged(platform.tracking, trained)}/model"
    download = mlflow.artifacts.download_artifacts

    def changed(*arguments: object, **options: object) -> str:
        path = download(*arguments, **options)
        declared = Path(path) / "MLmodel"
        content = yaml.safe_load(declared.read_text())
        content["flavors"][flavor].update(change)
        declared.write_text(yaml.safe_dump(content))
        return path

    assert small_models.loaded(platform.tracking, uri) is not None
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", changed)
    with pytest.raises(Failure, match="may run code when it is loaded"):
        small_models.loaded(platform.tracking, uri)


def test_a_run_that_raises_is_failed(platform):
    with pytest.raises(ValueError, match="stop"), platform.tracking.new_run("shuttle", "x", {}) as run_id:
        raise ValueError("stop")
    assert platform.tracking.run(run_id).info.status == "FAILED"


def test_a_tracking_server_that_is_away_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Failure, match=r"MLflow at http://127.0.0.1:9 failed.*check that MLflow runs"):
        Tracking(MLflowSettings("http://127.0.0.1:9")).runs("shuttle", "a", "b")


def test_an_experiment_that_is_not_there_has_no_runs(platform):
    assert platform.tracking.runs("never made", "a", "b") == []


def test_a_version_that_is_not_there_is_named(platform):
    with pytest.raises(Failure, match="models:/sensor-failure/9"):
        small_models.loaded(platform.tracking, "models:/sensor-failure/9")
