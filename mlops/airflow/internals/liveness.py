"""Whether this process of Airflow goes on, for the kubelet: its loop, and not what it stands on.

Scheduler, DAG processor and triggerer beat once in their loop (airflow.jobs.job.Job.heartbeat), which Airflow notes in
its database. Here it is noted in the process itself and told over HTTP: the probe starts no program, takes no
connection, and does not mistake a database that is away, which no restart would cure, for a loop that hangs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

PORT = "MAESTRO_LIVENESS_PORT"  # environment key; without it nobody asks
# Seconds without a beat after which a loop hangs rather than works. It beats every 5 s, and on a node where ten threads
# wait for each core, in a round that schedules hundreds of tasks, every few minutes.
LIMIT = 600.0


class Beats:
    """When the loop last went round."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._last = now, float("-inf")  # has not gone round yet

    def beat(self) -> None:
        self._last = self._now()

    def alive(self) -> bool:
        """Whether it went round within LIMIT."""
        return self._now() - self._last <= LIMIT


def watch() -> None:
    """Notes each beat of this process from now on, and tells of it at the port that the chart names.

    The processes that it starts load the plugin too, and are not asked: they do not find the port.
    """
    port = os.environ.pop(PORT, None)
    if port is None:
        return
    beats = Beats()
    note(beats)
    serve(beats, int(port))


def note(beats: Beats) -> None:
    """Has Airflow's jobs beat here too, before they ask their database."""
    from airflow.jobs.job import Job

    heartbeat = Job.heartbeat

    def noted(self: Job, *args: Any, **kwargs: Any) -> None:
        beats.beat()
        heartbeat(self, *args, **kwargs)

    Job.heartbeat = noted  # type: ignore[method-assign]


def serve(beats: Beats, port: int) -> HTTPServer:
    """Answers 200 to any GET while it beats and 503 while it does not, in a thread that ends with the process."""

    class Answer(BaseHTTPRequestHandler):
        timeout = 10  # seconds for a request, of which there is one at a time

        def do_GET(self) -> None:
            self.send_response(HTTPStatus.OK if beats.alive() else HTTPStatus.SERVICE_UNAVAILABLE)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Says nothing: a process that is forked while this thread holds a lock of logging would wait for it."""

    server = HTTPServer(("", port), Answer)
    threading.Thread(target=server.serve_forever, name="liveness", daemon=True).start()
    return server
