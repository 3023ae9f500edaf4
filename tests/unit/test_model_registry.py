"""The registry as people ask it, by its commands and by name, with a real MLflow, PostgreSQL and object store."""

import json
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from infrastructure.models import command
from mlops.datasets.declaration import LABEL
from mlops.registry.aliases import PRODUCTION, STAGING
from mlops.registry.model_registry import ModelRegistry
from mlops.registry.promotion import Reason, changing
from mlops.result import EXIT_REFUSED, Failure, Refused
from tests.unit import small_models

MODEL = "sensor-failure"


@pytest.fixture
def registry(platform, ledger) -> ModelRegistry:
    return ModelRegistry(platform.tracking, ledger)


@pytest.fixture
def two(platform, ledger, tables) -> list[str]:
    """Two versions with files, of which the first is in production and the second in staging."""
    tracking, table = platform.tracking, tables("shuttle").train.head(500)
    features = table.drop(columns=LABEL)
    made = []
    for score in (0.5, 0.75):
        run_id = small_models.log(tracking, small_models.fitted(features, table[LABEL]), features.head(2))
        tracking.log(run_id, metrics={"test_auc": score}, params={"seed": int(score * 100)})
        tracking.log_text(run_id, "metrics.json", "{}")
        made.append(tracking.register(MODEL, run_id))
    with changing(tracking, ledger, MODEL) as production:
        production.promote(made[0], Reason("a test", who="the test"))
    tracking.set_alias(MODEL, STAGING, made[1])
    return made


def shown(platform, capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert platform.run("registry", *arguments) == (0, "{}")
    return capsys.readouterr().out


def test_models_are_listed_with_their_versions_and_by_stage(registry, platform, two, capsys):
    assert registry.list_models() == {MODEL: ["1", "2"]}
    assert (registry.list_models(PRODUCTION), registry.list_models(STAGING)) == ({MODEL: ["1"]}, {MODEL: ["2"]})
    assert registry.list_models("previous") == {}
    latest = [registry.get_latest_version(MODEL, stage) for stage in (None, PRODUCTION, STAGING, "previous")]
    assert latest == ["2", "1", "2", None]
    assert json.loads(shown(platform, capsys, "list", "--json")) == {MODEL: ["1", "2"]}
    titles, row = shown(platform, capsys, "list").splitlines()
    assert titles.split() == ["model", "newest", "versions", "production", "previous", "staging"]
    assert row.split() == [MODEL, "2", "2", "1", "2"]
    with pytest.raises(Refused, match="no model 'other' is registered"):
        registry.get_latest_version("other")


def test_the_history_says_who_and_why(platform, two, capsys):
    (entry,) = json.loads(shown(platform, capsys, "history", "--model", MODEL, "--json"))
    assert (entry["verb"], entry["to_version"], entry["who"], entry["why"]) == ("promote", "1", "the test", "a test")
    assert "promote  - -> 1   the test  a test" in shown(platform, capsys, "history")


def test_two_versions_are_compared_by_what_differs(registry, platform, two, capsys):
    found = {each.name: each for each in registry.compare(MODEL, "1", "2")}
    assert found["test_auc"].difference == 0.25
    assert (found["seed"].first, found["seed"].second) == ("50", "75")
    assert "dataset" not in found, "it is the same in both"
    table = shown(platform, capsys, "compare", "--model", MODEL, "--versions", "1", "2")
    assert ["metric", "test_auc", "0.5", "0.75", "0.25"] in [line.split() for line in table.splitlines()]
    message = platform.failure_of(*("registry", "compare", "--model", MODEL, "--versions", "1", "9"), code=EXIT_REFUSED)
    assert f"model '{MODEL}' has no version 9: it has 1, 2" in message


def test_a_version_is_exported_whole_by_its_stage_and_current_leads_to_the_last_one(registry, platform, two, tmp_path):
    first = registry.export(MODEL, "1", tmp_path)
    assert first == tmp_path / "production" / MODEL / "v1"
    assert registry.export(MODEL, "2", tmp_path) == tmp_path / "staging" / MODEL / "v2"
    assert (first.parent / "current").resolve() == first
    assert yaml.safe_load((first / "config.yaml").read_text())["seed"] == "50"
    assert json.loads((first / "metrics.json").read_text())["test_auc"] == 0.5
    about = json.loads((first / "metadata.json").read_text())
    assert (about["model"], about["version"], about["stage"], about["aliases"]) == (
        MODEL,
        "1",
        "production",
        ["production"],
    )
    assert {"MLmodel", "model.skops"} <= {path.name for path in (first / "model").iterdir()}
    registry.export(MODEL, "1", tmp_path)
    assert sorted(path.name for path in first.parent.iterdir()) == ["current", "v1"], "nothing is left behind"


def test_a_version_is_exported_into_the_data_bucket_which_outlives_the_pod(registry, platform, two, tmp_path):
    told = platform.result_of("registry", "export", "--model", MODEL, "--version", "1")
    prefix = f"exports/production/{MODEL}"
    assert told == {"model": MODEL, "version": "1", "folder": f"s3://{platform.data.bucket}/{prefix}/v1"}
    there = {key.removeprefix(f"{prefix}/") for key in platform.data.keys(prefix)}
    folder = registry.export(MODEL, "1", tmp_path)
    assert there == {"current", *(f"v1/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file())}
    assert platform.data.read_bytes(f"{prefix}/current") == b"v1"
    local = platform.result_of("registry", "export", "--model", MODEL, "--version", "1", "--folder", str(tmp_path))
    assert local["folder"] == str(folder)


def test_a_weight_file_that_was_altered_is_not_exported(registry, platform, two, tmp_path):
    run_id = platform.tracking.made_by(MODEL, "1")
    source = mlflow.MlflowClient().get_model_version_download_uri(MODEL, "1")
    (tmp_path / "model.skops").write_bytes(b"other weights")
    with mlflow.start_run(run_id=run_id):
        mlflow.artifacts.download_artifacts(source)
        get_artifact_repository(source).log_artifact(str(tmp_path / "model.skops"))
    with pytest.raises(Failure, match="is not what was logged"):
        registry.export(MODEL, "1", tmp_path / "out")
    assert not list(Path(tmp_path, "out").rglob("v1"))


def test_what_contradicts_the_ledger_fails_verify(platform, two):
    assert platform.result_of("registry", "verify") == {}
    platform.tracking.set_alias(MODEL, PRODUCTION, "2")
    message = platform.failure_of("registry", "verify", "--model", MODEL, code=EXIT_REFUSED)
    assert "contradict each other: the alias 'production' of sensor-failure names version 2" in message
    adopted = platform.result_of("registry", "adopt", "--model", MODEL, "--why", "by hand")
    assert adopted == {"model": MODEL, "adopted": True, "version": "2"}
    assert platform.result_of("registry", "verify") == {}


def test_who_promotes_or_goes_back_beside_another_is_told_and_not_tried_again(platform, ledger, two):
    with changing(platform.tracking, ledger, MODEL):
        for arguments in (("promote", "--model", MODEL, "--version", "2"), ("rollback", "--model", MODEL)):
            message = platform.failure_of("registry", *arguments, code=EXIT_REFUSED)
            assert f"another process changes which version of '{MODEL}'" in message


def test_make_says_what_it_was_not_told_and_hands_the_rest_on():
    told = {"MODEL": "m", "VERSION": "3", "WHY": "it is better"}
    assert command("list", {}, "me") == ["list"]
    limit = "--timeout=300"
    *words, _ = command("promote", told, "me")
    assert words == ["promote", "--model=m", "--version=3", "--who=me", limit, "--why=it is better"]
    for verb in ("promote", "rollback"):
        (*words, first), (*_, second) = (command(verb, {**told, "WHY": ""}, "me") for _ in range(2))
        assert (words[0], words[-2:]) == (verb, ["--who=me", limit])
        assert first.startswith("--request=") and first != second, "each is another one"
    assert command("export", told, "me") == ["export", "--model=m", "--version=3"]
    with pytest.raises(Failure, match=r"needs VERSION: make promote MODEL=\.\.\. VERSION=\.\.\."):
        command("promote", {"MODEL": "m"}, "me")
