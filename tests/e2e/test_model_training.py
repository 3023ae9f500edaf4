"""model_training_pipeline on the installed platform: through the gate into the registry, or not, and why."""

import json
import subprocess

import pytest

from infrastructure.release import NAMESPACE, object_name
from tests.e2e.runs import finished, states, trained, versions

DAG = "model_training_pipeline"
MODEL = "sensor-failure-windows"
HARD = "click-through-activity"


@pytest.fixture(scope="module")
def registered(services, materialized):
    """The id of a run that registered a model."""
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
    assert "the larger class" in version.description


# Run in a pod of the platform, where a model is loaded as the model server does it.
SCORE = """
import io, json, pathlib, sys, tempfile
import pandas as pd
from mlops import models
from mlops.datasets.declaration import LABEL
from mlops.stores.tracking import Tracking
from mlops.training import families
from mlops.training.columns import features_of
from mlops.training.measures import Answers, Rows
from mlops.training.score import score
declared = models.get(sys.argv[2])
family = families.get(declared.family)
table = pd.read_parquet(io.BytesIO(sys.stdin.buffer.read()))
folder = pathlib.Path(tempfile.mkdtemp())
model = family.load(Tracking.from_environment().download_model(sys.argv[1], folder, family.LAYOUT))
rows = Rows.of(table[LABEL], declared.data)
answers = Answers.of(family.predict(model, features_of(table, declared.data)), rows)
print(json.dumps(score(rows, answers, declared.data.label.kind).logged("test")))
"""


def test_the_registered_model_reproduces_its_logged_metrics(services, registered):
    """Loaded from the registry and scored again on the test set of its run."""
    key = services.airflow.result(DAG, registered, "get_features")["test"]
    table = services.s3.get_object(Bucket="data", Key=key)["Body"].read()
    place = ["kubectl", "-n", NAMESPACE, "exec", "-i", object_name("deployment", "model-server"), "--"]
    command = [*place, "python", "-c", SCORE, f"models:/{MODEL}@staging", MODEL]
    scored = subprocess.run(command, input=table, capture_output=True, timeout=180)
    assert scored.returncode == 0, scored.stderr.decode()
    logged = services.mlflow.get_run(trained(services, registered, DAG)[0]).data.metrics
    for name, value in json.loads(scored.stdout.splitlines()[-1]).items():
        assert value == pytest.approx(logged[name]), name


def test_a_model_that_does_not_pass_is_skipped_with_its_reasons(services, registered):
    """Click-through is hard to predict: its model stays below the thresholds."""
    before = set(versions(services, HARD))
    run_id = services.airflow.trigger(DAG, {"model": HARD})
    assert finished(services, run_id, DAG) == "success"
    state = states(services, run_id, DAG)
    assert (state["register_model"], state["skip_registration"]) == ("skipped", "success")
    reasons = services.airflow.result(DAG, run_id, "skip_registration")["reasons"]
    assert reasons
    assert reasons[0] in services.airflow.log(DAG, run_id, "skip_registration", 1)
    tags = services.mlflow.get_run(trained(services, run_id, DAG)[0]).data.tags
    assert reasons[0] in tags["maestro.gate.reasons"]
    assert set(versions(services, HARD)) == before
