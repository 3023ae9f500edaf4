"""Which faults are inflicted, and in which order: drawn by a seed, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence


def drawn(names: Collection[str], seed: int, count: int | None = None) -> list[str]:
    """`count` of the names, all where it is None, in an order that the seed decides and that of the names does not.

    Raises ValueError where there are fewer.
    """
    if count is not None and not 1 <= count <= len(names):
        raise ValueError(f"{count} faults cannot be drawn from {len(names)}: name from 1 to {len(names)}")
    known = sorted(names)
    return random.Random(seed).sample(known, len(known) if count is None else count)


def chosen(wanted: Sequence[str], known: Collection[str]) -> list[str]:
    """The names that were asked for; raises ValueError that lists what there is where one is unknown."""
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no fault is called {', '.join(unknown)}: there are {', '.join(sorted(known))}")
    return list(wanted)
