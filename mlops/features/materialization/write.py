"""From a view's files into the online store."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from mlops.features.materialization.encode import encode, fields
from mlops.features.materialization.newest import pieces
from mlops.features.materialization.offline import Window, read
from mlops.features.materialization.view import MaterializedView
from mlops.stores.online_store import OnlineStore, Written

_ENCODED = 4_096  # rows encoded at once, while Redis works off those before


def write(paths: list[Path], view: MaterializedView, window: Window, online: OnlineStore) -> tuple[int, Written]:
    """Rows of the window in the files, and entities set. Holds a bounded number of rows at a time."""
    rows = 0

    def counted() -> Iterator[pa.Table]:
        nonlocal rows
        for table in read(paths, view, window):
            rows += table.num_rows
            yield table

    def encoded() -> Iterator[tuple[pa.Array, list[pa.Array]]]:
        for piece in pieces(counted(), view):
            for start in range(0, piece.num_rows, _ENCODED):
                part = encode(piece.slice(start, _ENCODED), view)
                yield part.keys, [part.stamps, *part.columns]

    written = online.put_newer(fields(view), encoded())
    return rows, written
