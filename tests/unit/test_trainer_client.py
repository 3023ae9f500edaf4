"""What a pod of a DAG makes of the sensor trainer's answers, and of there being none."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from mlops.config import SensorTrainerSettings
from mlops.result import Failure, Refused
from mlops.sensor_trainer.client import Trainer
from mlops.stores import http
from mlops.stores.http import HttpService, NoConnection, TooSlow, WrongAnswer, patiently, words
from tests.clock import Clock
from tests.unit.trainer_api import Api, Reply, job, serving

TOKEN = "the-secret-token"


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as found:
        yield found


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(http, "_LONGEST_PAUSE", 0.02)


@pytest.fixture
def trainer(api: Api) -> Trainer:
    return Trainer(SensorTrainerSettings(api.url, TOKEN))


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server below HTTP: it takes one connection and does as it is told."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join()


def asked(url: str, timeout: float = 5.0) -> HttpService:
    return HttpService(
        "the trainer", url, "global.services.sensorTrainer", token=TOKEN, credential="s", timeout=timeout
    )


def test_a_refused_connection_is_told_with_the_address_and_the_remedy() -> None:
    with pytest.raises(NoConnection) as failure:
        asked("http://127.0.0.1:9").ask("GET", "/ready")
    assert "http://127.0.0.1:9 refuses the connection" in str(failure.value)
    assert "global.services.sensorTrainer" in str(failure.value)


def test_a_name_that_nobody_knows_is_told() -> None:
    with pytest.raises(NoConnection, match=r"trainer.invalid:8000 cannot be reached"):
        asked("http://trainer.invalid:8000").ask("GET", "/ready")


def test_a_service_that_takes_the_connection_and_says_nothing_is_slow() -> None:
    over = threading.Event()
    with listening(lambda connection: over.wait(10)) as url:
        try:
            with pytest.raises(TooSlow, match="no whole answer to GET /ready within 0 s"):
                asked(url, timeout=0.2).ask("GET", "/ready")
        finally:
            over.set()


def test_a_connection_that_breaks_is_neither_slow_nor_refused() -> None:
    with (
        listening(lambda connection: connection.recv(100)) as url,
        pytest.raises(NoConnection, match="broke the connection"),
    ):
        asked(url).ask("GET", "/ready")


def test_what_is_not_http_is_a_wrong_answer() -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"-ERR unknown command\r\n")

    with listening(speak) as url, pytest.raises(WrongAnswer, match="not in HTTP"):
        asked(url).ask("GET", "/ready")


def test_another_status_is_a_wrong_answer_in_the_services_words(api: Api) -> None:
    api.says((500, {"title": "Internal error", "detail": "this is a fault of the service"}))
    with pytest.raises(WrongAnswer, match="500 where 200 was expected: Internal error: this is a fault") as failure:
        asked(api.url).ask("GET", "/ready")
    assert failure.value.passing


def test_a_redirect_is_not_followed_with_the_token(api: Api) -> None:
    api.says((307, {}))
    with pytest.raises(WrongAnswer, match="307"):
        asked(api.url).ask("GET", "/ready")
    assert [path for _, path, _, _ in api.asked] == ["/ready"]


def test_no_proxy_is_asked(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert asked(api.url).ask("GET", "/ready").status == 200


def test_answers_are_logged_without_the_token_and_repeated_ones_once(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api.says((200, {"echo": f"Bearer {TOKEN}"}))
    found = asked(api.url)
    assert [found.ask("GET", "/ready").body for _ in range(3)] == [{"echo": "Bearer [the token]"}] * 3
    (line,) = caplog.messages
    assert f"the trainer at {api.url}, GET /ready: 200 after" in line
    assert TOKEN not in caplog.text


def test_a_refused_token_is_not_tried_again_and_stays_secret(api: Api, trainer: Trainer) -> None:
    api.says((401, {"title": "Unauthorized", "detail": f"not {TOKEN}"}))
    with pytest.raises(Refused, match="refuses the token") as failure:
        patiently(lambda: trainer.job("j1"), 30)
    assert TOKEN not in str(failure.value)
    assert "global.sensorTrainer.existingSecret" in str(failure.value)
    assert len(api.asked) == 1


def test_who_sends_no_token_is_not_told_that_it_was_refused(api: Api) -> None:
    api.says((403, {"title": "Forbidden"}))
    with pytest.raises(WrongAnswer, match="403 where 200 was expected: Forbidden"):
        HttpService("MLflow", api.url, "global.services.mlflow").ask("GET", "/health")
    with pytest.raises(Refused, match=r"refuses the token \(403\)"):
        asked(api.url).ask("GET", "/ready")


def test_a_service_below_a_path_is_asked_there(api: Api) -> None:
    asked(f"{api.url}/below/").ask("GET", "/ready")
    assert api.asked[0][1] == "/below/ready"


@pytest.mark.parametrize("token", ["", "two words", f"{TOKEN}\n", "tökén"])
def test_a_token_that_no_header_can_hold_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(Refused, match="correct the Secret") as failure:
        HttpService("the trainer", "http://127.0.0.1:9", "x", token=token, credential="s")
    assert not token.strip() or token.strip() not in str(failure.value)


@pytest.mark.parametrize("url", ["", "trainer:8000", "ftp://trainer", "http://"])
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(Refused, match=r"global\.services\.mlflow"):
        HttpService("MLflow", url, "global.services.mlflow")


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(Failure) as failure:
        asked("http://user:hidden@127.0.0.1:9").ask("GET", "/ready")
    assert "hidden" not in str(failure.value)


def test_trouble_that_may_pass_is_waited_for(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.says((503, {"title": "away"}), (429, {}), (200, b'{"cut off": '), (200, {"fine": True}))
    found = asked(api.url)

    def fine() -> Any:
        answer = found.ask("GET", "/ready")
        if not isinstance(answer.body, dict):
            raise found.wrong(answer, "GET /ready", "not JSON")
        return answer.body

    assert patiently(fine, 30) == {"fine": True}
    assert sum("asking again" in line for line in caplog.messages) == 3


def test_a_wrong_answer_that_stays_wrong_is_not_asked_for_again(api: Api) -> None:
    api.says((404, "no such page"))
    with pytest.raises(WrongAnswer, match="404"):
        patiently(lambda: asked(api.url).ask("GET", "/ready"), 30)
    assert len(api.asked) == 1


def test_patience_is_of_all_attempts_together_and_pauses_grow_up_to_the_longest(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []
    monkeypatch.setattr(http, "_SHORTEST_PAUSE", 0.5)
    monkeypatch.setattr(http, "_LONGEST_PAUSE", 15.0)

    def away() -> None:
        attempts.append(clock.now - 1_000)
        raise NoConnection("nothing listens")

    with pytest.raises(NoConnection):
        patiently(away, 60)
    assert clock.pauses == [0.5, 1, 2, 4, 8, 15, 15]
    assert attempts == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 30.5, 45.5], "the next one would come after more than 60 s"


@pytest.mark.parametrize(
    ("status", "passing"),
    [(200, True), (299, True), (300, False), (404, False), (429, True), (499, False), (500, True), (503, True)],
)
def test_which_wrong_answers_may_be_right_in_a_moment(status: int, passing: bool) -> None:
    assert WrongAnswer("wrong", status, None).passing == passing


def test_what_the_trainer_lacks_is_named(api: Api, trainer: Trainer) -> None:
    parts = {"postgresql": "ok", "redis": "no answer within 2 s", "mlflow": "connection refused"}
    api.says((503, {"title": "not ready", "status": 503, **parts}))
    with pytest.raises(WrongAnswer, match="redis: no answer within 2 s; mlflow: connection refused"):
        trainer.check()


def test_a_key_and_the_token_go_with_a_request_to_train(api: Api, trainer: Trainer) -> None:
    api.says((202, job("queued")))
    submitted = trainer.train("the-key", {"minimum_new_readings": 5})
    assert (submitted.job.id, submitted.job.state, submitted.others) == ("j1", "queued", False)
    ((method, path, body, headers),) = api.asked
    assert (method, path, body) == ("POST", "/train", {"minimum_new_readings": 5})
    assert (headers["Idempotency-Key"], headers["Authorization"]) == ("the-key", f"Bearer {TOKEN}")


def test_another_training_under_way_is_followed(api: Api, trainer: Trainer) -> None:
    api.says((409, {"title": "Another job runs", "job_id": "j2"}), (200, {**job("running"), "job_id": "j2"}))
    submitted = trainer.train("the-key", {})
    assert (submitted.job.id, submitted.others) == ("j2", True)
    assert api.asked[-1][:2] == ("GET", "/status/j2")


def test_a_key_that_belongs_to_another_request_is_refused(api: Api, trainer: Trainer) -> None:
    api.says((422, {"title": "The key was used", "detail": "with another request"}))
    with pytest.raises(Refused, match="with another request"):
        trainer.train("the-key", {})


def test_a_job_that_is_not_there_is_refused(api: Api, trainer: Trainer) -> None:
    api.says((404, {"title": "No such job"}))
    with pytest.raises(Refused, match="clear trigger_training"):
        trainer.job("../metrics")
    assert api.asked[0][1] == "/status/..%2Fmetrics"


@pytest.mark.parametrize("body", [b"<html>", [], {"job_id": "j1"}, job("melted")], ids=str)
def test_a_body_that_is_not_a_job_is_a_wrong_answer(api: Api, trainer: Trainer, body: Any) -> None:
    api.says((200, body))
    with pytest.raises(WrongAnswer, match="answered GET /status/j1 wrongly"):
        trainer.job("j1")


def test_readings_that_are_refused_are_named(api: Api, trainer: Trainer) -> None:
    faults = [{"index": 3, "field": "values.f1", "reason": "is not a number"}]
    api.says((422, {"title": "The request is malformed", "errors": faults}))
    with pytest.raises(Refused, match=r"malformed\n- reading 3, values.f1: is not a number"):
        trainer.ingest([{}])


def test_of_many_faults_the_first_five_are_named(api: Api, trainer: Trainer) -> None:
    faults = [{"index": number, "field": "key", "reason": "is missing"} for number in range(6)]
    api.says((422, {"title": "The request is malformed", "errors": faults}))
    with pytest.raises(Refused) as failure:
        trainer.ingest([{}])
    assert "reading 4, " in str(failure.value)
    assert "reading 5, " not in str(failure.value)


def ask_to_train(trainer: Trainer) -> object:
    return trainer.train("the-key", {})


def ask_for_a_job(trainer: Trainer) -> object:
    return trainer.job("j1")


def send_readings(trainer: Trainer) -> object:
    return trainer.ingest([{}])


@pytest.mark.parametrize(
    ("ask", "answer", "passing"),
    [
        (ask_to_train, (409, {"title": "Something else is under way"}), False),
        (ask_to_train, (503, {"title": "Redis is away"}), True),
        (ask_for_a_job, (422, {"title": "That is no id"}), False),
        (ask_for_a_job, (500, {"title": "A fault"}), True),
        (send_readings, (503, {"title": "PostgreSQL is away"}), True),
        (send_readings, (200, {"accepted": 1}), True),
        (send_readings, (200, {"accepted": "many", "duplicates": 0}), True),
        (Trainer.check, (503, {"title": "Not ready"}), True),
        (Trainer.check, (404, {"title": "No such page"}), False),
    ],
)
def test_an_answer_that_says_nothing_of_the_request_is_a_wrong_one(
    api: Api, trainer: Trainer, ask: Callable[[Trainer], object], answer: Reply, passing: bool
) -> None:
    api.says(answer)
    with pytest.raises(WrongAnswer) as wrong:
        ask(trainer)
    assert wrong.value.passing == passing


def test_readings_that_are_too_large_together_are_refused_for_good(api: Api, trainer: Trainer) -> None:
    api.says((413, {"title": "The body is too large"}))
    with pytest.raises(Refused, match="too large"):
        trainer.ingest([{}])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "running"),
        ({"step": "fitting", "progress": 0.4}, "running, step fitting, 40% done"),
        ({"step": "fitting", "attempt": 2}, "running, step fitting, attempt 2"),
    ],
)
def test_how_far_a_job_is_in_words(api: Api, trainer: Trainer, fields: dict[str, Any], said: str) -> None:
    api.says((200, job("running", **fields)))
    assert trainer.job("j1").where == said


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        ("queued", False),
        ("running", False),
        *((name, True) for name in ("succeeded", "skipped", "failed", "cancelled")),
    ],
)
def test_a_job_has_ended_in_each_state_but_two(api: Api, trainer: Trainer, state: str, ended: bool) -> None:
    api.says((200, job(state)))
    assert trainer.job("j1").ended == ended


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"title": "Not ready", "detail": "Redis is away"}, "Not ready: Redis is away"),
        ({"error": "x"}, '{"error": "x"}'),
        ("plain", "plain"),
        ("", "an empty body"),
        (None, "null"),
        ("x" * 501, "x" * 500),
        ({"title": "x" * 501}, "x" * 500),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_words_of_an_answer(body: Any, expected: str) -> None:
    assert words(body) == expected
