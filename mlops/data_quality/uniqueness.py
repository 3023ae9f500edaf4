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
        self.bits, self._part = bits, part
        self._kept = np.empty(kept, np.uint64)  # a page of it takes memory once it is written to
        self._once = self._filled = 0  # first come those that were merged, sorted and each once; then what was added
        self._more = pl.DataFrame(schema={"hash": pl.UInt64, "times": pl.UInt64})  # beyond the first time

    def add(self, hashes: Hashes) -> None:
        while len(hashes):
            free = len(self._kept) - self._filled
            now, hashes = hashes[:free], hashes[free:]
            mine = now[self._is_mine(now)] if self.bits else now
            self._kept[self._filled : self._filled + len(mine)] = mine
            self._filled += len(mine)
            if self._filled == len(self._kept):
                self._merge()
                while self._part == 0 and self._once > len(self._kept) // 2:
                    self._halve()
                if self._once == len(self._kept):
                    self._kept = np.concatenate([self._kept, np.empty_like(self._kept)])

    def repeated(self) -> pl.DataFrame:
        """Each hash that was added more than once, and how many `times` beyond the first."""
        self._merge()
        return self._more

    def _merge(self) -> None:
        hashes = self._kept[: self._filled]
        hashes.sort()
        again = hashes[1:] == hashes[:-1]
        if again.any():
            firsts = np.flatnonzero(np.concatenate([[True], ~again]))
            times = np.diff(np.append(firsts, len(hashes))) - 1
            once = hashes[firsts]
            new = pl.DataFrame({"hash": once[times > 0], "times": times[times > 0].astype(np.uint64)})
            self._more = pl.concat([self._more, new]).group_by("hash").agg(pl.col("times").sum())
            self._kept[: len(once)] = once
            self._filled = len(once)
        self._once = self._filled

    def _halve(self) -> None:
        self.bits += 1
        mine = self._kept[: self._once]
        mine = mine[self._is_mine(mine)]
        self._kept[: len(mine)] = mine
        self._once = self._filled = len(mine)
        self._more = self._more.filter(self._is_mine(self._more["hash"].to_numpy()))

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
