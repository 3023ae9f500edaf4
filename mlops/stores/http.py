"""One HTTP request to a service of the platform, and in words what came of it.

Three troubles have three remedies, so they are told apart: no connection (it does not run, or its name is wrong), a
connection that is slow (it is overloaded, or waits itself), and an answer other than the one that was asked for.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from mlops.result import JSON, Failure, Refused
from mlops.retry import error_of

T = TypeVar("T")

_TIMEOUT = 15.0  # seconds; the trainer answers within 10, and then with the name of what it waited for
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds between two requests
_LARGEST = 1 << 20  # bytes of an answer that are read
_SHOWN = 500  # characters of an answer in a message and in the log
_HIDDEN = "[the token]"

log = logging.getLogger(__name__)


class Unanswered(Failure):
    """A service did not answer as it should. passing: whether it may well do so in a moment."""

    passing = True


class NoConnection(Unanswered):
    """Nothing listens there, there is no such host, or the connection broke."""


class TooSlow(Unanswered):
    """There was no connection, or no whole answer, in time."""


class WrongAnswer(Unanswered):
    """Another status than the one asked for, or a body that cannot be read. status, body: those of the answer."""

    def __init__(self, text: str, status: int, body: Any) -> None:
        super().__init__(text)
        self.status = status
        self.body = body
        # An answer of the right status that cannot be read may have been cut off.
        self.passing = status < 300 or status == 429 or status >= 500


class Answer(NamedTuple):
    """body: what the JSON holds, or the text where it is none."""

    status: int
    body: Any


class HttpService:
    """A service by its URL.

    title: what people call it. setting: the value of the chart that names it. token: sent as a bearer token, and shown
    nowhere; credential: the value that names the Secret with it. show: whether answers are shown in the log, which
    those are not that hold a secret, or are many and long.
    """

    def __init__(
        self,
        title: str,
        url: str,
        setting: str,
        *,
        token: str | None = None,
        credential: str = "",
        timeout: float = _TIMEOUT,
        show: bool = True,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(f"the address of {title} is not one of http or https: correct {setting}")
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            # The words of http.client would show the token.
            raise Refused(f"the token of {title} is empty or holds white space: correct the Secret {credential}")
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._place = f"{title} at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._prefix}"
        self._setting, self._token, self._credential, self._timeout = setting, token, credential, timeout
        self._show = show
        self._logged: Any = None

    def ask(
        self,
        method: str,
        path: str,
        body: JSON = None,
        headers: Mapping[str, str] | None = None,
        *,
        expected: int = 200,
    ) -> Answer:
        """The answer, which has the expected status.

        Raises NoConnection, TooSlow or WrongAnswer, and Refused where the token is not taken. No redirect is followed
        and no proxy is asked: the token goes to the service and to nobody else.
        """
        started = time.monotonic()
        status, content = self._exchange(method, path, body, headers or {})
        text = self._without_token(content.decode(errors="replace"))
        self._log(method, path, status, text, time.monotonic() - started)
        answer = Answer(status, _decoded(text))
        if status in (401, 403) and self._token is not None:
            raise Refused(
                f"{self._place} refuses the token ({status}): {words(answer.body)}. Correct the Secret "
                f"{self._credential} and restart the pods that read it"
            )
        if status != expected:
            raise self.wrong(
                answer, f"{method} {path}", f"{status} where {expected} was expected: {words(answer.body)}"
            )
        return answer

    def wrong(self, answer: Answer, request: str, what: str) -> WrongAnswer:
        """What to raise where the answer's body is not what the request asked for."""
        return WrongAnswer(
            f"{self._place} answered {request} wrongly, {what}: look at its log, and whether {self._setting} names "
            "the right service",
            answer.status,
            answer.body,
        )

    def _exchange(self, method: str, path: str, body: JSON, headers: Mapping[str, str]) -> tuple[int, bytes]:
        sent = {"Accept": "application/json, */*;q=0.1", **headers}
        if body is not None:
            sent["Content-Type"] = "application/json"
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        connection = self._connection(self._host, self._port, timeout=self._timeout)
        try:
            self._connect(connection)
            connection.request(method, self._prefix + path, None if body is None else json.dumps(body).encode(), sent)
            answer = connection.getresponse()
            return answer.status, answer.read(_LARGEST)
        except TimeoutError:
            raise TooSlow(
                f"{self._place} is slow: no whole answer to {method} {path} within {self._timeout:.0f} s: look whether "
                "it is overloaded or waits for another service"
            ) from None
        except OSError as error:
            raise NoConnection(
                f"{self._place} broke the connection while it was asked {method} {path} ({error or 'no word'}): it was "
                "restarted, or ended by the load; look at its pods"
            ) from None
        except HTTPException as error:
            raise self.wrong(Answer(502, None), f"{method} {path}", f"not in HTTP: {error!r}") from None
        finally:
            connection.close()

    def _connect(self, connection: HTTPConnection) -> None:
        try:
            connection.connect()
        except ConnectionRefusedError:
            raise NoConnection(
                f"{self._place} refuses the connection: nothing listens there; check that its pods run and that "
                f"{self._setting} names it"
            ) from None
        except TimeoutError:
            raise TooSlow(
                f"{self._place} is slow: no connection within {self._timeout:.0f} s; check that its node answers and "
                "that no NetworkPolicy is in the way"
            ) from None
        except OSError as error:
            raise NoConnection(
                f"{self._place} cannot be reached ({error}): check that {self._setting} names it"
            ) from None

    def _log(self, method: str, path: str, status: int, text: str, seconds: float) -> None:
        """An answer that repeats the one before it, as while a job is waited for, is no news."""
        seen = (method, path, status, text)
        level = logging.DEBUG if seen == self._logged else logging.INFO
        self._logged = seen
        shown = text[:_SHOWN] if self._show else f"{len(text):,} characters"
        log.log(level, "%s, %s %s: %d after %.2f s: %s", self._place, method, path, status, seconds, shown)

    def _without_token(self, text: str) -> str:
        return text.replace(self._token, _HIDDEN) if self._token else text


def patiently(action: Callable[[], T], patience: float) -> T:
    """What the action gives, tried again after ever longer pauses while its trouble may pass, for `patience` seconds.

    An action may so run more than once: it has to be one that a repetition does not change.
    """
    from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_exponential

    retrying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, Unanswered) and error.passing),
        wait=wait_exponential(_SHORTEST_PAUSE, max=_LONGEST_PAUSE),
        stop=stop_before_delay(patience),
        before_sleep=lambda state: log.warning("%s; asking again in %.1f s", error_of(state), state.upcoming_sleep),
        reraise=True,
    )
    return retrying(action)


def words(body: Any) -> str:
    """What an answer says: of problem JSON (RFC 9457) the title and the detail, of all else the beginning."""
    if isinstance(body, dict) and (said := [str(body[name]) for name in ("title", "detail") if body.get(name)]):
        return ": ".join(said)[:_SHOWN]
    return (body if isinstance(body, str) else json.dumps(body, ensure_ascii=False))[:_SHOWN] or "an empty body"


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
