"""Delivered files through all steps of a batch, on a real store and a real registry."""

import json
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import datasets
from mlops.datasets.declaration import LABEL
from mlops.inference import commands
from mlops.inference.batch import REASON, ROW, Batch, Partition
from mlops.inference.contract import delivered, reason, value
from mlops.inference.score import slices
from mlops.registry.record import TEST_SCORES
from mlops.result import EXIT_REFUSED, Refused
from mlops.stores.tracking import Input
from tests.unit import small_models

MODEL, ALIAS = "sensor-failure", "production"
MARKER = "inbox/2026-03-01/_READY"
COLUMNS = [column.name for column in datasets.get("shuttle").columns]
FEATURES = [column.name for column in datasets.get("shuttle").features]


@pytest.fixture
def train(platform, tables):
    """Registers a small model of its own kind, gives it the alias, and returns its version."""

    def once(rows: int = 1000, *, scores: bool = False) -> str:
        table = tables("shuttle").train.head(rows)
        features, labels = table.drop(columns=LABEL), table[LABEL]
        model = small_models.fitted(features, labels)
        run_id = small_models.log(platform.tracking, model, features.head(2))
        if scores:
            said = model.predict_proba(features)[:, 1].tolist()
            platform.tracking.log_text(run_id, TEST_SCORES, json.dumps(said))
        version = platform.tracking.register(MODEL, run_id)
        platform.tracking.set_alias(MODEL, ALIAS, version)
        return version

    return once


@pytest.fixture
def raw(tables) -> pd.DataFrame:
    return tables("shuttle").raw[COLUMNS].head(1000)


@pytest.fixture
def put(platform, raw, tmp_path):
    """Delivers a table, or bytes, as a file beside the marker."""

    def file(table: pd.DataFrame | bytes = raw, name: str = "part-0.parquet", marker: str = MARKER) -> None:
        content = table
        if isinstance(table, pd.DataFrame):
            path = tmp_path / "delivered"
            table.to_csv(path, index=False) if name.endswith(".csv") else table.to_parquet(path, index=False)
            content = path.read_bytes()
        platform.data.write_bytes(f"{marker.rpartition('/')[0]}/{name}", content)
        platform.data.write_bytes(marker, b"")

    return file


def ingest(platform, *options: str) -> tuple[str, ...]:
    return ("inference", "ingest", f"--model={MODEL}", f"--marker={MARKER}", *options)


def run(platform, rows: int = 300, *options: str) -> dict:
    """All steps of a batch as the DAG runs them; returns what the report says, with the partitions' names."""
    batch = platform.result_of(*ingest(platform, *options))["batch"]
    named = platform.result_of("inference", "preprocess", f"--batch={batch}", f"--partition-rows={rows}")
    for name in named:
        platform.result_of("inference", "score", f"--partition={name}")
    platform.result_of("inference", "evaluate", f"--batch={batch}")
    result = platform.result_of("inference", "report", f"--batch={batch}")
    page = json.loads(platform.reports.read_bytes(result["report"].replace("index.html", "report.json")))
    return {**page, "names": list(named), "result": result}


def scores_of(platform, batch: str) -> pl.DataFrame:
    return platform.data.scan_parts(f"inference/{batch}/scores/").collect()


def aside(platform, batch: str) -> pl.DataFrame:
    return platform.data.scan(f"inference/{batch}/quarantine.parquet").collect()


def everything(platform) -> dict[str, str]:
    """Each object of a batch and the version of its content."""
    return dict(platform.data.entries("inference/"))


def test_each_row_is_scored_once_as_the_model_says(platform, train, put, raw):
    version = train()
    put()
    found = run(platform)
    assert (found["rows"], found["scored"], found["quarantined"], found["version"]) == (1000, 1000, 0, version)
    assert [Partition.parse(name).rows(1000) for name in found["names"]] == [300, 300, 300, 100]
    scores = scores_of(platform, found["batch"])
    assert scores[ROW].to_list() == list(range(1000))
    model = small_models.loaded(platform.tracking, f"models:/{MODEL}/{version}")
    features = raw[FEATURES].astype("float64")
    assert scores["prediction"].to_list() == model.predict(features).tolist()
    assert scores["probability"].to_list() == model.predict_proba(features)[:, 1].tolist()


def test_the_report_tells_of_it_and_moves_the_marker(platform, train, put):
    train()
    put()
    found = run(platform)
    assert not platform.data.exists(MARKER) and platform.data.exists("done/2026-03-01/_READY")
    html = platform.reports.read_bytes(found["result"]["report"]).decode()
    assert "1,000 = 1,000 scored + 0 put aside" in html and "Each row is accounted for." in html
    assert html.count("<svg") == 2, "scores and seconds"
    assert "<script" not in html and "http" not in html.replace("http://www.w3.org", "")
    assert [part["rows"] for part in found["partitions"]] == [300, 300, 300, 100]
    assert all(part["seconds"] > 0 for part in found["partitions"])


def test_labels_in_the_files_give_metrics_with_intervals_and_files_without_none(platform, train, put, raw):
    train()
    put()
    judged = run(platform)["judged"]
    assert judged["rows"] == 1000
    auc = judged["metrics"]["auc"]
    assert auc["lower"] <= auc["value"] <= auc["upper"]
    assert auc["value"] > judged["baseline"]["auc"] == 0.5
    other = "inbox/b/_READY"
    put(raw.drop(columns="class") if "class" in raw else raw[FEATURES], marker=other)
    assert run(platform, 300, f"--marker={other}")["judged"] is None


def test_scores_are_compared_with_those_of_the_test_set(platform, train, put, raw):
    train(scores=True)
    put()
    assert run(platform)["drift"]["drifted"] is False
    failing = raw.assign(**{name: raw[name].iloc[-1] for name in FEATURES})
    put(failing, marker="inbox/b/_READY")
    drift = run(platform, 300, "--marker=inbox/b/_READY")["drift"]
    assert drift["drifted"] is True and drift["effect"] > 0.1


def test_a_second_run_a_retry_and_a_clearing_change_nothing(platform, train, put):
    train()
    put()
    first = run(platform)
    before = everything(platform)
    again = run(platform.as_run("another"))
    assert again["names"] == first["names"]
    changed = {key for key, version in everything(platform).items() if before.get(key) != version}
    assert changed <= {f"inference/{first['batch']}/evaluation.json"}
    assert platform.data.keys("done/") == ["done/2026-03-01/_READY"]


def test_a_model_that_is_promoted_in_the_midst_of_a_batch_scores_none_of_it(platform, train, put):
    first = train()
    put()
    batch = platform.result_of(*ingest(platform))["batch"]
    named = platform.result_of("inference", "preprocess", f"--batch={batch}", "--partition-rows=500")
    one, two = named
    platform.result_of("inference", "score", f"--partition={one}")
    second = train(2000)
    assert second != first
    assert platform.result_of("inference", "score", f"--partition={two}")["version"] == first
    assert platform.result_of(*ingest(platform))["version"] == first, "a repeated run keeps it too"


def test_files_that_came_later_and_another_alias_are_batches_of_their_own(platform, train, put, raw):
    version = train()
    put()
    first = platform.result_of(*ingest(platform))["batch"]
    platform.tracking.set_alias(MODEL, "shadow", version)
    assert platform.result_of(*ingest(platform, "--alias=shadow"))["batch"] != first
    put(raw.tail(10), "part-1.parquet")
    assert platform.result_of(*ingest(platform))["batch"] != first


def test_ten_files_are_one_batch_in_the_order_of_their_names(platform, train, put, raw):
    train()
    for index in reversed(range(10)):
        put(raw.iloc[index * 100 : (index + 1) * 100], f"day=1/part-{index}.parquet")
    found = run(platform)
    kept = platform.data.scan(f"inference/{found['batch']}/raw.parquet").collect()
    assert kept.select(FEATURES).to_pandas().astype("float64").equals(raw[FEATURES].astype("float64"))
    assert (found["rows"], len(found["files"])) == (1000, 10)


@pytest.mark.parametrize("name", ["part.csv", "part.parquet"])
def test_a_row_that_cannot_be_scored_is_put_aside_with_its_reasons(platform, train, put, raw, name):
    train()
    broken = raw.astype({FEATURES[0]: object, FEATURES[1]: object})
    broken.loc[broken.index[3], FEATURES[0]] = None
    broken.loc[broken.index[5], FEATURES[1]] = "broken"
    broken.loc[broken.index[7], [FEATURES[0], FEATURES[1]]] = [None, "inf"]
    broken = broken.astype({FEATURES[0]: "float64", FEATURES[1]: "string"})
    put(broken, name)
    found = run(platform)
    assert (found["rows"], found["scored"], found["quarantined"]) == (1000, 997, 3)
    rows = {row[ROW]: row for row in aside(platform, found["batch"]).to_dicts()}
    missing, odd = f"{FEATURES[0]} is missing", f"{FEATURES[1]} is no number"
    assert {number: row[REASON] for number, row in rows.items()} == {3: missing, 5: odd, 7: f"{missing}; {odd}"}
    assert rows[5][FEATURES[1]] == "broken", "the row is kept as it came"
    assert scores_of(platform, found["batch"])[ROW].to_list() == [n for n in range(1000) if n not in rows]
    assert {each["reason"]: each["rows"] for each in found["quarantine"]} == {
        missing: 1,
        odd: 1,
        f"{missing}; {odd}": 1,
    }


def test_where_each_row_is_put_aside_there_is_a_report_and_no_score(platform, train, put, raw):
    train()
    put(raw.head(3).assign(**{FEATURES[0]: [None, None, None]}).astype({FEATURES[0]: "float64"}))
    found = run(platform)
    assert (found["rows"], found["scored"], found["quarantined"], found["names"]) == (3, 0, 3, [])
    assert "3 rows were put aside" in platform.reports.read_bytes(found["result"]["report"]).decode()


def refused(platform, *options: str) -> str:
    return platform.failure_of(*ingest(platform, *options), code=EXIT_REFUSED)


def test_a_missing_column_is_refused_with_the_difference_before_a_row_is_read(platform, train, put, raw):
    train()
    put(raw.drop(columns=FEATURES[2]))
    cause = refused(platform)
    assert f"- {FEATURES[2]}: number" in cause and "inbox/2026-03-01/" in cause and f"models:/{MODEL}/1" in cause
    assert everything(platform) == {}


def test_a_column_of_another_type_is_refused_with_the_difference(platform, train, put, raw):
    train()
    put(raw.assign(**{FEATURES[2]: "high"}))
    assert f"- {FEATURES[2]}: number; + {FEATURES[2]}: text" in refused(platform)


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (b"PAR1 and no more", "part.parquet", "cannot be read as parquet"),
        (b"", "part.parquet", "cannot be read as parquet"),
        (b"", "part.csv", "part.csv"),
        (",".join(COLUMNS).encode() + b"\n", "part.csv", "no rows"),
    ],
)
def test_a_file_that_is_broken_or_empty_is_refused_and_named(platform, train, put, content, name, told):
    train()
    put(content, name)
    cause = refused(platform)
    assert told in cause and f"inbox/2026-03-01/{name}" in cause


def test_a_parquet_file_without_rows_is_refused(platform, train, put, raw):
    train()
    put(raw.head(0))
    assert "has no rows" in refused(platform)


def test_files_of_two_kinds_are_refused(platform, train, put):
    train()
    put(name="a.csv")
    put(name="b.parquet")
    assert "files of several kinds (csv, parquet)" in refused(platform)


def test_what_is_not_there_is_told_with_the_remedy(platform, train, put):
    put()
    assert f"no version of model '{MODEL}' has the alias '{ALIAS}'" in refused(platform)
    train()
    assert "inbox/x/_READY is not there" in platform.failure_of(*ingest(platform, "--marker=inbox/x/_READY"))
    platform.data.write_bytes("inbox/empty/_READY", b"")
    assert "has no files to score" in refused(platform, "--marker=inbox/empty/_READY")
    assert "is a path" in refused(platform, "--marker=/data/ready.flag")
    found = run(platform, 300, "--marker=/data/ready.flag", "--folder=inbox/2026-03-01/")
    assert found["scored"] == 1000 and platform.data.exists(MARKER), "what marks another delivery stays"
    assert "was not begun" in platform.failure_of("inference", "preprocess", "--batch=none")
    assert "is no partition" in platform.failure_of("inference", "score", "--partition=none", code=EXIT_REFUSED)


def test_a_partition_that_is_missing_fails_the_evaluation(platform, train, put):
    train()
    put()
    batch = platform.result_of(*ingest(platform))["batch"]
    one, *_ = platform.result_of("inference", "preprocess", f"--batch={batch}", "--partition-rows=500")
    platform.result_of("inference", "score", f"--partition={one}")
    cause = platform.failure_of("inference", "evaluate", f"--batch={batch}")
    assert "1000 rows were to be scored and 500 were" in cause and "clear run_inference" in cause


def test_of_two_that_score_a_partition_at_once_one_writes_it(platform, train, put, monkeypatch):
    train()
    put()
    batch = platform.result_of(*ingest(platform))["batch"]
    (name,) = platform.result_of("inference", "preprocess", f"--batch={batch}", "--partition-rows=1000")
    key = f"inference/{batch}/scores/part-00000.parquet"
    kept = commands._kept

    def overtaken(*arguments):
        if not platform.data.exists(key):
            platform.data.write_bytes(key, platform.data.read_bytes("first"))
        return kept(*arguments)

    platform.result_of("inference", "score", f"--partition={name}")
    platform.data.copy(key, "first")
    before = platform.data.digest(key), dict(platform.data.entries(key))
    platform.data.delete(key)
    monkeypatch.setattr(commands, "_kept", overtaken)
    assert platform.result_of("inference", "score", f"--partition={name}")["rows"] == 1000
    assert (platform.data.digest(key), dict(platform.data.entries(key))) == before


def test_rows_of_a_set_are_delivered_in_files_before_their_marker(platform, put_shuttle, train):
    train()
    told = platform.result_of(
        "inference", "deliver", "--dataset=shuttle", f"--marker={MARKER}", "--rows=100", "--files=3"
    )
    assert told == {"marker": MARKER, "files": 3, "rows": 100}
    assert run(platform)["rows"] == 100


def test_training_keeps_scores_of_the_test_set_to_compare_with(tables):
    from mlops.training.commands import _SAMPLE, _sample
    from mlops.training.families import Prediction
    from mlops.training.families.sklearn import predict
    from mlops.training.measures import Answers, Rows

    table = tables("shuttle").test
    features, labels = table.drop(columns=LABEL), table[LABEL]
    rows = Rows.of(labels, datasets.get("shuttle"))
    found = predict(small_models.fitted(features.head(500), labels.head(500)), features)
    sample = _sample(Answers.of(Prediction(*found), rows), rows)
    assert len(sample) <= _SAMPLE and all(0 <= share <= 1 for share in sample)


@given(rows=st.integers(0, 10**8), most=st.integers(1, 10**6))
def test_partitions_hold_each_row_once_and_their_names_are_a_result(rows, most):
    parts = commands.partitions(f"{'a' * 20}-012345678901", rows, most)
    ends = [0, *(part.start + part.rows(rows) for part in parts)]
    assert [part.start for part in parts] == ends[:-1] and ends[-1] == rows
    assert all(Partition.parse(part.name) == part for part in parts)
    assert len(json.dumps({part.name: part.rows(rows) for part in parts})) < 4096
    assert all(part.rows(rows) >= min(most, rows) for part in parts[:-1])


@given(
    st.lists(
        st.fixed_dictionaries(
            {"a": st.sampled_from([None, "1", "2.5", "x", "inf", "nan"]), "b": st.none() | st.floats()}
        ),
        min_size=1,
        max_size=20,
    )
)
def test_a_row_is_put_aside_exactly_where_something_that_is_read_is_missing_or_wrong(rows):
    inputs = [Input("a", True, False), Input("b", True, True)]
    dataset = delivered(datasets.get("shuttle"), "inbox", ["x.parquet"], inputs)
    table = pl.LazyFrame(rows, {"a": pl.String, "b": pl.Float64})
    schema = table.collect_schema()
    read = [value(column, schema, dataset) for column in inputs]
    found = table.with_columns(reason(inputs, schema, dataset).alias(REASON)).with_columns(read).collect()
    for row, judged in zip(rows, found.to_dicts(), strict=True):
        fine = row["a"] in ("1", "2.5") and (row["b"] is None or abs(row["b"]) < float("inf"))
        assert (judged[REASON] == "") == fine, judged
        assert not fine or judged["a"] == float(row["a"])


def test_slices_are_read_in_order_and_hold_a_part_each(tmp_path: Path):
    pl.DataFrame({"a": range(300_000)}).write_parquet(tmp_path / "t.parquet", row_group_size=1 << 17)
    parts = list(slices(pl.scan_parquet(tmp_path / "t.parquet"), 10, 270_000))
    assert [len(part) for part in parts] == [131072, 131072, 270_000 - 2 * 131072]
    assert pl.concat(parts)["a"].to_list() == list(range(10, 270_010))


def test_a_batch_says_the_same_after_it_was_written(platform):
    batch = Batch("n", MODEL, ALIAS, "1", "r", "sklearn", MARKER, "inbox", ["a"], [Input("a", True, False)])
    assert batch.begin(platform.data) == batch == Batch.get(platform.data, "n")
    assert Batch("n", MODEL, ALIAS, "2", "r", "sklearn", MARKER, "inbox", ["a"], []).begin(platform.data) == batch


def test_a_name_that_is_no_partition_is_refused():
    for name in ("", "a", "a/1", "a/1x0", "a/x1", "a/b/1x1", "/1x1"):
        with pytest.raises(Refused, match="no partition"):
            Partition.parse(name)
