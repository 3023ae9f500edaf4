"""The container's log in the task's log, however its stream is cut: each line once, in order, none lost."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlops.airflow.internals import supervisor
from mlops.airflow.internals.supervisor import Supervisor
from mlops.airflow.pods import api as pod_api
from mlops.airflow.pods import log as pod_log
from mlops.airflow.pods.api import ApiError, PodApi
from mlops.airflow.pods.log import Line, PodLog
from mlops.log_lines import as_json
from tests.dags.conftest import NAMESPACE
from tests.dags.test_trigger import RecordedLog

Cuts = Sequence[tuple[int, Exception | None]]  # after how many bytes a read ends, and whether in order
ERROR = ConnectionResetError()

# Half a character, a line without its end, and no line at all are where a cut hurts.
texts = st.text(st.sampled_from("a é€🙂\t"), max_size=4)
# Nanoseconds to the next line: some runtimes stamp all that they read at once alike; streams are resumed by seconds.
steps = st.sampled_from([0, 0, 1, 400_000_000, 1_000_000_000])
logs = st.lists(st.tuples(steps, texts), max_size=40)
breaks = st.tuples(st.integers(0, 1500), st.just(ERROR))
cuts = breaks | st.tuples(st.integers(0, 1500), st.none())


def stamped(moment: int, text: str) -> bytes:
    """A line as the kubelet gives it; moment: nanoseconds within a minute."""
    second, fraction = divmod(moment, 1_000_000_000)
    return f"2026-01-01T00:00:{second:02}.{fraction:09}Z {text}\n".encode()


class CutLog(PodApi):
    """The log of one container. A read ends at the next cut of its kind; one that follows it stays open after them."""

    def __init__(self, lines: list[bytes], following: Cuts, finishing: Cuts, size: int) -> None:
        super().__init__("none", NAMESPACE)
        self.lines = lines
        self.cuts = {True: iter(following), False: iter(finishing)}
        self.size = size  # bytes that come together
        self.followed = asyncio.Event()

    async def log(  # type: ignore[override]
        self, *_: object, follow: bool, since: str | None, **__: object
    ) -> AsyncIterator[list[bytes]]:
        content = b"".join(line for line in self.lines if since is None or line[:19].decode() >= since[:19])
        cut, error = next(self.cuts[follow], (len(content), None))
        shown = content[:cut]

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(shown), self.size):
                yield shown[start : start + self.size]

        response: Any = SimpleNamespace(content=SimpleNamespace(iter_any=chunks))
        async for lines in pod_api._lines(response):
            yield lines
        if error is not None:
            raise error
        if follow and shown == content:
            self.followed.set()
            await asyncio.Event().wait()


@pytest.fixture(scope="module", autouse=True)
def in_no_time() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (pod_log, pod_api):
            patch.setattr(module, "_SHORTEST_PAUSE", 0.0)
        patch.setattr(pod_log, "_SETTLING", 0.0)
        yield


def copied(lines: list[bytes], following: Cuts = (), finishing: Cuts = (), size: int = 4096) -> list[str]:
    """What comes of a log that is followed, and read to its end once its container has ended."""

    async def story() -> list[str]:
        said, api = RecordedLog(), CutLog(lines, following, finishing, size)
        log = PodLog(api, "pod", said, Supervisor(None))
        log.follow()
        await asyncio.wait_for(api.followed.wait(), 240)
        assert await log.finish() is None
        return said.lines

    return asyncio.run(story())


@given(logs, st.lists(cuts, max_size=4), st.lists(breaks, max_size=2), st.integers(1, 100), st.booleans())
@example([(0, "a"), (0, "b"), (0, "b")], [(34, ERROR), (68, None)], [], 100, True)  # between lines of one time
@example([(0, "é")], [(32, None)], [(32, ERROR)], 1, False)  # in the middle of a character
def test_a_log_that_is_cut_anywhere_is_written_once_and_whole(
    log: list[tuple[int, str]], following: Cuts, finishing: Cuts, size: int, ended: bool
) -> None:
    moments = accumulate(step for step, _ in log)
    lines = [stamped(moment, text) for moment, (_, text) in zip(moments, log, strict=True)]
    if lines and not ended:
        lines[-1] = lines[-1].removesuffix(b"\n")
    assert copied(lines, following, finishing, size) == [text for _, text in log]


def test_lines_that_are_json_are_shown_as_text() -> None:
    said = as_json("2026-01-01T00:00:00.000Z", "INFO", "mlops.cli", "done ü", {"dag_id": "d"})
    shown = "2026-01-01T00:00:00.000Z INFO mlops.cli: done ü"
    assert copied([stamped(1, said), stamped(2, "a"), stamped(3, said).removesuffix(b"\n")]) == [shown, "a", shown]


def test_lines_of_two_streams_that_crossed_are_written_once() -> None:
    lines = [stamped(1, "out"), stamped(3, "error"), stamped(2, "out again")]
    assert copied(lines) == ["out", "error", "out again"]


def test_what_the_kubelet_says_of_a_log_that_it_cannot_read_is_told() -> None:
    lines = [stamped(1, "a"), b"failed to watch file: too many open files\n"]
    assert copied(lines) == ["a", "failed to watch file: too many open files"]


@pytest.mark.parametrize("size", [4095, 4096, 4097, 3 * 4096 + 1])
def test_the_last_line_is_written_however_many_bytes_stand_before_it(size: int) -> None:
    one = stamped(0, "x")
    lines = [*(stamped(number, "x") for number in range(size // len(one))), stamped(10**9, "y" * (size % len(one)))]
    assert copied(lines)[-1] == "y" * (size % len(one))


def test_a_reader_that_is_stuck_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_PATIENCE", 0.1)

    async def story() -> None:
        writer, reader = socket.socketpair()
        with writer, reader:
            writer.send(b"unread")
            stuck = Supervisor(writer.fileno())
            await asyncio.wait_for(stuck.drained(), 240)
            await asyncio.wait_for(stuck.ready(), 240)
            assert stuck._draining == 0, "the next one waits for its own lines only"

    asyncio.run(story())


@pytest.mark.parametrize(
    ("error", "again"),
    [
        *((ApiError(status, b"{}"), True) for status in (401, 403, 429, 500, 503)),
        *((ApiError(status, b"{}"), False) for status in (400, 404, 409, 410, 422)),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (ValueError(), False),
    ],
    ids=repr,
)
def test_a_call_is_repeated_while_that_may_help_for_its_patience_all_together(error: Exception, again: bool) -> None:
    """A patience that begins anew with each attempt never ends."""
    attempts = 0

    async def call() -> None:
        nonlocal attempts
        attempts += 1
        raise error

    async def story() -> None:
        with pytest.raises(type(error)) as raised:
            await asyncio.wait_for(PodApi("none", NAMESPACE).patiently(call, 0.1), 240)
        assert raised.value is error

    asyncio.run(story())
    assert (attempts > 1) == again


def test_a_call_that_is_cancelled_is_not_repeated() -> None:
    attempts = 0

    async def story() -> None:
        begun = asyncio.Event()

        async def call() -> None:
            nonlocal attempts
            attempts += 1
            begun.set()
            await asyncio.Event().wait()

        asking = asyncio.create_task(PodApi("none", NAMESPACE).patiently(call, 30))
        await begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asking, 240)

    asyncio.run(story())
    assert attempts == 1


def test_a_refusal_is_told_in_the_servers_words() -> None:
    assert (
        str(ApiError(403, b'{"message": "pods is forbidden"}')) == "the Kubernetes API answered 403: pods is forbidden"
    )
    for body in (b"no JSON", b"[]", b'{"code": 500}'):
        assert str(ApiError(500, body)) == f"the Kubernetes API answered 500: {body.decode()}"


def test_a_stream_that_breaks_again_and_again_is_opened_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    class Broken:
        async def log(self, *_: object, **__: object) -> AsyncIterator[list[bytes]]:
            raise ConnectionResetError
            yield []

        async def passing(self, error: Exception) -> bool:
            return True

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 6:
            raise asyncio.CancelledError

    monkeypatch.setattr(pod_log, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(pod_log, "_SHORTEST_PAUSE", 1.0)
    monkeypatch.setattr(pod_log, "_LONGEST_PAUSE", 10.0)
    following = PodLog(Broken(), "pod", None, Supervisor(None))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(following._follow())
    assert pauses == [1, 2, 4, 8, 10, 10]


def test_nobody_follows_a_log_that_is_read_to_its_end() -> None:
    """Two that read it would write lines twice."""

    class Endless:
        async def log(self, *_: object, follow: bool, since: str | None) -> AsyncIterator[list[bytes]]:
            if follow:
                await asyncio.Event().wait()
            yield []

        async def patiently(self, call: Callable[[], Awaitable[object]], _: float) -> object:
            return await call()

    async def story() -> None:
        log = PodLog(Endless(), "pod", RecordedLog(), Supervisor(None))
        log.follow()
        await asyncio.sleep(0)
        assert await log.finish() is None
        assert log._following is not None
        assert log._following.done()

    asyncio.run(story())


@pytest.mark.parametrize(("lines", "events"), [(1, 1), (20, 20), (21, 1)])
def test_a_few_lines_are_an_event_each_and_many_at_once_are_joined(lines: int, events: int) -> None:
    found = list(pod_log._events([Line.of(stamped(number, "line")) for number in range(lines)]))
    assert (len(found), sum(map(len, found))) == (events, lines)
