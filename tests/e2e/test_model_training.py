"""model_training_pipeline on the installed platform: through the gate into the registry, or not, and why."""

import pytest

from infrastructure.release import kubectl, object_name
from tests.e2e.runs import finished, states, trained, versions

DAG = "model_training_pipeline"
MODEL = "sensor-failure"


@pytest.fixture(scope="module")
def registered(services):
    """The id of a run that registered a model."""
    materialization = services.airflow.trigger("feature_materialization")
    assert finished(services, materialization, "feature_materialization") == "success"
    run_id = services.airflow.trigger(DAG)
    assert finished(services, run_id, DAG) == "success"
    return run_id


def test_a_model_that_passes_the_gate_is_registered_as_staging(services, registered):
    state = states(services, registered, DAG)
    assert (state["register_model"], state["skip_registration"]) == ("success", "skipped")
    result = services.airflow.result(DAG, registered, "register_model")
    version = services.mlflow.get_model_version_by_alias(MODEL, "staging")
    assert str(version.version) == str(result["version"])
    assert [version.run_id] == trained(services, registered, DAG)
    assert version.tags["maestro.feature_service"] == "sensor_failure_v1"
    assert "sensor_windows:f1_mean_10m" in version.tags["maestro.feature_schema"]
    assert "majority" in version.description


def test_the_registered_model_reproduces_its_logged_metrics(services, registered):
    """Loaded and scored again in a pod of the platform, from the run's test set."""
    program = """
import json, sys
from mlops.config import Settings
from mlops.datasets.declaration import LABEL
from mlops.stores.object_store import data_bucket
from mlops.stores.tracking import Tracking
settings = Settings.from_environment()
model = Tracking(settings.mlflow_tracking_uri).load_model(sys.argv[1])
table = data_bucket(settings).read_table(sys.argv[2])
labels = table[LABEL]
features = table[[name for name in model.feature_names_in_]]
print(json.dumps({"accuracy": float((model.predict(features) == labels).mean())}))
"""
    test = services.airflow.result(DAG, registered, "get_features")["test"]
    version = services.airflow.result(DAG, registered, "register_model")["version"]
    place = ["exec", f"deployment/{object_name('feast')}", "--"]
    output = kubectl(*place, "python", "-c", program, f"models:/{MODEL}/{version}", test)
    accuracy = float(output.strip().splitlines()[-1].partition(":")[2].strip(" }"))
    logged = services.mlflow.get_run(trained(services, registered, DAG)[0]).data.metrics
    assert accuracy == pytest.approx(logged["accuracy"])


def test_a_model_that_does_not_pass_is_skipped_with_its_reasons(services, registered):
    """Click-through is hard to predict: its model stays below the thresholds."""
    before = set(versions(services, "click-through"))
    run_id = services.airflow.trigger(DAG, {"dataset": "movielens"})
    assert finished(services, run_id, DAG) == "success"
    state = states(services, run_id, DAG)
    assert (state["register_model"], state["skip_registration"]) == ("skipped", "success")
    reasons = services.airflow.result(DAG, run_id, "skip_registration")["reasons"]
    assert reasons
    assert reasons[0] in services.airflow.log(DAG, run_id, "skip_registration", 1)
    tags = services.mlflow.get_run(trained(services, run_id, DAG)[0]).data.tags
    assert reasons[0] in tags["maestro.gate.reasons"]
    assert set(versions(services, "click-through")) == before
