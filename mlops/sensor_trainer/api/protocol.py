"""How long a client has for the head of a request: uvicorn waits for ever, and a connection is a descriptor."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class HeadInTime(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # the one that is installed
    """Closes a connection whose request has not begun in time, the first one and each after it."""

    patience: ClassVar[float] = 10.0  # seconds
    _awaited: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if before is None or before.response_complete:
            self._await_head()
        super().data_received(data)
        if self.cycle is not before:
            self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        """Counts from the first byte on, and not from the last one."""
        if self._awaited is None:
            self._awaited = self.loop.call_later(self.patience, self._close)

    def _forget(self) -> None:
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_LATE)
            self.transport.close()
