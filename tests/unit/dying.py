"""A process that dies between two requests, for tests of what it leaves behind and what a retry makes of that."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import ProtocolError


@contextmanager
def losing(path: str) -> Iterator[None]:
    """Loses the first answer to a request whose path ends so, which was carried out."""
    ask, lost = HTTPConnectionPool._make_request, list[str]()

    def asked(pool: HTTPConnectionPool, connection: Any, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        response = ask(pool, connection, method, url, *arguments, **options)
        if urlsplit(url).path.endswith(path) and not lost:
            lost.append(url)
            raise ProtocolError("the answer was lost")
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPConnectionPool, "_make_request", asked)
        yield
    assert lost, f"nobody asked {path}"


class Died(KeyboardInterrupt):
    """As no `except Exception` takes it for a failure."""


@contextmanager
def dying(after: int | None, look: Callable[[], object]) -> Iterator[list[str]]:
    """Lets MLflow and Kubernetes be written to `after` times, None: as often as is wanted, and then raises Died.

    Several tags in a row are one write. look: called after each write, to see what others see at that moment.
    Yields the paths written to.
    """
    urlopen, written = HTTPConnectionPool.urlopen, list[str]()

    def counted(pool: HTTPConnectionPool, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        response, path = urlopen(pool, method, url, *arguments, **options), urlsplit(url).path
        one_more_tag = path.endswith("/set-tag") and written[-1:] == [path]
        if method in ("GET", "HEAD") or path.endswith("/search") or one_more_tag:
            return response
        written.append(path)
        look()
        if len(written) == after:
            raise Died
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPConnectionPool, "urlopen", counted)
        yield written
