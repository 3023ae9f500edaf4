"""What stands before Airflow's server, around a small application in place of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from sqlalchemy.exc import DataError
from starlette.testclient import TestClient
from starlette.types import Message

from mlops.airflow.guard import middlewares
from mlops.airflow.guard.bodies import DEPTH, VALUES, Bodies
from mlops.airflow.guard.crowd import Crowd
from mlops.airflow.guard.headers import POLICY, Headers
from mlops.airflow.guard.logins import FORGOTTEN, Logins
from mlops.airflow.guard.passwords import Passwords

RUNS = "/api/v2/dags/d/dagRuns"
RIGHT = {"username": "ada", "password": "right and long"}
WRONG = {"username": "ada", "password": "wrong"}


class Now:
    """A clock that goes on when it is told to."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def airflow(now: Now) -> TestClient:
    return TestClient(guarded(now), raise_server_exceptions=False, follow_redirects=False)


def guarded(now: Now, body: int = 50_000) -> FastAPI:
    """The guard around a server that says what it was asked, with the limits of the chart but for short bodies."""
    app = FastAPI()

    @app.post("/auth/token")
    def token(sent: dict[str, Any]) -> JSONResponse:
        return JSONResponse({}, 201 if sent == RIGHT else 401)

    @app.post("/auth/login/")
    async def login(request: Request) -> RedirectResponse:
        sent = await request.form()
        right = {name: sent.getlist(name)[0] for name in RIGHT} == RIGHT  # the first, as Airflow's forms take it
        return RedirectResponse("/" if right else "/auth/login/?next=", 302)

    @app.get("/huge")
    def huge() -> None:
        raise DataError("SELECT", {}, Exception("integer out of range"))

    @app.get("/framed")
    def framed() -> JSONResponse:
        return JSONResponse({}, headers={"Content-Security-Policy": "sandbox"})

    @app.api_route("/{path:path}", methods=["GET", "POST", "PATCH"])
    async def anything(request: Request) -> JSONResponse:
        return JSONResponse({"bytes": len(await request.body())})

    app.add_middleware(Passwords, minimum=12)
    app.add_middleware(Logins, failures=3, pause=60, now=now)
    app.add_middleware(Bodies, conf=20_000, body=body)
    app.add_middleware(Headers)
    return app


def run_with(conf: Any) -> bytes:
    return json.dumps({"conf": conf}).encode()


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else 1


def test_a_body_reaches_the_application_as_it_was_sent(airflow: TestClient) -> None:
    body = run_with({"dataset": "shuttle", "list": list(range(100)), "text": "ü \ud83d\ude00"})
    assert airflow.post(RUNS, content=body).json() == {"bytes": len(body)}
    assert airflow.post("/api/v2/connections", content=b"no json").json() == {"bytes": 7}
    assert airflow.post("/execution/xcoms", content=b"x" * 60_000).json() == {"bytes": 60_000}


@pytest.mark.parametrize(
    ("path", "size"),
    [(RUNS, 20_001), (f"{RUNS}/list", 20_001), ("/api/v2/backfills", 20_001), ("/api/v2/pools", 50_001)],
)
def test_a_body_that_is_too_large_is_refused_however_it_is_sent(airflow: TestClient, path: str, size: int) -> None:
    assert airflow.post(path, content=b" " * (size - 1)).status_code == 200
    answer = airflow.post(path, content=b" " * size)
    assert answer.status_code == 413
    assert f"{size - 1} bytes" in answer.json()["detail"]
    answer = airflow.post(path, content=(b" " * 1000 for _ in range(51)))
    assert answer.status_code == 413, "nothing announced"
    assert answer.elapsed.total_seconds() < 20, "nothing more is waited for"


def test_what_is_too_large_is_taken_in_before_it_is_refused() -> None:
    """Else the server resets the connection, with which `kubectl port-forward` ends."""
    left = 100
    answers = []

    async def receive() -> Message:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": b" " * 1000, "more_body": left > 0}

    async def send(message: Message) -> None:
        answers.append(message.get("status"))

    headers = [(b"content-length", b"100000")]
    scope = {"type": "http", "method": "POST", "path": RUNS, "query_string": b"", "headers": headers}
    asyncio.run(Bodies(FastAPI(), conf=20_000, body=50_000)(scope, receive, send))
    assert (left, answers[0]) == (0, 413)


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({str(n): n for n in range(VALUES)}, "values"),
        (list(range(VALUES + 1)), "values"),
        (nested(DEPTH + 1), "levels"),
        ("a\0b", "NUL"),
        ({"\ud800": 1}, "surrogate"),
        ({"a": float("inf")}, "infinite"),
    ],
    ids=["keys", "items", "levels", "nul", "surrogate", "infinite"],
)
def test_a_conf_that_is_too_much_is_refused_with_what_to_do(airflow: TestClient, conf: Any, words: str) -> None:
    answer = airflow.post(RUNS, content=run_with(conf))
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_json_that_ends_a_parser_is_refused(airflow: TestClient) -> None:
    assert airflow.post(RUNS, content=b"[" * 10_000 + b"]" * 10_000).status_code == 422


def test_what_no_database_stores_is_refused_before_one_is_asked(airflow: TestClient) -> None:
    assert airflow.get("/api/v2/dags/a%00b").status_code == 400
    assert airflow.get("/api/v2/dags?dag_id_pattern=%00").status_code == 400
    assert airflow.post("/api/v2/variables", content=json.dumps({"key": "\0"})).status_code == 422
    answer = airflow.get("/huge")
    assert (answer.status_code, "out of range" in answer.text) == (422, True)


@pytest.mark.parametrize("form", [False, True], ids=["token", "page"])
def test_after_wrong_logins_the_next_is_not_looked_at_for_a_while(airflow: TestClient, now: Now, form: bool) -> None:
    def login(fields: dict[str, str]) -> int:
        path, sent = ("/auth/login/", {"data": fields}) if form else ("/auth/token", {"json": fields})
        return airflow.post(path, **sent).status_code

    wrong, right = (302, 302) if form else (401, 201)
    assert [login(WRONG) for _ in range(4)] == [wrong] * 3 + [429]
    assert login(RIGHT) == 429, "the right one cannot be told from a guess"
    assert login({**RIGHT, "username": "bob"}) == wrong, "another name"
    now.seconds = 61
    assert login(WRONG) == wrong
    now.seconds = 61 + 61
    assert login(RIGHT) == 429, "the pause is twice as long"
    now.seconds = 61 + 121
    assert login(RIGHT) == right
    assert [login(WRONG) for _ in range(3)] == [wrong] * 3, "forgotten"


def test_what_is_no_login_counts_as_none(airflow: TestClient) -> None:
    for _ in range(5):
        assert airflow.post("/auth/token", content=b"[]").status_code == 422
    assert airflow.post("/auth/token", json=RIGHT).status_code == 201


FORM = "application/x-www-form-urlencoded"
OTHER_READINGS = [
    ({"Content-Type": FORM}, b"username=ada&username=%d&password=wrong"),
    ({"Content-Type": f"{FORM}; x=json"}, b"username=ada&password=wrong&x=%d"),
    (
        {"Content-Type": "multipart/form-data; boundary=b"},
        (
            b'--b\r\nContent-Disposition: form-data; name="username"; filename="%d"\r\n\r\nfile\r\n'
            b'--b\r\nContent-Disposition: form-data; name="username"\r\n\r\nada\r\n'
            b'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\nwrong\r\n--b--\r\n'
        ),
    ),
]


@pytest.mark.parametrize(("headers", "content"), OTHER_READINGS, ids=["twice", "type", "file"])
def test_a_login_counts_for_the_name_that_the_page_reads(
    airflow: TestClient, headers: dict[str, str], content: bytes
) -> None:
    answers = [airflow.post("/auth/login/", content=content % n, headers=headers).status_code for n in range(4)]
    assert answers == [302] * 3 + [429]
    assert airflow.post("/auth/token", json=RIGHT).status_code == 429


@pytest.mark.parametrize("path", ["/auth/login/", "/auth/fab/v1/users"])
def test_what_another_reader_could_read_otherwise_is_refused(airflow: TestClient, path: str) -> None:
    two = [("Content-Type", "application/json"), ("Content-Type", FORM)]
    for headers, content in (
        (two, b"username=ada&password=x"),
        ([("Content-Type", "text/plain; json")], b"username=ada&password=x"),
        ([("Content-Type", FORM), ("Content-Type", "application/json")], b'{"username": "ada", "password": "x"}'),
        ([("Content-Type", "application/json")], b"username=ada&password=x"),
        ([("Content-Type", "multipart/form-data")], b"username=ada&password=x"),
    ):
        answer = airflow.post(path, content=content, headers=headers)
        assert (answer.status_code, "JSON" in answer.json()["detail"]) == (422, True), headers


def test_wrong_logins_at_once_are_counted_as_one_after_the_other(now: Now) -> None:
    async def answers(fields: dict[str, str]) -> list[int]:
        transport = httpx.ASGITransport(guarded(now))
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            sent = [client.post("/auth/token", json=fields) for _ in range(20)]
            return sorted(answer.status_code for answer in await asyncio.gather(*sent))

    assert asyncio.run(answers(WRONG)) == [401] * 3 + [429] * 17
    assert asyncio.run(answers(RIGHT)) == [201] * 20


def test_wrong_logins_are_forgotten_a_day_after_the_last(airflow: TestClient, now: Now) -> None:
    for _ in range(3):
        airflow.post("/auth/token", json=WRONG)
    now.seconds = FORGOTTEN + 1
    assert [airflow.post("/auth/token", json=WRONG).status_code for _ in range(4)] == [401] * 3 + [429]


@pytest.mark.parametrize("headers", [{}, {"Content-Type": f"{FORM}; x=json"}], ids=["form", "type"])
def test_of_a_password_that_is_set_twice_the_one_that_counts_is_looked_at(
    airflow: TestClient, headers: dict[str, str]
) -> None:
    def put(content: str) -> int:
        sent = {"Content-Type": FORM, **headers}
        return airflow.post("/auth/users/add", content=content, headers=sent).status_code

    assert (put("password=short&password=long-and-longer"), put("password=long-and-longer")) == (422, 200)


@pytest.mark.parametrize("form", ["json", "data", "files"])
def test_a_short_password_is_refused_wherever_one_is_set(airflow: TestClient, form: str) -> None:
    def put(password: str) -> int:
        fields: dict[str, Any] = {"username": "bob", "password": password}
        if form == "files":
            fields = {name: (None, value) for name, value in fields.items()}
        return airflow.post("/auth/fab/v1/users", **{form: fields}).status_code

    assert (put("x"), put("x" * 11), put("x" * 12)) == (422, 422, 200)


def test_as_much_is_taken_in_as_values_allow_where_people_log_in_too(now: Now) -> None:
    client = TestClient(guarded(now, body=3 << 20), follow_redirects=False)
    filled = {"content": json.dumps(RIGHT) + " " * (2 << 20), "headers": {"Content-Type": "application/json"}}
    assert client.post("/auth/token", **filled).status_code == 201
    assert client.post("/auth/fab/v1/users", **filled).status_code == 200


def test_pages_say_what_a_browser_may_do_with_them(airflow: TestClient) -> None:
    for path in ("/", "/api/v2/dags/a%00b"):
        headers = airflow.get(path).headers
        assert headers["Content-Security-Policy"] == POLICY
        assert (headers["X-Frame-Options"], headers["X-Content-Type-Options"]) == ("SAMEORIGIN", "nosniff")
    assert airflow.get("/framed").headers["Content-Security-Policy"] == "sandbox", "a page's own"


def test_airflow_is_given_each_middleware_with_what_it_takes() -> None:
    app = FastAPI()
    for each in middlewares():
        app.add_middleware(each["middleware"], **each["kwargs"])
    assert TestClient(app).get("/nothing").status_code == 404


class Busy:
    """A server whose requests end when they are let go, by kind."""

    def __init__(self) -> None:
        self.inside: dict[str, int] = {}
        self.open = asyncio.Event()
        self.app = FastAPI()

        @self.app.get("/{kind}/{path:path}")
        async def held(kind: str, path: str) -> Any:
            if path == "log":
                return StreamingResponse(self._log())
            self.inside[kind] = self.inside.get(kind, 0) + 1
            await self.open.wait()
            return {}

    async def _log(self) -> AsyncIterator[bytes]:
        yield b"begun"
        await self.open.wait()

    async def inside_are(self, **expected: int) -> None:
        async with asyncio.timeout(10):
            while self.inside != expected:
                await asyncio.sleep(0)


def test_a_crowd_waits_for_its_turn_and_holds_up_neither_tasks_nor_probes() -> None:
    async def scenario() -> list[int]:
        busy = Busy()
        guarded = Crowd(busy.app, connections=12)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://airflow") as client:
            people = [asyncio.create_task(client.get("/api/v2/dags")) for _ in range(100)]
            tasks = [asyncio.create_task(client.get("/execution/beat")) for _ in range(2)]
            await busy.inside_are(api=3, execution=2)
            people.append(asyncio.create_task(client.get("/api/v2/version")))
            await busy.inside_are(api=4, execution=2)
            busy.open.set()
            return [answer.status_code for answer in await asyncio.gather(*people, *tasks)]

    assert asyncio.run(scenario()) == [200] * 103


def test_who_waits_too_long_is_told_when_to_come_again() -> None:
    async def scenario() -> tuple[int, str, int]:
        busy = Busy()
        guarded = Crowd(busy.app, connections=4, patience=0.2)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://airflow") as client:
            first = asyncio.create_task(client.get("/api/one"))
            await busy.inside_are(api=1)
            late = await client.get("/api/two")
            busy.open.set()
            return late.status_code, late.headers["Retry-After"], (await first).status_code

    assert asyncio.run(scenario()) == (503, "10", 200)


def test_a_log_that_is_followed_holds_no_turn() -> None:
    async def scenario() -> int:
        busy = Busy()
        guarded = Crowd(busy.app, connections=4)
        begun = asyncio.Event()

        async def follow() -> None:
            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    begun.set()

            await guarded({**SCOPE, "path": "/api/log", "raw_path": b"/api/log"}, busy.open.wait, send)

        following = asyncio.create_task(follow())
        await asyncio.wait_for(begun.wait(), 10)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://airflow") as client:
            other = asyncio.create_task(client.get("/api/one"))
            await busy.inside_are(api=1)
            busy.open.set()
            following.cancel()
            return (await other).status_code

    assert asyncio.run(scenario()) == 200


SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "headers": [],
    "query_string": b"",
    "scheme": "http",
    "server": ("airflow", 80),
    "client": ("127.0.0.1", 1),
}
