import json
from dataclasses import replace

import mlflow
import polars as pl
import pytest

from mlops import datasets, models
from mlops.datasets.declaration import EVENT_TIME, LABEL, SplitByKey
from mlops.features.repository import service_of
from mlops.features.split import split
from mlops.models.declaration import Model
from mlops.registry.card import card
from mlops.registry.record import FEATURE_SERVICE, Record
from mlops.result import Failure
from mlops.stores.tracking import DESCRIPTION_LIMIT, Tracking
from mlops.training.columns import features_of
from mlops.training.provenance import feature_contract
from tests.conftest import enter_workspace
from tests.servers import MLflow
from tests.unit import small_models
from tests.unit.conftest import new_platform
from tests.unit.dying import Died, dying
from tests.unit.kinds import HOUSES

SHUTTLE = datasets.get("shuttle")
MODEL = "sensor-failure-windows"
DECLARED = models.get(MODEL)
SERVICE = "sensor_failure_v1"
AGE = str(service_of(DECLARED).served_age)
SHIFT = 86_400 * 300
TRAIN_KEY, TEST_KEY = "runs/train.parquet", "runs/test.parquet"


@pytest.fixture(scope="module")
def feature_tables(tables):
    """shuttle's training and test set as the feature store makes them: features of its views, event time, label."""
    clean = tables("shuttle").clean.head(6_000)
    sensors = [column.name for column in SHUTTLE.features]
    rolled = clean[sensors].rolling(10).mean().add_suffix("_mean_10m")  # missing in the first nine rows
    table = clean[[*sensors, EVENT_TIME, LABEL]].join(rolled)
    schema = {f"sensor_windows:{name}": "Float64" for name in [*sensors, *rolled]}
    parts = (part.collect().to_pandas() for part in split(pl.from_pandas(table).lazy(), SHUTTLE))
    made = dict(zip(("train", "test"), parts, strict=True))
    for part in made.values():
        said = {"feature_service": SERVICE, "feature_schema": schema, "served_age": AGE}
        part.attrs = {**said, "event_time_shift_seconds": SHIFT}
    return made


@pytest.fixture
def keys(platform, feature_tables):
    platform.data.write_table(TRAIN_KEY, feature_tables["train"])
    platform.data.write_table(TEST_KEY, feature_tables["test"])


def fit(platform, *options: str) -> str:
    run_id = platform.result_of(
        *("training", "fit", "--model", MODEL, "--train", TRAIN_KEY, "--data-version", "d1"),
        *("--max-iter", "20", *options),
    )["run_id"]
    return str(run_id)


def evaluate(platform, run_id: str) -> dict:
    return platform.result_of(
        *("training", "evaluate", "--model", MODEL, "--run-id", run_id, "--test", TEST_KEY),
        *("--accuracy-threshold", "0.85"),
    )


def passed(platform) -> str:
    run_id = fit(platform)
    result = evaluate(platform, run_id)
    assert result["passed"], result["reasons"]
    return run_id


def refused(platform) -> str:
    """A run whose model never leaves the majority class."""
    run_id = fit(platform, "--max-iter", "1", "--learning-rate", "0.0001")
    assert not evaluate(platform, run_id)["passed"]
    return run_id


def register(platform, run_id: str) -> dict:
    return platform.result_of("registry", "register", "--model", MODEL, "--run-id", run_id)


def client(platform) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(platform.mlflow.tracking_uri)


def test_a_model_that_passed_is_registered_with_its_card_and_everything_it_was_made_of(platform, keys, feature_tables):
    run_id = passed(platform)
    result = register(platform, run_id)
    assert result == {
        "registered": True,
        "model": MODEL,
        "version": "1",
        "model_version": "1",
        "registered_path": f"models:/{MODEL}/1",
        "alias": "staging",
        "feature_service": SERVICE,
        "card": f"runs:/{run_id}/model_card.md",
    }
    version = client(platform).get_model_version_by_alias(MODEL, "staging")
    metrics = platform.tracking.run(run_id).data.metrics
    assert (str(version.version), version.run_id) == ("1", run_id)
    assert version.tags["maestro.dataset"] == "shuttle"
    assert version.tags["maestro.data_version"] == "d1"
    assert version.tags["maestro.code_version"] == "0123abcd"
    assert version.tags["maestro.feature_service"] == SERVICE
    assert version.tags["maestro.served_age"] == AGE
    assert json.loads(version.tags["maestro.feature_schema"]) == feature_tables["train"].attrs["feature_schema"]
    assert version.tags["maestro.event_time_shift_seconds"] == str(SHIFT)
    assert version.tags["maestro.dag_id"] == "ml_pipeline_dag"
    assert version.tags["maestro.dag_run_id"] == platform.run_id
    assert not [name for name in version.tags if name.startswith("maestro.train_")], (
        "scores of the training set mislead"
    )
    for name in ("accuracy", "f1", "auc", "baseline_accuracy", "gain", "gain_lower", "gain_upper"):
        assert float(version.tags[f"maestro.test_{name}"]) == metrics[f"test_{name}"]
    assert version.description.startswith(f"# {MODEL}\n")


def test_the_registered_model_reproduces_its_logged_metrics(platform, keys, feature_tables):
    run_id = passed(platform)
    register(platform, run_id)
    model = small_models.loaded(platform.tracking, f"models:/{MODEL}@staging")
    logged = platform.tracking.run(run_id).data.metrics
    for part, table in feature_tables.items():
        again = small_models.scores_of(model, features_of(table, SHUTTLE), table[LABEL], SHUTTLE).logged(part)
        assert again == {name: logged[name] for name in again}
        assert {f"{part}_accuracy", f"{part}_f1", f"{part}_auc"} <= again.keys()


def test_the_registered_model_is_signed_with_the_features_of_its_service(platform, keys, feature_tables):
    register(platform, passed(platform))
    columns = platform.tracking.input_columns(f"models:/{MODEL}@staging")
    schema = feature_tables["train"].attrs["feature_schema"]
    assert columns == {reference.partition(":")[2]: "double" for reference in schema}


def test_registering_again_makes_no_second_version_and_says_the_same(platform, keys):
    run_id = passed(platform)
    assert register(platform, run_id) == register(platform, run_id)
    assert len(client(platform).search_model_versions(f"name = '{MODEL}'")) == 1


def test_a_registration_that_dies_after_any_write_leaves_staging_whole_and_is_completed_by_a_retry(platform, keys):
    first = passed(platform)
    register(platform, first)
    second = passed(platform.as_run(f"{platform.run_id}-next"))
    mlflow_client = client(platform)

    def staged():
        """The run in staging; whoever finds a version by the alias finds it complete."""
        version = mlflow_client.get_model_version_by_alias(MODEL, "staging")
        assert version.description.startswith(f"# {MODEL}")
        assert {"maestro.dataset", "maestro.feature_schema", "maestro.test_f1"} <= set(version.tags)
        assert "model_card.md" in {file.path for file in mlflow_client.list_artifacts(version.run_id)}
        return version.run_id

    def end():
        made_by = sorted(version.run_id for version in mlflow_client.search_model_versions(f"name = '{MODEL}'"))
        tags = mlflow_client.get_model_version_by_alias(MODEL, "staging").tags
        return staged(), made_by, tags

    ends = []
    for after in (None, *range(1, 100)):
        mlflow_client.set_registered_model_alias(MODEL, "staging", "1")
        for version in mlflow_client.search_model_versions(f"name = '{MODEL}'"):
            if version.run_id == second:
                mlflow_client.delete_model_version(MODEL, version.version)
        try:
            with dying(after, staged) as written:
                register(platform, second)
        except Died:
            register(platform, second)
        ends.append(end())
        if len(written) < (after or 0):
            break
    assert len(written) >= 4, "the card, the version, its description and tags, the alias"
    assert ends[0][:2] == (second, sorted([first, second]))
    assert ends == [ends[0]] * len(ends)


def test_an_mlflow_that_is_away_between_the_version_and_its_alias_leaves_one_version_which_a_retry_stages(
    run_folder, environment, s3_endpoint, feature_tables, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    give = Tracking.set_alias
    with MLflow(run_folder) as server:
        enter_workspace(server.url, monkeypatch)
        platform = new_platform(s3_endpoint, monkeypatch)
        for key, part in ((TRAIN_KEY, "train"), (TEST_KEY, "test")):
            platform.data.write_table(key, feature_tables[part])
        run_id = passed(platform)

        def away(*arguments):
            server.kill()
            give(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tracking, "set_alias", away)
            line = ("registry", "register", "--model", MODEL, "--run-id", run_id)
            assert f"MLflow at {server.url} failed" in platform.failure_of(*line)
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("MLFLOW_WORKSPACE")  # which is for clients, and no server begins with it
            server.start()
        assert platform.tracking.model(MODEL) == (MODEL, ["1"], {})
        assert register(platform, run_id)["version"] == "1"
        assert platform.tracking.model(MODEL) == (MODEL, ["1"], {"staging": "1"})


def test_a_model_that_did_not_pass_is_not_registered(platform, keys):
    cause = platform.failure_of("registry", "register", "--model", MODEL, "--run-id", refused(platform), code=65)
    assert "did not pass the gate: F1 0.0000" in cause or "did not pass the gate: Accuracy" in cause
    assert client(platform).search_model_versions(f"name = '{MODEL}'") == []


def test_a_model_that_was_not_judged_is_neither_registered_nor_skipped(platform, keys):
    run_id = fit(platform)
    for line in (["register", "--model", MODEL], ["skip"]):
        cause = platform.failure_of("registry", *line, "--run-id", run_id, code=65)
        assert "has not been through the gate: run 'python -m mlops training evaluate' on it first" in cause


@pytest.mark.parametrize("command", ["registry register", "serving deploy"])
def test_a_run_of_another_dataset_is_refused(platform, keys, command):
    line = (*command.split(), "--model", "income", "--run-id", fit(platform))
    cause = platform.failure_of(*line, code=65)
    assert f"is of model '{MODEL}', from 'shuttle', and not of 'income'" in cause


def test_a_model_without_a_signature_is_not_registered(platform, keys, monkeypatch):
    run_id = passed(platform)
    monkeypatch.setattr(Tracking, "input_columns", lambda *_: {})
    cause = platform.failure_of("registry", "register", "--model", MODEL, "--run-id", run_id, code=65)
    assert "has no signature" in cause


def test_a_skipped_registration_gives_its_reasons_in_the_log_the_result_and_the_runs_tags(platform, keys, caplog):
    run_id = refused(platform)
    result = platform.result_of("registry", "skip", "--run-id", run_id)
    tags = platform.tracking.run(run_id).data.tags
    assert result["registered"] is False
    assert result["reasons"] == json.loads(tags["maestro.gate.reasons"])
    assert any("F1 0.0000 is not above the threshold 0.8" in reason for reason in result["reasons"])
    assert all(f"not registered: {reason}" in caplog.messages for reason in result["reasons"])


def test_a_model_that_passed_is_not_skipped(platform, keys):
    cause = platform.failure_of("registry", "skip", "--run-id", passed(platform), code=65)
    assert "passed the gate: register it" in cause


@pytest.mark.parametrize(
    ("attrs", "cause"),
    [
        ({}, "was made by feature service None and not by 'sensor_failure_v1'"),
        ({"feature_service": "other", "feature_schema": {}}, "made by feature service 'other'"),
        (
            {"feature_service": SERVICE, "feature_schema": {"sensor_windows:gone": "Float64"}},
            "lacks features of its feature service sensor_failure_v1: sensor_windows:gone",
        ),
        (
            {"feature_service": SERVICE, "feature_schema": {"sensor_windows:f1": "Float64"}},
            "does not say how old its features are when they are served: it was made by an earlier release",
        ),
    ],
)
def test_a_training_set_that_was_not_made_by_the_service_is_refused(platform, keys, feature_tables, attrs, cause):
    table = feature_tables["train"].head(100).copy()
    table.attrs = attrs
    platform.data.write_table(TRAIN_KEY, table)
    found = platform.failure_of(
        *("training", "fit", "--model", MODEL, "--train", TRAIN_KEY, "--data-version", "d1"),
    )
    assert cause in found


def test_a_test_set_of_another_age_than_the_training_set_is_refused(platform, keys, feature_tables):
    """Judged as of each event, a model would be another one than the one that is served."""
    run_id = fit(platform)
    table = feature_tables["test"].copy()
    table.attrs = {**feature_tables["test"].attrs, "served_age": "as of each event"}
    platform.data.write_table(TEST_KEY, table)
    cause = platform.failure_of(
        *("training", "evaluate", "--model", MODEL, "--run-id", run_id, "--test", TEST_KEY),
        *("--accuracy-threshold", "0.85", "--f1-threshold", "0.80", "--baseline-margin", "0.02"),
    )
    assert f"'as of each event', and run {run_id} was fitted on those of '{AGE}'" in cause


def test_a_tag_that_mlflow_would_cut_is_refused(platform):
    with (
        pytest.raises(Failure, match="tag a has 8001 characters, MLflow keeps 8000"),
        platform.tracking.new_run("shuttle", "x", {"a": "b" * 8001}),
    ):
        pass
    with platform.tracking.new_run("shuttle", "x", {"a": "b" * 8000}) as run_id:
        assert len(platform.tracking.run(run_id).data.tags["a"]) == 8000


def test_the_card_says_what_the_model_is_what_it_was_made_of_and_how_good_it_is(platform, keys):
    run_id = passed(platform)
    register(platform, run_id)
    record = Record.read(platform.tracking, run_id)
    text = mlflow.artifacts.load_text(f"runs:/{run_id}/model_card.md")
    assert text == card(DECLARED, record)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        f"# {MODEL}",
        "## Data",
        "## Features",
        "## Quality",
        "## Intended use",
        "## Limits",
        "## How to make it again",
    ]
    assert "| training set | 4,800 |" in text and "| test set | 1,200 |" in text
    assert "2026-01-01T00:00:00+00:00 to " in text
    assert "Event times are shifted by 25920000 s (300 days)" in text
    assert f"18 features, each\nat the age at which it is served: {AGE}." in text
    assert "Feature service `sensor_failure_v1`: 18 features" in text and "`f9_mean_10m` Float64" in text
    metrics = record.metrics
    for name, title, baseline in (
        ("f1", "F1", "the larger class"),
        ("accuracy", "accuracy", "the larger class"),
        ("auc", "AUC", "the shares of the classes"),
        ("average_precision", "average precision", "the shares of the classes"),
    ):
        values = f"{metrics[f'test_{name}']:.4f} | {metrics[f'test_baseline_{name}']:.4f}"
        assert f"| {title} | {values} | {baseline} |\n" in text
    assert f"It is judged by F1, by which it gained {metrics['test_gain']:.4f} over the baseline" in text
    for part, rows in (("train", 4_800), ("test", 1_200)):
        positive = (metrics[f"{part}_true_positives"] + metrics[f"{part}_false_negatives"]) / rows
        assert f" set | {rows:,} | {positive:.2%} | " in text
    assert "at which `python3 images/build.py --list-tags` gives the image `task` the tag `0123abcd`" in text
    period = record.tags["maestro.test_period"].replace("/", " to ")
    assert f"| test set | 1,200 | {positive:.2%} | {period} |" in text
    assert "The test set is the latest 20% of the rows." in text
    assert "code version `0123abcd`" in text and "(learning_rate 0.1, max_iter 20)" in text
    assert f"between {metrics['test_gain_lower']:.4f} and {metrics['test_gain_upper']:.4f}" in text
    assert "with 95 %\nconfidence between" in text
    gate = "The gate asked for F1 above 0.8, and accuracy above 0.85, and that the whole interval lies above 0.0200."
    assert gate in text


def record(features: int) -> Record:
    schema = {f"sensor_windows:a_feature_with_a_long_name_{number}": "Float64" for number in range(features)}
    tags = {"maestro.feature_service": "wide", "maestro.feature_schema": json.dumps(schema)}
    return Record("r1", {"dataset": "shuttle"}, {}, tags)


def test_the_card_of_a_run_of_an_earlier_release_says_that_it_was_judged_as_of_the_event():
    text = card(DECLARED, record(2))
    assert "2 features, each\nas it was known at the moment of the row's event." in text and "served:" not in text


def test_a_description_that_mlflows_database_would_refuse_counts_the_features_instead():
    wide = record(200)
    assert len(card(DECLARED, wide)) > DESCRIPTION_LIMIT
    short = card(DECLARED, wide, limit=DESCRIPTION_LIMIT)
    assert len(short) <= DESCRIPTION_LIMIT
    assert "`sensor_windows`: 200 features, named in `model_card.md`" in short
    assert "## Limits" in short
    assert card(DECLARED, wide, limit=len(card(DECLARED, wide))) == card(DECLARED, wide), "what fits is not shortened"
    assert card(DECLARED, wide, limit=100) == short[:100]


def test_a_card_without_times_or_features_says_so():
    text = card(models.get("income"), Record("r1", {}, {}, {}))
    assert "shifted" not in text
    assert "columns of the data set itself: `age`" in text
    assert "The test set is about 20% of the rows, drawn by a hash of what names a row." in text


def test_the_card_of_each_kind_says_what_it_estimates(monkeypatch):
    said = {
        "binary": ("Positive: price >= 100.", "how probable `price >= 100` is", "| rows | positive |"),
        "multiclass": ("Classes of `type`: farm, flat, house.", "each class of `type` is", "| macro F1 |"),
        "regression": (
            "Estimated: the number `price`.",
            "`price` for a new row",
            "| mean absolute error |",
        ),
    }
    for kind, parts in said.items():
        together = replace(HOUSES[kind], split=SplitByKey(0.2, by=("street",)))
        monkeypatch.setattr(Model, "data", together)
        advantage = json.dumps({"advantage": 0.01, "advantage_lower": -0.002, "advantage_upper": 0.022})
        tags = {"maestro.champion": "4", "maestro.champion.advantage": advantage}
        text = card(Model("houses", "Of houses.", "houses"), Record("r1", {}, {}, tags))
        assert all(part in text for part in parts), text
        assert ("probabilities have not been calibrated" in text) is (kind != "regression")
        assert (
            "all rows of one street lie in the same part" in text and "what has another street as independent" in text
        )
        assert "as version 4, then in production, it is better by 0.0100, between -0.0020 and 0.0220" in text


def test_a_run_that_the_gate_of_before_judged_still_has_a_card():
    asked = {"accuracy": 0.85, "f1": 0.8, "baseline_margin": 0.02, "confidence": 0.95, "required_gain": 0.02}
    thresholds = json.dumps(asked)
    before = Record("r1", {"dataset": "shuttle"}, {"test_f1": 0.9}, {"maestro.gate.thresholds": thresholds})
    assert "The gate asked for that the whole interval lies above 0.0200." in card(DECLARED, before)


@pytest.mark.parametrize("alias", ["production", "staging"])
def test_a_model_of_other_columns_is_not_registered_under_a_name_that_is_in_use(platform, keys, feature_tables, alias):
    tracking = platform.tracking
    fewer = feature_tables["train"][["f1", "f2"]].assign(note="a")
    other = small_models.log(tracking, small_models.fitted(fewer, feature_tables["train"][LABEL]), fewer.head(2))
    tracking.log(other, tags={FEATURE_SERVICE: SERVICE})
    version = tracking.register(MODEL, other)
    tracking.set_alias(MODEL, alias, version)
    run_id = passed(platform) if alias == "staging" else fit(platform)
    if alias == "production":
        platform.result_of(
            *("training", "evaluate", "--model", MODEL, "--run-id", run_id, "--test", TEST_KEY, "--champion", "none")
        )
    cause = platform.failure_of("registry", "register", "--model", MODEL, "--run-id", run_id, code=65)
    assert f"reads other columns than version 1 of '{MODEL}', which has the alias '{alias}'" in cause
    assert "- note string" in cause and "+ f3 double" in cause and "f1 double" not in cause.replace("_f1", "")
    assert "One name stands for one contract: declare it under a name of its own" in cause
    assert len(client(platform).search_model_versions(f"name = '{MODEL}'")) == 1
    if alias == "production":
        client(platform).delete_registered_model_alias(MODEL, alias)
    else:  # as a release before this one left it, where models of columns and of features had one name
        client(platform).delete_tag(other, FEATURE_SERVICE)
    assert register(platform, run_id)["version"] == "2"


def test_a_training_set_of_a_service_that_nobody_names_is_refused(feature_tables):
    with pytest.raises(Failure, match="was made by feature service 'sensor_failure_v1' and not by None"):
        feature_contract(feature_tables["train"], TRAIN_KEY, None)
    plain = feature_tables["train"].copy()
    plain.attrs = {}
    assert feature_contract(plain, TRAIN_KEY, None) == {}
