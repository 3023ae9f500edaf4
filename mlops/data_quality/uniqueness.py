"""Which keys occur more than once among any number of rows, in bounded memory.

Of each key 8 bytes are kept, a hash: rows that share a key share it. The keys of what occurs twice among the hashes are
then compared themselves, so that two keys of one hash are no repetition.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

if TYPE_CHECKING:
    Hashes = np.ndarray[Any, np.dtype[np.uint64]]

# Hashes that are kept at once, 96 MiB. More keys than that are looked at in parts, with a pass over the keys for each.
KEPT = 12 << 20
# Repeated hashes whose keys are compared. Among more, a collision (0.003 are expected in 10^8 keys of 64 bits) changes
# nothing that is told of them.
_COMPARED = 1 << 17
_ODD = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio


class Repeated(NamedTuple):
    """rows: how many share their key with another one; hashes: of repeated keys, at most `_COMPARED`."""

    rows: int
    hashes: list[int]


def hash_of(identity: Sequence[pl.Expr]) -> pl.Expr:
    """UInt64: the same for two rows that are equal in all of `identity`, with null equal to null."""
    hashes = [part.hash(seed) for seed, part in enumerate(identity)]
    return reduce(lambda left, right: left * pl.lit(_ODD, pl.UInt64) + right, hashes)


class KeyHashes:
    """Counts hashes: all that are added, or those whose leading `bits` are the number `part`.

    A first part takes in what fits: once there are more than `kept` different hashes, `bits` grows.
    """

    def __init__(self, kept: int = KEPT, bits: int = 0, part: int = 0) -> None:
        self.bits, self._part, self._limit = bits, part, kept
        self._added: list[Hashes] = []
        self._pending = 0
        self._once = np.empty(0, np.uint64)
        self._more = pl.DataFrame(schema={"hash": pl.UInt64, "times": pl.UInt64})  # beyond the first time

    def add(self, hashes: Hashes) -> None:
        mine = hashes[self._is_mine(hashes)] if self.bits else hashes
        self._added.append(mine)
        self._pending += len(mine)
        if len(self._once) + self._pending > self._limit:
            self._merge()
            while self._part == 0 and len(self._once) > self._limit // 2:
                self.bits += 1
                self._once = self._once[self._is_mine(self._once)]
                self._more = self._more.filter(self._is_mine(self._more["hash"].to_numpy()))

    def repeated(self) -> pl.DataFrame:
        """Each hash that was added more than once, and how many `times` beyond the first."""
        self._merge()
        return self._more

    def _merge(self) -> None:
        """What was added is sorted into the rest; the parts are let go of one by one, as they are copied."""
        hashes = np.empty(len(self._once) + self._pending, np.uint64)
        hashes[: len(self._once)], filled = self._once, len(self._once)
        self._once = self._once[:0]
        while self._added:
            part = self._added.pop()
            hashes[filled : filled + len(part)] = part
            filled += len(part)
        self._pending = 0
        hashes.sort()
        again = hashes[1:] == hashes[:-1]
        if not again.any():
            self._once = hashes
            return
        first = np.concatenate([[True], ~again])
        self._once = hashes[first]
        times = np.diff(np.append(np.flatnonzero(first), len(hashes))) - 1
        new = pl.DataFrame({"hash": self._once[times > 0], "times": times[times > 0].astype(np.uint64)})
        self._more = pl.concat([self._more, new]).group_by("hash").agg(pl.col("times").sum())

    def _is_mine(self, hashes: Hashes) -> np.ndarray[Any, np.dtype[np.bool_]]:
        mine: np.ndarray[Any, np.dtype[np.bool_]] = hashes >> np.uint64(64 - self.bits) == np.uint64(self._part)
        return mine


def repeated(keys: pl.LazyFrame, identity: Sequence[pl.Expr], first: KeyHashes, kept: int = KEPT) -> Repeated:
    """Which of the keys occur more than once. first: to which the hashes of all of them were added."""
    key_hash = hash_of(identity).alias("hash")
    total, hashes = _summed(first.repeated())
    for part in range(1, 1 << first.bits):
        others = KeyHashes(kept, first.bits, part)
        for batch in keys.select(key_hash).collect_batches(lazy=True, engine="streaming"):
            others.add(batch["hash"].to_numpy())
        rows, more = _summed(others.repeated())
        total, hashes = total + rows, [*hashes, *more]
    if not hashes or len(hashes) > _COMPARED:
        return Repeated(total, hashes[:_COMPARED])
    parts = {f"part {index}": part for index, part in enumerate(identity)}
    equal = (
        keys.select(key_hash, **parts)
        .filter(pl.col("hash").is_in(hashes))
        .group_by("hash", *parts)
        .len()
        .filter(pl.col("len") > 1)
        .select(pl.col("len").sum(), pl.col("hash").unique().implode())
        .collect(engine="streaming")
    )
    return Repeated(int(equal["len"][0]), equal["hash"][0].to_list())


def _summed(found: pl.DataFrame) -> tuple[int, list[int]]:
    """How many rows these are, and some of the hashes, one more than are compared where there are more."""
    return int(found["times"].sum()) + len(found), found["hash"].head(_COMPARED + 1).to_list()
