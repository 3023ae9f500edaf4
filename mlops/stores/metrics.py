"""Numbers for Prometheus: one StatsD packet each, to the exporter that takes Airflow's as well.

A pod ends before Prometheus would find it, so it sends its numbers instead of waiting to be asked for them. They go by
UDP: a packet that is lost, or an exporter that is away, costs a number and nothing else.
"""

from __future__ import annotations

import logging
import re
import socket
from math import isfinite
from typing import Self

from mlops.config import StatsdSettings

_PREFIX = "maestro"
# What ends a name, a tag or a value in a packet must not stand inside one.
_RESERVED = re.compile(r"[^A-Za-z0-9_./-]+")

log = logging.getLogger(__name__)


class Statsd:
    """Sends counters and gauges, named `maestro.<name>`, with tags that become Prometheus labels. Raises nothing."""

    def __init__(self, settings: StatsdSettings) -> None:
        self._address = f"{settings.host}:{settings.port}"
        self._socket = _connected(settings.host, settings.port)
        self._warned = False

    @classmethod
    def from_environment(cls) -> Self:
        return cls(StatsdSettings.from_environment())

    def count(self, name: str, value: int = 1, **tags: object) -> None:
        """Adds `value` to the counter."""
        self._send(f"{_series(name, tags)}:{value}|c")

    def gauge(self, name: str, value: float, **tags: object) -> None:
        """Sets the gauge; a number that is not finite is left out."""
        if not isfinite(value):
            return
        series = _series(name, tags)
        # A sign means "change by" to StatsD, so a negative value is reached by way of zero.
        zero = f"{series}:0|g\n" if value < 0 else ""
        self._send(f"{zero}{series}:{value:.10g}|g")

    def _send(self, packet: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(packet.encode())
        except OSError as error:  # such as the refusal of an earlier packet
            if not self._warned:
                log.warning("metrics may be lost on the way to %s: %s", self._address, error)
            self._warned = True


def _connected(host: str, port: str) -> socket.socket | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        connected = socket.socket(family, kind, protocol)
        connected.connect(address)
        connected.setblocking(False)
    except (OSError, UnicodeError) as error:
        log.warning(
            "no metrics are sent, %s:%s cannot be reached (%s): correct global.services.statsd", host, port, error
        )
        return None
    return connected


def _series(name: str, tags: dict[str, object]) -> str:
    """The name and its tags in the style of InfluxDB, which is what the exporter is told to read."""
    listed = "".join(f",{key}={_RESERVED.sub('_', str(value)) or 'none'}" for key, value in sorted(tags.items()))
    return f"{_PREFIX}.{name}{listed}"
