"""Whether what is served of a sample of entities is what the offline store has."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mlops.features.materialization.view import Field, MaterializedView

_NAMED = 3  # wrong entities that a summary names
_MILLISECOND = 1_000_000  # nanoseconds; Feast hands event times over as floating point numbers of seconds


@dataclass(frozen=True)
class OnlineComparison:
    """counts: of "equal", "newer", "older", "missing" and "different" entities, and only the first two are right: a
    later run may have been faster. wrong: what is wrong with each other one, in words. newest: the latest event served.
    """

    counts: Mapping[str, int]
    wrong: Sequence[str]
    null_share: float
    newest: datetime | None

    @property
    def summary(self) -> str:
        """The counts and the first entities that are wrong."""
        counted = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        rest = len(self.wrong) - _NAMED
        return f"{counted}: {'; '.join(self.wrong[:_NAMED])}" + (f"; and {rest} more" if rest > 0 else "")


def sample(batches: Iterable[pa.Table], view: MaterializedView, size: int, seed: int) -> pd.DataFrame:
    """At most `size` entities, each as likely as any other however many rows it has: those of the smallest hashes.

    Holds one batch and the sample.
    """
    chosen = pd.DataFrame(columns=view.keys)
    salt = f"{seed:016d}"
    for batch in batches:
        keys = batch.select(view.keys).to_pandas().drop_duplicates()
        hashes = pd.util.hash_pandas_object(keys, index=False, hash_key=salt[:16])
        keys = (
            pd.concat([chosen, keys.assign(_hash=hashes)], ignore_index=True)
            if len(chosen)
            else keys.assign(_hash=hashes)
        )
        chosen = keys.drop_duplicates(view.keys).nsmallest(size, "_hash")
    return chosen[view.keys].reset_index(drop=True)


def expected(batches: Iterable[pa.Table], view: MaterializedView, entities: pd.DataFrame) -> pa.Table:
    """The newest row of each of the entities, in their order."""
    found = []
    for batch in batches:
        keys = batch.select(view.keys).to_pandas()
        rows = keys.assign(_row=range(len(keys))).merge(entities, on=view.keys)["_row"]
        found.append(batch.take(pa.array(np.sort(rows.to_numpy(np.int64)))))
    table = pa.concat_tables(found).combine_chunks()
    keys = table.select([*view.keys, *view.times]).to_pandas().reset_index(names="_row")
    # Of equals the first, as in writing: sorting by the row as well makes that the last.
    latest = keys.sort_values([*view.times, "_row"], ascending=[True] * len(view.times) + [False])
    rows = entities.merge(latest.drop_duplicates(view.keys, keep="last"), on=view.keys, how="left")["_row"]
    return table.take(pa.array(rows.to_numpy(np.int64)))


def compare(
    view: MaterializedView, offline: pa.Table, values: Mapping[str, Sequence[Any]], moments: Sequence[int]
) -> OnlineComparison:
    """What is served beside what it should be.

    offline: a row an entity. values: for each feature what is served, in the same order, None for null. moments: the
    event times served, in nanoseconds since 1970; 0 where nothing is.
    """
    names = [field.name for field in view.features]
    should = {field.name: _plain(offline.column(field.name), field) for field in view.features}
    times = offline.column(view.timestamp).cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_pylist()
    keys = offline.select(view.keys).to_pylist()
    counts, wrong = Counter[str](), []
    for row, (moment, time) in enumerate(zip(moments, times, strict=True)):
        differing = [name for name in names if not _same(values[name][row], should[name][row])]
        state = _state(moment, time, bool(differing))
        counts[state] += 1
        if state in ("equal", "newer"):
            continue
        entity = ", ".join(f"{name}={value}" for name, value in keys[row].items())
        detail = ""
        if state == "different":
            detail = f" in {differing[0]}: {values[differing[0]][row]!r}, not {should[differing[0]][row]!r}"
        wrong.append(f"{entity} {state}{detail}")
    nulls = sum(value is None for name in names for value in values[name])
    return OnlineComparison(
        counts=dict(sorted(counts.items())),
        wrong=wrong,
        null_share=nulls / max(1, len(names) * len(moments)),
        newest=datetime.fromtimestamp(max(moments) / 1e9, UTC) if any(moments) else None,
    )


def _state(moment: int, time: int, differs: bool) -> str:
    if not moment:
        return "missing"
    ahead = moment - time
    if abs(ahead) > _MILLISECOND:
        return "newer" if ahead > 0 else "older"
    return "different" if differs else "equal"


def _plain(column: pa.ChunkedArray, field: Field) -> list[Any]:
    """The values as Feast hands them out: None for null and NaN, whole seconds of a time."""
    values = column.to_pylist()
    if field.kind == "FLOAT":
        values = [None if value is None else float(np.float32(value)) for value in values]
    elif field.kind == "UNIX_TIMESTAMP":
        values = [None if value is None else datetime.fromtimestamp(int(value.timestamp()), UTC) for value in values]
    return [None if isinstance(value, float) and np.isnan(value) else value for value in values]


def _same(found: Any, should: Any) -> bool:
    return bool(found is None if should is None else found is not None and found == should)
