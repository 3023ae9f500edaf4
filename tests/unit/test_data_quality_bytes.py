"""What is read of a long history to judge its last day, counted on the wire."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from mlops import datasets
from mlops.data_quality.window import latest
from mlops.datasets.declaration import EVENT_TIME
from mlops.stores.object_store import ObjectStore

SHUTTLE = datasets.get("shuttle")
ROWS = 3 * 365 * 1440  # a row a minute
NOW = datetime(2026, 6, 1, tzinfo=UTC)


class Wire:
    """Forwards connections to an address, and counts what comes back."""

    def __init__(self, host: str, port: int) -> None:
        self.received = 0
        self._target = (host, port)
        self.listening = socket.create_server(("127.0.0.1", 0))

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            for source, sink, counted in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._copy, args=(source, sink, counted), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        try:
            while part := source.recv(1 << 16):
                if counted:
                    self.received += len(part)
                sink.sendall(part)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one of the two has gone


@contextmanager
def counted(endpoint: str) -> Iterator[tuple[str, Wire]]:
    """Another address of the store, and what is counted there."""
    host, port = endpoint.removeprefix("http://").split(":")
    wire = Wire(host, int(port))
    threading.Thread(target=wire.serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{wire.listening.getsockname()[1]}", wire
    finally:
        wire.listening.close()


def test_to_judge_the_last_day_of_three_years_one_row_group_is_read_and_the_window_once(platform):
    """A row group is 131,072 rows, 91 of these days: of the rest not even the times are read."""
    times = pl.Series(np.arange(1 - ROWS, 1)) * timedelta(minutes=1) + NOW.replace(tzinfo=None)
    noise = np.random.default_rng(0)
    columns = {EVENT_TIME: times, **{f"f{number}": noise.normal(size=ROWS) for number in range(12)}}
    table = pl.DataFrame(columns).with_columns(pl.col(EVENT_TIME).dt.replace_time_zone("UTC"))
    platform.data.write("history.parquet", table.lazy())
    platform.data.write("unordered.parquet", table.sample(fraction=1, shuffle=True, seed=1).lazy())
    size = platform.data._client.head_object(Bucket=platform.data.bucket, Key="history.parquet")["ContentLength"]
    with counted(platform.s3.endpoint) as (address, wire):
        store = ObjectStore(replace(platform.s3, endpoint=address), platform.data.bucket)
        window = latest(store.scan("history.parquet"), SHUTTLE, hours=24, fraction=0.2, now=NOW)
        store.write("window.parquet", window.rows)
        to_take, wire.received = wire.received, 0
        assert store.scan("window.parquet").collect().height == 1440
        to_judge, wire.received = wire.received, 0
        latest(store.scan("unordered.parquet"), SHUTTLE, hours=24, fraction=0.2, now=NOW).rows.collect()
        unpruned = wire.received
    # The last group has 3,936 rows, in which the day lies.
    assert to_take < size / ROWS * 3936 * 2
    assert to_judge < size / ROWS * 1440 * 3, "the day, and what the table says of itself"
    assert unpruned > size, "where the day may lie in each group, each is read"
