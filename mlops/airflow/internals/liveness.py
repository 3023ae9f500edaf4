"""Whether this process of Airflow goes on, for the kubelet: its loop, and not what it stands on.

Scheduler, DAG processor and triggerer beat once in their loop (airflow.jobs.job.Job.heartbeat), which Airflow notes in
its database; a worker of Celery beats in its loop, which tells the other workers. Here it is noted in the process
itself and told over HTTP: the probe starts no program, takes no connection, and does not mistake a database or a broker
that is away, which no restart would cure, for a loop that hangs.
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

    def rest(self) -> None:
        """It has nothing to go round for until the next beat, and is alive."""
        self._last = float("inf")

    def alive(self) -> bool:
        """Whether it went round within LIMIT, or rests."""
        return self._now() - self._last <= LIMIT


def watch(note: Callable[[Beats], None]) -> None:
    """Notes each beat of this process from now on, and tells of it at the port that the chart names.

    note: note_jobs, or note_worker in a worker of Celery.

    The processes that it starts load the plugin too, and are not asked: they do not find the port.
    """
    port = os.environ.pop(PORT, None)
    if port is None:
        return
    beats = Beats()
    note(beats)
    serve(beats, int(port))


def note_jobs(beats: Beats) -> None:
    """Has Airflow's jobs beat here too, before they ask their database."""
    from airflow.jobs.job import Job

    heartbeat = Job.heartbeat

    def noted(self: Job, *args: Any, **kwargs: Any) -> None:
        beats.beat()
        heartbeat(self, *args, **kwargs)

    Job.heartbeat = noted  # type: ignore[method-assign]


def note_worker(beats: Beats) -> None:
    """Has a worker of Celery beat here too. While it looks for its broker, or ends, it has no loop."""
    from celery import bootsteps, signals

    class Loop(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.consumer.connection:Connection",)

        def start(self, parent: Any) -> None:
            beats.beat()

        def stop(self, parent: Any) -> None:
            beats.rest()

    def add(instance: Any, **_: Any) -> None:
        instance.app.steps["consumer"].add(Loop)

    def beat(**_: Any) -> None:
        beats.beat()

    signals.celeryd_init.connect(add, weak=False)
    signals.heartbeat_sent.connect(beat, weak=False)


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
