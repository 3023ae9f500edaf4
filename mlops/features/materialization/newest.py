"""From record batches to each entity's newest row, in memory that does not grow with the number of rows."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops.features.materialization.view import MaterializedView

# Rows held at once. More than the platform's sets have entities, so that each entity is mostly written once; at 20
# features it is 20 MB.
LIMIT = 131_072


def pieces(batches: Iterable[pa.Table], view: MaterializedView, limit: int = LIMIT) -> Iterator[pa.Table]:
    """Tables in which each entity has one row, its newest of those that were held together.

    An entity comes again in a later piece where there are more entities than fit; whoever takes the pieces keeps the
    newer one. Holds at most `limit` rows and one batch.
    """
    held: list[pa.Table] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows < limit:
            continue
        table = newest(pa.concat_tables(held), view)
        held, rows = [table], table.num_rows
        if rows > limit // 2:  # otherwise nearly every batch would be compacted anew
            yield table
            held, rows = [], 0
    if rows:
        yield newest(pa.concat_tables(held), view)


def newest(table: pa.Table, view: MaterializedView) -> pa.Table:
    """One row an entity, in one chunk: the one of the latest event, of one event the row written last, of equals the
    first."""
    table = table.combine_chunks()
    codes = _codes(table, view)
    # From the last row to the first: the sort keeps the order of equals, and the last of an entity is taken.
    backwards = np.arange(len(codes))[::-1]
    order = backwards[np.lexsort([column[backwards] for column in (*reversed(times(table, view)), codes)])]
    last = np.append(np.flatnonzero(np.diff(codes[order])), len(order) - 1) if len(order) else order
    return table.take(pa.array(np.sort(order[last]))).combine_chunks()


def times(table: pa.Table, view: MaterializedView) -> list[np.ndarray]:
    """The columns of time as nanoseconds since 1970, UTC: that of the event, and that of writing where there is one."""
    return [table.column(name).cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy() for name in view.times]


def _codes(table: pa.Table, view: MaterializedView) -> np.ndarray:
    """A number for each row that two rows share where they are of one entity."""
    codes = np.zeros(table.num_rows, np.int64)
    for name in view.keys:
        _, each = np.unique(codes, return_inverse=True)
        values = pc.dictionary_encode(table.column(name)).combine_chunks()
        dictionary = values.chunk(0) if isinstance(values, pa.ChunkedArray) and values.num_chunks else values
        if not table.num_rows:
            return codes
        codes = each * (len(dictionary.dictionary) + 1) + dictionary.indices.to_numpy()
    return codes
