"""Posted readings as rows of the data set whose columns they have."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from mlops import datasets
from mlops.datasets.declaration import EVENT_TIME
from mlops.result import EXIT_SKIPPED, Refused
from mlops.sensor_trainer.collected import rows_of
from mlops.stores import http
from mlops.stores.collected_readings import CollectedReadings
from tests.unit.trainer_api import Api, serving

SHUTTLE = datasets.get("shuttle")
COLUMNS = [column.name for column in SHUTTLE.features]
NIGHT = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)


def kept(number: int, *, minutes: float = 0, value: float = 1.0, failure: bool | None = None) -> dict[str, Any]:
    """A reading as the trainer's API hands it out."""
    moment = (NIGHT + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
    values = [value] * len(COLUMNS)
    return {"id": number, "sensor": "shuttle", "time": moment, "values": values, "failure": failure}


@pytest.fixture
def api(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(http, "_SHORTEST_PAUSE", 0.01)
    monkeypatch.setenv("MAESTRO_SENSOR_TRAINER_TOKEN", "the-token")
    with serving() as found:
        monkeypatch.setenv("MAESTRO_SENSOR_TRAINER_URL", found.url)
        yield found


class Kept:
    """What the trainer has taken in, two readings a page."""

    def __init__(self) -> None:
        self.readings: list[dict[str, Any]] = []

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        assert (method, path.partition("=")[0]) == ("GET", "/readings?after")
        after = int(path.partition("=")[2])
        page = [reading for reading in self.readings if reading["id"] > after][:2]
        newest = max((reading["id"] for reading in self.readings), default=None)
        return 200, {"dataset": "shuttle", "columns": COLUMNS, "newest_id": newest, "readings": page}


def test_readings_are_rows_of_the_set() -> None:
    found = rows_of([kept(1, failure=True), kept(2, minutes=0.5, failure=False), kept(3, value=2.5)], COLUMNS, SHUTTLE)
    assert set(found.columns) == {column.name for column in SHUTTLE.columns} | {EVENT_TIME}
    assert found["anomaly"].to_list() == [1, 0, None]
    assert found["machine"].to_list() == ["shuttle"] * 3
    assert found["f9"].to_list() == [1.0, 1.0, 2.5]
    assert found[EVENT_TIME].to_list()[1] == NIGHT + timedelta(seconds=30)
    assert found.schema[EVENT_TIME] == pl.Datetime("us", "UTC")


def test_readings_of_other_columns_are_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match=r"dataset shuttle has f1, .*: correct sensorTrainer.dataset"):
        rows_of([], [*COLUMNS, "f10"], SHUTTLE)


def test_each_reading_is_collected_once_whatever_is_posted_again(platform, api: Api) -> None:
    trainer = Kept()
    api.answer = trainer
    trainer.readings = [kept(1), kept(2, minutes=0.5), kept(3, minutes=2, value=3.0)]
    result = platform.result_of("sensor-trainer", "collect")
    assert result == {"dataset": "shuttle", "readings": 3, "added": 3, "last_id": 3}
    assert platform.data.keys("collected/shuttle/") == [f"collected/shuttle/2026-03-0{day}.parquet" for day in (1, 2)]
    collected = CollectedReadings(platform.data, SHUTTLE)
    assert platform.result_of("sensor-trainer", "collect")["added"] == 0, "they wait to be pushed"
    collected.note_pushed(collected.state().changed)
    code, message = platform.run("sensor-trainer", "collect")
    assert code == EXIT_SKIPPED and "no reading since the last time" in message
    # The same moment under another key, and a new one: what came first stays.
    trainer.readings += [kept(7, minutes=2, value=9.0), kept(8, minutes=3)]
    assert platform.result_of("sensor-trainer", "collect")["added"] == 1
    rows = collected.rows().sort(EVENT_TIME).collect()
    assert rows["f1"].to_list() == [1.0, 1.0, 3.0, 1.0]
    assert collected.state().last_id == 8


def test_a_trainer_with_a_new_database_is_read_from_its_beginning(platform, api: Api) -> None:
    trainer = Kept()
    api.answer = trainer
    trainer.readings = [kept(40)]
    platform.result_of("sensor-trainer", "collect")
    trainer.readings = [kept(1, minutes=1)]
    assert platform.result_of("sensor-trainer", "collect")["last_id"] == 1


def test_a_collection_that_ended_half_way_is_completed_by_the_next(platform, api: Api) -> None:
    trainer = Kept()
    trainer.readings = [kept(number, minutes=number) for number in range(1, 6)]
    pages = []

    def broken(method: str, path: str, body: Any) -> tuple[int, Any]:
        pages.append(path)
        return trainer(method, path, body) if len(pages) < 3 else (500, {"title": "gone"})

    api.answer = broken
    assert "gone" in platform.failure_of("sensor-trainer", "collect", "--patience", "0")
    api.answer = trainer
    assert platform.result_of("sensor-trainer", "collect")["added"] == 3
    assert len(CollectedReadings(platform.data, SHUTTLE).rows().collect()) == 5


def test_a_release_without_a_trainer_has_no_readings(platform, monkeypatch) -> None:
    monkeypatch.setenv("MAESTRO_SENSOR_TRAINER_TOKEN", "")
    code, message = platform.run("sensor-trainer", "collect")
    assert code == EXIT_SKIPPED and "no sensor trainer" in message


def test_an_answer_without_readings_is_named(platform, api: Api) -> None:
    api.says((200, {"columns": COLUMNS}))
    assert "wrongly, without readings" in platform.failure_of("sensor-trainer", "collect", "--patience", "0")
