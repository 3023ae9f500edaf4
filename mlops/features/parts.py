"""Whether the parts of a table are what a model may be trained, stopped and judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pandas as pd

from mlops.datasets.declaration import EVENT_TIME, LABEL
from mlops.result import Refused


def check(parts: Mapping[str, pd.DataFrame], columns: Sequence[str], entities: Mapping[str, pd.Series]) -> int:
    """How many entities have events in more than one part; parts: by name, the earliest first.

    columns: those that each must have, beside time and label. entities: of the rows of each part. Raises Refused that
    names all that is wrong: a part that is empty or lacks a column, a label that is not 0 or 1 or always the same, and
    an entity with an event in an earlier part that is later than one of its own in a later part.
    """
    wrong = [fault for name, part in parts.items() for fault in _faults(name, part, columns)]
    if not wrong:
        late = later_events(parts, entities)
        wrong = [f"{count} of the entities have a later event in {name}" for name, count in late.items() if count]
    if wrong:
        raise Refused(f"the parts are not fit to train on: {'; '.join(wrong)}: correct the data or its declaration")
    of_parts = [set(entities[name]) for name in parts]
    everyone = set().union(*of_parts)
    return sum(sum(entity in part for part in of_parts) > 1 for entity in everyone)


def later_events(parts: Mapping[str, pd.DataFrame], entities: Mapping[str, pd.Series]) -> dict[str, int]:
    """For each part and the next: the entities whose last event in it is later than their first one in the next."""
    found = {}
    for earlier, later in pairwise(parts):
        last = parts[earlier][EVENT_TIME].groupby(entities[earlier].to_numpy()).max()
        first = parts[later][EVENT_TIME].groupby(entities[later].to_numpy()).min()
        both = last.index.intersection(first.index)
        found[f"{earlier} than in {later}"] = int((last[both] > first[both]).sum())
    return found


def _faults(name: str, part: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    if part.empty:
        return [f"{name} is empty"]
    missing = [column for column in (*columns, EVENT_TIME, LABEL) if column not in part]
    if missing:
        return [f"{name} lacks {', '.join(missing)}"]
    values = sorted(part[LABEL].unique().tolist())
    return [] if values == [0, 1] else [f"the label of {name} is {values[:5]} and not 0 and 1"]
