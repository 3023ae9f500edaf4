"""Training and test set: no row in both, none in neither, and none that changes sides when the set grows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from mlops.datasets.declaration import EVENT_TIME, GROUP, LABEL, Dataset, SplitByTime
from mlops.result import Failure

_GOLDEN, _FIRST, _SECOND = (np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_MISSING = np.uint64(2**64 - 1)
_VALIDATION = 0.125


def split(table: pl.LazyFrame, dataset: Dataset) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """(training set, test set) as the dataset declares it, each in the order of the table.

    table: clean rows. Both have `split_group` where the dataset says which rows belong together. Raises Failure where
    one of them lacks rows or classes.
    """
    in_test = is_test_row(table, dataset)
    kind, label = dataset.label.kind, pl.col(LABEL)
    distinct = label.unique() if kind == "multiclass" else label.n_unique()
    found = table.group_by(in_test.alias("in_test")).agg(pl.len(), distinct).collect(engine="streaming")
    parts = {part["in_test"]: part for part in found.to_dicts()}
    for name, part in (("training", parts.get(False)), ("test", parts.get(True))):
        rows, values = (part["len"], part[LABEL]) if part else (0, 0)
        count = len(values) if isinstance(values, list) else values
        if count < 2:
            what = "values of the label" if kind == "regression" else "classes"
            raise _unusable(dataset, f"the {name} set has {rows:,} rows and {count} of the {what}, of two at least")
    if kind == "multiclass" and (unknown := set(parts[True][LABEL]) - set(parts[False][LABEL])):
        raise _unusable(
            dataset, f"no row of the training set is of the class {min(unknown)!r}, and some of the test set"
        )
    if dataset.groups:
        table = table.with_columns(_hash_of(dataset.groups, dataset, 0).alias(GROUP))
    return table.filter(~in_test), table.filter(in_test)


def split_in_three(table: pl.LazyFrame, dataset: Dataset) -> tuple[pl.LazyFrame, pl.LazyFrame, pl.LazyFrame]:
    """(training set, validation set, test set): the test set as `split` has it, and of the rest a part like it.

    By time the validation set is the latest eighth of the rest: a tenth of all, where the test set is a fifth.
    """
    rest, test = split(table, dataset)
    drawn = (
        SplitByTime(_VALIDATION)
        if isinstance(dataset.split, SplitByTime)
        else replace(dataset.split, test_fraction=_VALIDATION, seed=dataset.split.seed + 1)
    )
    columns = rest.drop(GROUP) if dataset.groups else rest
    train, validation = split(columns, replace(dataset, split=drawn))
    return train, validation, test


def is_test_row(table: pl.LazyFrame, dataset: Dataset) -> pl.Expr:
    """Whether a row of the table belongs to the test set: true or false, never null.

    A split by time cuts at a time that a row has; a row without a time is one of the training set.
    """
    declared = dataset.split
    if isinstance(declared, SplitByTime):
        times = table.select(pl.col(EVENT_TIME).drop_nulls().sort()).collect(engine="streaming").to_series()
        if times.is_empty():
            return pl.col(EVENT_TIME).is_not_null()
        # Rows of the same moment lie in the same part.
        cut = pl.lit(times[int(len(times) * (1 - declared.test_fraction))], dtype=times.dtype)
        return (pl.col(EVENT_TIME) >= cut).fill_null(value=False)
    # The upper 53 bits of the hash, all that a double holds, as a share of all there are.
    drawn = (_hash_of(dataset.split_key, dataset, declared.seed) // 2**11).cast(pl.Float64) * 2.0**-53
    return drawn < declared.test_fraction


def hashes(columns: Sequence[pl.Series], numeric: Sequence[bool], seed: int) -> np.ndarray:
    """(n,) of uint64: one for each row's values, whatever types carry them, on every machine and in every version.

    numeric: which columns hold numbers; the others hold texts. A value is made one or more words of 64 bits, and the
    hash of words w1 ... wk is h_i = mix(h_{i-1} XOR w_i) from h_0 = mix(seed), where mix is the step of SplitMix64
    (G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).

    - A number is the bits of its IEEE 754 double, where -0 is 0.
    - A text is the count of its bytes in UTF-8, then these, eight a word, the first one lowest, filled up with zeros.
      An integer in its place is its decimal digits, and so is a double without a fraction: 5 and 5.0 are "5".
    - A missing value is the word of 64 ones.
    """
    with np.errstate(over="ignore"):
        found = np.full(len(columns[0]), _mixed(np.array([seed], dtype=np.uint64))[0])
        for column, is_number in zip(columns, numeric, strict=True):
            found = _mixed(found ^ _number_words(column)) if is_number else _with_text(found, _texts(column))
    return found


def _hash_of(names: Sequence[str], dataset: Dataset, seed: int) -> pl.Expr:
    numeric = [dataset[name].numeric for name in names]

    def hashed(rows: pl.Series) -> pl.Series:
        return pl.Series(hashes([rows.struct.field(name) for name in names], numeric, seed))

    return pl.struct(*names).map_batches(hashed, return_dtype=pl.UInt64, is_elementwise=True)


def _mixed(state: np.ndarray) -> np.ndarray:
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    last: np.ndarray = state ^ (state >> np.uint64(31))
    return last


def _number_words(column: pl.Series) -> np.ndarray:
    numbers = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    return np.where(np.isnan(numbers), _MISSING, np.where(numbers == 0, 0.0, numbers).view(np.uint64))


def as_text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Values of a key as text, the same whatever carries them: a whole number that became a float is whole again."""
    if not dtype.is_float():
        return column.cast(pl.String)
    whole = column.cast(pl.Int64, strict=False)
    return pl.when(whole == column).then(whole.cast(pl.String)).otherwise(column.fill_nan(None).cast(pl.String))


def _texts(column: pl.Series) -> pl.Series:
    return pl.select(as_text(pl.lit(column), column.dtype)).to_series()


def _with_text(state: np.ndarray, texts: pl.Series) -> np.ndarray:
    """The state of each row after its text. Rows are taken in order of length, so that each round is one of slices."""
    array = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, content = array.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    missing = texts.is_null().to_numpy()
    lengths = np.where(missing, 0, np.diff(bounds))  # bytes may stand where a missing text is none
    padded = np.frombuffer((content.to_pybytes() if content else b"") + bytes(8), dtype=np.uint8)
    # A word at every byte, as little-endian machines and only they read it without being told.
    words = np.ndarray((len(padded) - 7,), dtype="<u8", buffer=padded, strides=(1,))
    state = _mixed(state ^ np.where(missing, _MISSING, lengths.astype(np.uint64)))
    order = np.argsort(-lengths, kind="stable")
    by_length, starts, longest_first = state[order], bounds[:-1][order], lengths[order]
    for start in range(0, int(longest_first[0]) if len(order) else 0, 8):
        rows = int(np.searchsorted(-longest_first, -start, side="left"))  # those that are longer than `start`
        left = np.minimum(longest_first[:rows] - start, 8).astype(np.uint64)
        kept = _MISSING >> (np.uint64(64) - left * np.uint64(8))
        by_length[:rows] = _mixed(by_length[:rows] ^ (words[starts[:rows] + start] & kept))
    state[order] = by_length
    return state


def _unusable(dataset: Dataset, why: str) -> Failure:
    return Failure(f"dataset {dataset.name}: {why}: correct the split in the declaration of dataset {dataset.name}")
