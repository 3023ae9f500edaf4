"""The steps of a data validation run, as their pods run them, on real buckets."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pandas as pd
import pytest

from mlops import cli, datasets
from mlops.data_quality.findings import STEPS as TASKS
from mlops.result import EXIT_REFUSED, Failure
from mlops.stores.dataset_files import DatasetFiles
from mlops.stores.object_store import ObjectStore
from tests.receivers import Webhook

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SHUTTLE = datasets.get("shuttle")
DAY = 1440  # rows of shuttle
STEPS = {
    "window": ["data-quality", "window"],
    "schema": ["data-quality", "schema"],
    "quality": ["data-quality", "quality"],
    "drift": ["drift", "compare", "--effect-threshold=0.04"],
    "anomalies": ["drift", "anomalies", "--excess-threshold=0.03"],
    "report": ["data-quality", "report"],
}


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Iterator[Webhook]:
    with Webhook.listening() as hook:
        monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", hook.url)
        yield hook


def shift_last_day(column: str, by: int, every: int = 1) -> Callable[[pd.DataFrame], object]:
    def change(table: pd.DataFrame) -> None:
        table.loc[table.index[-DAY::every], column] += by

    return change


ALL = tuple(STEPS)


def run(
    platform, steps=ALL, dataset: str = "shuttle", states: dict | None = None, hours: float = 24
) -> dict[str, tuple[int, str]]:
    """What each step of a run ended with; as in the DAG, the report is made whatever failed before it.

    states: what Airflow says of the tasks; by default what it would say of those that are run here.
    """
    ended: dict[str, tuple[int, str]] = {}
    tasks = dict.fromkeys(TASKS.values(), "upstream_failed")
    for step in steps:
        if step == "report":
            told = json.dumps(tasks if states is None else states)
            ended[step] = platform.run(*STEPS[step], f"--dataset={dataset}", f"--states={told}")
            continue
        if any(code for code, _ in ended.values()):
            continue
        ended[step] = step_of(platform, step, dataset, hours)
        tasks[TASKS[step]] = "failed" if ended[step][0] else "success"
    return ended


def step_of(platform, step: str, dataset: str = "shuttle", hours: float = 24) -> tuple[int, str]:
    option = f"--window-hours={hours}" if step == "window" else f"--data={window_key(platform)}"
    return platform.run(*STEPS[step], f"--dataset={dataset}", option)


def window_key(platform) -> str:
    return f"runs/ml_pipeline_dag/{run_folder(platform)}/window/window.parquet"


def result(ended: dict[str, tuple[int, str]], step: str) -> dict:
    code, message = ended[step]
    assert code == 0, message
    return json.loads(message)


def reports(platform) -> ObjectStore:
    return platform.reports


def page(platform, name: str = "report.json") -> str:
    content = reports(platform).read_bytes(f"ml_pipeline_dag/{run_folder(platform)}/report/{name}")
    return content.decode()


def run_folder(platform) -> str:
    from mlops.keys import slug

    return slug(platform.run_id)


def test_a_good_window_passes_every_step_and_nobody_is_told_anything(platform, put_shuttle, webhook, gateway):
    ended = run(platform)
    assert {step: code for step, (code, _) in ended.items()} == dict.fromkeys(STEPS, 0)
    assert result(ended, "drift")["drifted"] == []
    assert result(ended, "anomalies")["rate"] == pytest.approx(0.07, abs=0.01)
    assert result(ended, "report")["steps"] == dict.fromkeys(TASKS, "passed")
    assert webhook.received == []
    assert not gateway.samples("maestro_alerts_total")
    assert gateway.total("maestro_anomaly_rate") == pytest.approx(0.07, abs=0.01)
    assert gateway.total("maestro_command_records_total", group="drift", command="compare") == DAY
    assert json.loads(page(platform))["batch"]["rows"] == DAY


def test_the_report_of_a_shifted_column_names_it_and_no_other(platform, put_shuttle, webhook, gateway):
    put_shuttle(shift_last_day("f4", 4))
    ended = run(platform)
    assert result(ended, "drift")["drifted"] == ["f4"]
    assert result(ended, "report")["notified"] == 1, "drift is told of and does not fail the run"
    (message,) = webhook.received
    address = f"s3://{platform.s3.reports_bucket}/{result(ended, 'report')['report']}"
    assert re.fullmatch(
        r"shuttle, column f4, drift: drifted: at least 78\.7% of the rows lie elsewhere than in the reference "
        r"\(value 0\.7869, threshold 0\.04\)\. "
        rf"Report: {re.escape(address)}",
        message["text"],
    )
    assert gateway.total("maestro_alerts_total", column="f4", dataset="shuttle", kind="drift") == 1
    assert gateway.total("maestro_drift_effect", column="f4", dataset="shuttle") == pytest.approx(0.7869, abs=1e-4)
    told = json.loads(page(platform))
    assert [(alert["kind"], alert["column"]) for alert in told["alerts"]] == [("drift", "f4")]
    assert told["passed"] is True


def test_the_report_is_one_page_that_loads_nothing(platform, put_shuttle):
    run(platform)
    html = page(platform, "report.html")
    assert not re.search(r"<(script|link|img|iframe|object)|https?://|url\(|@import|\bsrc=|\bhref=", html)
    assert html.count("<svg") == 11, "a plot for each watched column, and one for the scores"
    assert "The reference is the earliest 60% of the data: 29,458 rows" in html


def test_what_is_written_in_the_data_is_text_in_the_report(platform, put_shuttle, datasets_dir):
    table = pd.read_parquet(datasets_dir / "adult/adult.parquet.brotli")
    table.loc[table.index[-3000:], "workclass"] = "<script>alert(1)</script>"
    table.to_parquet(datasets_dir.parent / "adult.parquet")
    adult = datasets.get("adult")
    platform.data.write_bytes(adult.object_key(adult.source.file), (datasets_dir.parent / "adult.parquet").read_bytes())
    ended = run(platform, ("window", "schema", "drift", "anomalies", "report"), "adult")
    assert result(ended, "drift")["drifted"] == ["workclass"]
    assert "<script" not in page(platform, "report.html")


def test_nobody_is_told_twice_of_a_window(platform, put_shuttle, webhook):
    put_shuttle(shift_last_day("f4", 4))
    run(platform)
    again = run(platform.as_run("another"))
    assert (result(again, "report")["alerts"], result(again, "report")["notified"]) == (1, 0)
    assert len(webhook.received) == 1


def test_another_column_and_one_that_was_corrected_are_told_of(platform, put_shuttle, webhook):
    put_shuttle(shift_last_day("f4", 4))
    run(platform)
    put_shuttle(shift_last_day("f1", 40))
    run(platform.as_run("another"))
    told = [re.findall(r"column (\w+), drift: (\w+)", message["text"]) for message in webhook.received]
    assert told == [[("f4", "drifted")], [("f1", "drifted"), ("f4", "over")]]


def test_too_many_strange_rows_raise_an_alert_and_fail_nothing(platform, put_shuttle, webhook):
    def spoil(table: pd.DataFrame) -> None:
        table.loc[table.index[-DAY::9], ["f1", "f9"]] = [190, 900]

    put_shuttle(spoil)
    ended = run(platform)
    assert result(ended, "drift")["drifted"] == ["f1", "f9"], "a ninth of the rows lies elsewhere"
    assert result(ended, "anomalies")["rate"] == pytest.approx(1 / 9 + 8 / 9 * 0.07, abs=0.02)
    assert result(ended, "report")["notified"] == 3
    assert "column all, anomalies: 1" in webhook.received[0]["text"]
    assert "threshold 0.03)" in webhook.received[0]["text"]
    shown = json.loads(page(platform))["findings"]["anomalies"]["examples"]
    strangest = [(row["f1"], row["f9"]) for row in shown]
    assert strangest[0] == ("190", "900") and strangest.count(("190", "900")) >= 4, (
        "the day has a strange row of its own"
    )


def test_of_fewer_than_30_rows_a_share_of_strange_ones_raises_no_alert(platform, put_shuttle):
    def spoil(table: pd.DataFrame) -> None:
        table.loc[table.index[-60:], ["f1", "f9"]] = [190, 900]

    run(platform, ("window", "drift"))  # makes the reference
    put_shuttle(spoil)
    for minutes, alerts in ((30, 1), (29, 0)):
        ended = run(platform, ("window", "anomalies"), hours=(minutes - 0.5) / 60)
        found = result(ended, "anomalies")
        assert (found["rows"], found["rate"], found["alerts"]) == (minutes, 1.0, alerts)


def test_a_broken_schema_fails_its_step_and_then_the_run_with_a_report(platform, put_shuttle, webhook):
    put_shuttle(lambda table: table.drop(columns="f2", inplace=True))
    ended = run(platform)
    assert list(ended) == ["window", "schema", "report"]
    assert ended["schema"][0] == ended["report"][0] == EXIT_REFUSED
    assert "column 'f2' is missing" in ended["schema"][1]
    assert "- column 'f2' is missing\n- check_quality was not run\n- detect_drift was not run" in ended["report"][1]
    assert "Report: s3://" in ended["report"][1]
    steps = {"window": "passed", "schema": "failed", "quality": "not run", "drift": "not run", "anomalies": "not run"}
    assert json.loads(page(platform))["steps"] == steps
    assert "was not run, since a check before it failed" in page(platform, "report.html")
    assert len(webhook.received) == 1


@pytest.mark.parametrize("named", ["shuttle", "@sensor-failure"])
def test_what_is_to_be_corrected_is_the_declaration_of_the_set_however_it_is_named(platform, put_shuttle, named):
    put_shuttle(lambda table: table.drop(columns="f2", inplace=True))
    ended = run(platform, ("window", "schema", "report"), named)
    for step in ("schema", "report"):
        assert "the declaration of dataset shuttle, and clear this run" in " ".join(ended[step][1].split())


def test_bad_values_fail_their_step_and_then_the_run(platform, put_shuttle, webhook):
    put_shuttle(shift_last_day("f1", 300, every=10))
    ended = run(platform)
    assert (ended["quality"][0], ended["report"][0]) == (EXIT_REFUSED, EXIT_REFUSED)
    assert "column 'f1': values outside of [0, 200], 10.00% of the rows, 0.00% allowed" in ended["quality"][1]
    assert json.loads(page(platform))["steps"]["quality"] == "failed"
    assert "shuttle, column f1, quality" in webhook.received[0]["text"]


def test_stale_data_fails_the_quality_check(platform, put_shuttle, webhook):
    newest = DatasetFiles(platform.data).read("shuttle").table.collect()["event_time"].max()
    run(platform, ("window",))
    stale = ["data-quality", "quality", "--dataset=shuttle", f"--data={window_key(platform)}", "--max-age=6"]
    assert "the newest event is" in platform.failure_of(*stale, code=EXIT_REFUSED)
    now = datetime.now(UTC)
    DatasetFiles(platform.data).shift_to(SHUTTLE, now)
    run(platform, ("window",))
    found = platform.result_of(*stale)
    assert found["event_time_shift_seconds"] == pytest.approx((now - newest).total_seconds(), abs=1)
    assert found["freshness"] == "checked"
    found = platform.result_of(*stale[:-1], "--max-age=declared")
    assert (
        found["freshness"] == "Freshness is not checked: by its declaration (cadence=None) nothing is added to the set."
    )


def test_shifted_times_are_said_to_be_shifted_wherever_they_are_shown(platform, put_shuttle):
    DatasetFiles(platform.data).shift_to(SHUTTLE, datetime.now(UTC))
    ended = run(platform)
    seconds = result(ended, "schema")["event_time_shift_seconds"]
    assert json.loads(page(platform))["event_time_shift_seconds"] == seconds
    assert f"shifted by {seconds:,} seconds" in page(platform, "report.html")


def test_shifting_times_once_more_makes_no_new_window(platform, put_shuttle, webhook):
    put_shuttle(shift_last_day("f4", 4))
    run(platform)
    DatasetFiles(platform.data).shift_to(SHUTTLE, datetime.now(UTC))
    assert result(run(platform.as_run("another")), "report")["notified"] == 0


def test_a_step_that_broke_is_told_of_and_fails_the_run(platform, put_shuttle, webhook):
    steps = ("window", "schema", "quality", "anomalies", "report")
    ended = run(
        platform, steps, states={task: "failed" if task == "detect_drift" else "success" for task in TASKS.values()}
    )
    assert ended["report"][0] == EXIT_REFUSED
    assert "- detect_drift left no findings: see its log" in ended["report"][1]
    assert "missing: detect_drift left no findings" in webhook.received[0]["text"]
    assert json.loads(page(platform))["steps"]["drift"] == "broke"


def test_a_run_in_which_nothing_was_found_has_a_report_too(platform, webhook):
    ended = run(platform, ("report",), states={})
    assert ended["report"][0] == EXIT_REFUSED
    assert "the declaration of dataset shuttle" in ended["report"][1]
    assert json.loads(page(platform))["batch"] is None
    assert "left no findings" in page(platform, "report.html")


def test_a_cleared_run_forgets_what_it_found_in_data_that_was_corrected(platform, put_shuttle, webhook):
    put_shuttle(shift_last_day("f4", 4))
    run(platform)
    put_shuttle(lambda table: table.drop(columns="f2", inplace=True))
    run(platform)
    assert json.loads(page(platform))["steps"]["drift"] == "not run"
    put_shuttle()
    ended = run(platform)
    assert result(ended, "report")["alerts"] == 0


@pytest.mark.parametrize("ended_as", ["told", "untold"])
def test_a_cleared_run_whose_first_step_breaks_is_failed_whatever_the_try_before_found(platform, put_shuttle, ended_as):
    """The file is broken after a good run: nothing of that run makes this one good."""
    assert result(run(platform), "report")["alerts"] == 0
    platform.data.write_bytes(SHUTTLE.object_key("shuttle.csv.gz"), b"not a file")
    states = None if ended_as == "told" else {}
    ended = run(platform, states=states)
    assert list(ended) == ["window", "report"]
    assert ended["report"][0] == EXIT_REFUSED
    assert "- select_window left no findings: see its log\n- validate_schema was not run" in ended["report"][1]
    steps = dict.fromkeys(TASKS, "not run") | {"window": "broke"}
    assert json.loads(page(platform))["steps"] == steps


def test_a_check_that_failed_fails_the_run_though_a_try_before_passed(platform, put_shuttle):
    """Only the check is cleared, and its pod never comes to write anything: what lies there is of the try before."""
    assert result(run(platform), "report")["alerts"] == 0
    states = dict.fromkeys(TASKS.values(), "success") | {"check_quality": "failed"}
    ended = run(platform, ("report",), states=states)
    assert ended["report"][0] == EXIT_REFUSED
    assert "- check_quality left no findings" in ended["report"][1]
    states |= {"detect_drift": "upstream_failed", "detect_anomalies": "upstream_failed"}
    run(platform, ("report",), states=states)
    assert json.loads(page(platform))["steps"] == {
        "window": "passed",
        "schema": "passed",
        "quality": "broke",
        "drift": "not run",
        "anomalies": "not run",
    }


def test_findings_of_a_release_before_are_those_of_a_clearing_before(platform, put_shuttle):
    run(platform)
    key = f"data-validation/ml_pipeline_dag/{run_folder(platform)}/drift.json"
    left = json.loads(platform.reports.read_bytes(key))
    del left["begun"]
    platform.reports.write_bytes(key, json.dumps(left).encode())
    ended = run(platform, ("report",), states=dict.fromkeys(TASKS.values(), "success"))
    assert "- detect_drift left no findings" in ended["report"][1]


def test_one_row_dated_2096_is_told_of_and_the_window_is_of_the_others(platform, datasets_dir, webhook):
    movielens = datasets.get("movielens")
    for file in movielens.source.files:
        platform.data.write_bytes(movielens.object_key(file), (datasets_dir / "movielens" / file).read_bytes())
    before = result(run(platform, ("window",), "movielens"), "window")
    ratings = platform.data.read_bytes(movielens.object_key("ml-100k.inter"))
    platform.data.write_bytes(movielens.object_key("ml-100k.inter"), ratings + b"1\t1500\t4\t3976214400\n")
    ended = run(platform, dataset="movielens")
    found = result(ended, "window")
    assert (found["rows"], found["future"], found["alerts"]) == (before["rows"], 1, 1)
    assert ended["quality"][0] == 0
    told = json.loads(page(platform))
    assert told["steps"]["window"] == "alert"
    assert told["passed"] is True, "what is left out is told of and fails nothing"
    assert (
        "movielens, column event_time, future: 1 of 100,001 rows are dated in the future" in webhook.received[0]["text"]
    )
    kept = told["findings"]["window"]["quarantine"]
    assert platform.data.scan(kept).collect()["timestamp"].to_list() == [3976214400]
    assert "events of the future" in page(platform, "report.html")


@pytest.mark.parametrize("hours", ["0", "-24", "1e9", "nan"])
def test_a_window_that_is_none_is_refused_before_anything_is_read(platform, hours):
    cause = platform.failure_of(
        "data-quality", "window", "--dataset=shuttle", f"--window-hours={hours}", code=EXIT_REFUSED
    )
    assert "hours cannot be judged: it must be longer than 0 and at most 87,600 hours" in cause


def test_a_table_that_is_no_window_is_refused_with_the_remedy(platform, put_shuttle):
    data = platform.result_of("ingestion", "download", "--dataset=shuttle")["data"]
    cause = platform.failure_of(*STEPS["schema"], "--dataset=shuttle", f"--data={data}", code=EXIT_REFUSED)
    assert "says nothing of its window: give the key of a window, which 'python -m mlops data-quality window'" in cause


def test_alerts_that_a_webhook_did_not_take_fail_nothing_and_are_told_by_the_next_try(platform, put_shuttle, webhook):
    put_shuttle(shift_last_day("f4", 4))
    webhook.status = 500
    ended = result(run(platform), "report")
    assert (ended["alerts"], ended["notified"]) == (1, 0)
    assert "the webhook answered 500" in ended["lost"]["slack"]
    webhook.status = 200
    assert platform.result_of(*STEPS["report"], "--dataset=shuttle")["notified"] == 1
    assert platform.result_of(*STEPS["report"], "--dataset=shuttle")["notified"] == 0
    assert len(webhook.received) == 2


def test_the_film_ratings_of_a_day_are_judged(platform, datasets_dir, webhook):
    movielens = datasets.get("movielens")
    for file in movielens.source.files:
        platform.data.write_bytes(movielens.object_key(file), (datasets_dir / "movielens" / file).read_bytes())
    ended = run(platform, dataset="movielens")
    assert {"occupation", "age", "gender"} <= set(result(ended, "drift")["drifted"])
    assert len(webhook.received) == 1, "one message with a line for each alert"
    assert webhook.received[0]["text"].count("Report: s3://") == result(ended, "report")["alerts"]


def test_a_set_that_was_not_loaded_says_how_to_load_it(platform):
    assert "make data" in platform.failure_of("data-quality", "window", "--dataset=adult")


def test_a_store_that_is_away_is_named(environment, monkeypatch):
    monkeypatch.setenv("MAESTRO_TASK_ID", "window")
    assert cli.main(["data-quality", "window", "--dataset", "shuttle"]) == 1


def test_an_object_is_found_or_not_and_written_by_the_first_only(platform):
    found = reports(platform)
    assert found.find_bytes("a") is None
    assert found.write_new("a", b"1") is True
    assert found.write_new("a", b"2") is False
    assert found.find_bytes("a") == b"1"


def test_a_missing_bucket_is_not_a_missing_object(platform):
    absent = ObjectStore(platform.s3, "absent-bucket")
    for use in (absent.find_bytes, absent.read_bytes):
        with pytest.raises(Failure, match="bucket 'absent-bucket' not found"):
            use("a")


def test_an_object_is_downloaded_whole_by_one_request_and_read_as_what_it_is(platform, tmp_path):
    found, asked = reports(platform), []
    found._client.meta.events.register("before-send.s3.GetObject", lambda request, **_: asked.append(request.url))
    for size in (0, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 1):
        content = bytes(range(256)) * (size // 256 + 1)
        found.write_bytes("large.html", content[:size])
        found.download("large.html", tmp_path / "large.html")
        assert (tmp_path / "large.html").read_bytes() == content[:size]
    assert len(asked) == 5
    head = found._client.head_object(Bucket=found.bucket, Key="large.html")
    assert head["ContentType"] == "text/html", "a browser shows it"


def test_all_keys_below_a_prefix_are_listed_however_many_pages_the_store_makes(platform):
    found = reports(platform)
    for key in ("a/3", "a/1", "a/2", "ab/1", "b/1"):
        found.write_bytes(key, b"")

    def two_a_page(params, **_):
        params["MaxKeys"] = 2

    found._client.meta.events.register("provide-client-params.s3.ListObjectsV2", two_a_page)
    assert found.keys("a/") == ["a/1", "a/2", "a/3"]
