"""What a run that watches data finds, tells, and compares with, as its pods run it on real buckets."""

import json
from collections.abc import Callable

import pandas as pd
import pytest

from mlops import datasets
from mlops.registry.learned import keep_training_data
from mlops.registry.record import EVENT_TIME_SHIFT, period_tag
from mlops.stores.trained_on import TrainedOn
from tests.receivers import Webhook

SHUTTLE = datasets.get("shuttle")
DAY = 1440  # rows of shuttle
STEPS = {
    "schema": ["data-quality", "schema"],
    "drift": ["drift", "compare", "--effect-threshold=0.04"],
    "anomalies": ["drift", "anomalies", "--excess-threshold=0.03"],
}


@pytest.fixture
def webhook(monkeypatch, environment):
    with Webhook.listening() as hook:
        monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", hook.url)
        yield hook


def watch(platform, run: str, *, told: bool = True, hours: float = 24) -> dict[str, dict]:
    """The results of the steps of a run that ask for drift and anomalies, and what it told."""
    of = platform.as_run(run)
    window = of.result_of("data-quality", "window", "--dataset=shuttle", f"--window-hours={hours}")
    found = {
        step: of.result_of(*words, "--dataset=shuttle", f"--data={window['data']}") for step, words in STEPS.items()
    }
    if told:
        of.result_of("data-quality", "quality", "--dataset=shuttle", f"--data={window['data']}", "--max-age=0")
        found["report"] = of.result_of("data-quality", "report", "--dataset=shuttle")
    return found


def in_last_day(column: str, value: object, every: int = 1) -> Callable[[pd.DataFrame], object]:
    def change(table: pd.DataFrame) -> None:
        table.loc[table.index[-DAY::every], column] = value

    return change


def test_a_problem_that_goes_on_is_told_once_and_once_more_when_it_is_over(platform, put_shuttle, webhook):
    first = watch(platform, "1")
    assert first["drift"]["drifted"] == []
    assert first["drift"]["reference"] == first["anomalies"]["reference"] == "the earliest 60% of the data"
    assert first["anomalies"]["rate"] == pytest.approx(first["anomalies"]["expected"], abs=0.01)
    assert webhook.received == []

    def shift(table: pd.DataFrame) -> None:
        table.loc[table.index[-DAY:], "f4"] += 4

    put_shuttle(shift)
    assert watch(platform, "2")["drift"]["drifted"] == ["f4"]
    assert watch(platform, "3")["report"]["notified"] == 0
    put_shuttle()
    assert watch(platform, "4")["report"]["notified"] == 1
    assert [line["text"].partition(": ")[0] for line in webhook.received] == ["shuttle, column f4, drift"] * 2
    assert "drift: over. It was told at" in webhook.received[1]["text"]


@pytest.mark.parametrize(("every", "share"), [(1, "100.0%"), (2, "50.0%")])
def test_a_number_that_goes_missing_in_the_newest_day_is_drift(platform, put_shuttle, monkeypatch, every, share):
    put_shuttle(in_last_day("f7", None, every))
    found = watch(platform, "1", told=False)
    assert found["drift"]["drifted"] == ["f7"]
    left = json.loads(platform.reports.read_bytes(found["drift"]["findings"]))
    assert f"{share} are missing, 0.0% were" in left["alerts"][0]["text"]


def test_too_many_strange_rows_are_told_of_and_few_rows_are_not(platform, put_shuttle):
    watch(platform, "1", told=False)  # makes the reference

    def spoil(table: pd.DataFrame) -> None:
        table.loc[table.index[-60:], ["f1", "f9"]] = [190, 900]

    put_shuttle(spoil)
    for run, minutes, alerts in (("2", 30, 1), ("3", 29, 0)):
        found = watch(platform, run, told=False, hours=(minutes - 0.5) / 60)["anomalies"]
        assert (found["rows"], found["rate"], found["alerts"]) == (minutes, 1.0, alerts)


def test_the_reference_follows_the_model_that_is_put_into_production(platform, put_shuttle):
    """Its training set ends where the run says, in times that were a day later than those of the files."""
    watch(platform, "1", told=False)
    tags = {period_tag("train"): "2026-01-01T00:00:00+00:00/2026-01-11T23:59:00+00:00", EVENT_TIME_SHIFT: "86400"}
    model = type("Declared", (), {"name": "sensor-failure", "dataset": "shuttle", "data": SHUTTLE})
    with platform.tracking.new_run("shuttle", "test", tags) as run_id:
        platform.tracking.log(run_id, params={"data_version": "d1"}, metrics={"train_rows": 70.0, "test_rows": 30.0})
    tracking = type("Tracking", (), {"made_by": lambda *_: run_id, "run": lambda _, run: platform.tracking.run(run)})()
    keep_training_data(tracking, model, "7", platform.data)
    kept = TrainedOn.find(platform.data, "shuttle")
    assert kept == TrainedOn("sensor-failure", "7", run_id, "d1", "2026-01-10T23:59:00+00:00", 70)
    found = watch(platform, "2", told=False)
    assert found["drift"]["reference"] == "the training data of sensor-failure version 7"
    left = json.loads(platform.reports.read_bytes(found["drift"]["findings"]))["details"]["reference"]
    assert (left["rows"], left["made_now"]) == (10 * DAY, True)


def test_a_reference_is_made_by_hand(platform, put_shuttle):
    made = platform.result_of("drift", "reference", "--dataset=shuttle", "--fraction=0.5")
    assert (made["rows"], made["reference"]) == (24_548, "the earliest 50% of the data")
    assert watch(platform, "1", told=False)["drift"]["reference"] == "the earliest 50% of the data"
