import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from mlops import models
from mlops.datasets.declaration import EVENT_TIME, LABEL
from mlops.features import repository
from mlops.models.network import Config
from mlops.registry import card_page
from mlops.registry.record import SERVED_AGE, period_tag
from mlops.stores.tracking import SUPERSEDED
from mlops.training.families import torch as family
from mlops.training.network import loop, weights
from mlops.training.network.commands import RunFolder
from tests.unit.clicks import clicks

MODEL = models.get("ctr_model")
SERVICE = repository.service_of(MODEL)
FEATURES, CONFIG = "runs/parts", "runs/parts/config.yaml"
SMALL = Config(epochs=3, batch_rows=64, learning_rate=0.02, hidden=(8,), weight_decay=0.0001, least_count=5)


def part(rows: int, seed: int) -> pd.DataFrame:
    """Clicks with all columns of the model, of which few say anything."""
    made, random = clicks(rows, seed).to_pandas(), np.random.default_rng(seed)
    columns = {
        name: ["F"] * rows if dtype == "String" else random.random(rows) for name, dtype in SERVICE.features.items()
    }
    table = pd.DataFrame({**columns, **made.to_dict("series")})
    table[EVENT_TIME] = pd.date_range("2026-01-01", periods=rows, freq="s", tz="UTC") + pd.Timedelta(days=seed)
    table.attrs.update(feature_service=SERVICE.name, feature_schema=SERVICE.schema, served_age=str(SERVICE.served_age))
    return table


@pytest.fixture
def parts(platform):
    """The platform with the parts of a small table and a config."""
    for seed, (name, rows) in enumerate({"train": 2000, "validation": 500, "test": 800}.items()):
        platform.data.write_table(f"{FEATURES}/{name}.parquet", part(rows, seed))
    platform.data.write_bytes(CONFIG, SMALL.yaml().encode())
    return platform


def train(platform, *options: str) -> list[str]:
    return [
        *("training", "train", "--model", MODEL.name, "--features", FEATURES, "--config", CONFIG),
        *("--data-version", "d1", *options),
    ]


def evaluate(run_id: str, *options: str) -> list[str]:
    test = f"{FEATURES}/test.parquet"
    return [
        *("training", "evaluate", "--model", MODEL.name, "--run-id", run_id, "--test", test),
        *("--champion", "none", "--refused", "fail", *options),
    ]


def test_a_network_is_trained_judged_and_registered_once(parts):
    result = parts.result_of(*train(parts))
    run = parts.tracking.run(result["run_id"])
    assert run.data.params["family"] == "torch"
    assert run.data.tags[SERVED_AGE] == str(SERVICE.served_age)
    stored = {key.removeprefix(f"{result['run_dir']}/") for key in parts.data.keys(result["run_dir"])}
    refitted = {f"refit/{name}" for name in (loop.BEST, loop.LAST)}
    assert stored == {loop.BEST, loop.LAST, *refitted, "config.yaml", "metrics.json", "curves.html"}
    summary = json.loads(parts.tracking.read_text(result["run_id"], "metrics.json"))
    assert len(summary["history"]) == SMALL.epochs
    points = parts.tracking._client.get_metric_history(result["run_id"], "val_auc")
    assert [(point.step, point.value) for point in points] == [
        (epoch, each["val_auc"]) for epoch, each in enumerate(summary["history"], 1)
    ]
    refit = parts.tracking._client.get_metric_history(result["run_id"], "refit_loss")
    assert [point.step for point in refit] == list(range(1, result["best_epoch"] + 1)), "as many epochs as were best"
    assert result["train_rows"] == 2500, "of the training and the validation set"
    first, last = (part(*of)[EVENT_TIME] for of in ((2000, 0), (500, 1)))
    assert run.data.tags[period_tag("train")] == f"{first.min().isoformat()}/{last.max().isoformat()}"
    config = yaml.safe_load(parts.tracking.read_text(result["run_id"], "config.yaml"))
    assert config["hidden"] == [8]

    judged = parts.result_of(*evaluate(result["run_id"], "--auc-threshold", "0.55", "--accuracy-threshold", "0.5"))
    assert judged["passed"] is True
    assert 0 <= judged["metrics"]["calibration_error"] <= 1
    assert judged["metrics"]["log_loss"] > 0
    assert judged["gain_lower"] < judged["gain"] < judged["gain_upper"]

    register = ["registry", "register", "--model", MODEL.name, "--run-id", result["run_id"]]
    first, again = parts.result_of(*register), parts.result_of(*register)
    assert first == again
    assert first["registered_path"] == f"models:/{MODEL.name}/{first['model_version']}"
    assert parts.tracking.aliased(MODEL.name, "staging") == first["model_version"]
    page = parts.tracking.read_text(result["run_id"], card_page.FILE)
    assert "<svg" in page, "the plot of the calibration"
    assert "user_events 0.0" in page, "the slices"


def test_a_model_that_misses_a_threshold_fails_with_the_numbers(parts):
    run_id = parts.result_of(*train(parts))["run_id"]
    said = parts.failure_of(*evaluate(run_id, "--auc-threshold", "0.99"), code=65)
    assert "AUC 0." in said
    assert "is not above the threshold 0.99" in said
    register = ["registry", "register", "--model", MODEL.name, "--run-id", run_id]
    assert "did not pass the gate" in parts.failure_of(*register, code=65)


def test_a_try_after_one_that_was_killed_goes_on_and_one_run_counts(parts, monkeypatch):
    first = parts.result_of(*train(parts))
    best = parts.data.read_bytes(f"{first['run_dir']}/{loop.BEST}")
    assert parts.result_of(*train(parts)) == first, "a retry of a try that ended hands the same back"

    other = parts.as_run("killed")
    write = weights.pack

    def dying(tensors, said):
        if "history" in said and len(said["history"]) == 2:
            raise KeyboardInterrupt
        return write(tensors, said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "pack", dying)
        with pytest.raises(KeyboardInterrupt):
            other.run(*train(other))
    monkeypatch.setenv("MAESTRO_TRY_NUMBER", "2")
    second = other.result_of(*train(other))
    assert other.data.read_bytes(f"{second['run_dir']}/{loop.BEST}") == best
    points = other.tracking._client.get_metric_history(second["run_id"], "val_auc")
    assert [point.step for point in points] == [1, 2, 3]
    runs = other.tracking._client.search_runs([other.tracking.run(second["run_id"]).info.experiment_id])
    counting = [run for run in runs if run.info.status == "FINISHED" and SUPERSEDED not in run.data.tags]
    assert {run.info.run_id for run in counting} == {first["run_id"], second["run_id"]}


def test_a_try_that_was_killed_in_the_refit_is_followed_by_one_that_ends_with_the_same_weights(parts, monkeypatch):
    first = parts.result_of(*train(parts))
    other = parts.as_run("killed")
    write = RunFolder.write

    def dying(folder, name, content):
        write(folder, name, content)
        if folder.prefix.endswith("refit") and name == loop.LAST:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            other.run(*train(other))
    monkeypatch.setenv("MAESTRO_TRY_NUMBER", "2")
    second = other.result_of(*train(other))
    weights_of = [parts.data.read_bytes(f"{run['run_dir']}/refit/{loop.BEST}") for run in (first, second)]
    assert weights_of[0] == weights_of[1]


def test_without_a_refit_the_best_weights_are_logged(parts, tmp_path):
    parts.data.write_bytes(CONFIG, replace(SMALL, refit=False).yaml().encode())
    result = parts.result_of(*train(parts))
    assert result["train_rows"] == 2000
    folder = parts.tracking.download_model(f"runs:/{result['run_id']}/model", tmp_path, family.LAYOUT)
    best = parts.data.read_bytes(f"{result['run_dir']}/{loop.BEST}")
    assert (folder / family.FILE).read_bytes() == best


def test_a_gpu_that_is_not_there_is_said_with_the_remedy(parts):
    said = parts.failure_of(*train(parts, "--gpu", "true"), code=65)
    assert "a GPU was asked for" in said
    assert "gpu=false" in said


def test_what_was_logged_is_what_is_loaded_and_an_altered_file_is_refused(parts, tmp_path):
    result = parts.result_of(*train(parts))
    run_id = result["run_id"]
    folder = parts.tracking.download_model(f"runs:/{run_id}/model", tmp_path, family.LAYOUT)
    rows = part(50, 2)
    found = family.predict(family.load(folder), rows)
    refitted = parts.data.read_bytes(f"{result['run_dir']}/refit/{loop.BEST}")
    expected = family.predict(weights.unpacked(refitted, "it"), rows)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert rows[LABEL].nunique() == 2
