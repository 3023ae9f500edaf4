"""Feature values in the bytes that Feast keeps in Redis, made a column at a time.

The format is Feast's own (feast/infra/online_stores/redis.py and key_encoding_utils.py of 0.67, entity key version 3):
a hash for each entity, its key the serialized entity key and the project; in it, for each view, a field `_ts:<view>`
with the event time as a protobuf Timestamp, and for each feature a field named by four bytes of a murmur3 hash, with
the value as a protobuf Value, which is empty for null.

One thing is added: the Timestamp also carries when the row was written, in the fields 14 and 15, which every reader
of protobuf passes over. So the later of two rows of one event wins in the online store as well.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops.features.materialization.newest import times
from mlops.features.materialization.view import Field, MaterializedView
from mlops.result import Refused

_NANOS, _MICROS = 1_000_000_000, 1_000_000  # in a second
_VALUE_TYPES = {"BYTES": 1, "STRING": 2, "INT32": 3, "INT64": 4}  # of feast.ValueType, in entity keys
# protobuf's tag is field number * 8 + wire type; the numbers are those of feast/types/Value.proto
_TAGS = {
    "BYTES": 1 * 8 + 2,
    "STRING": 2 * 8 + 2,
    "INT32": 3 * 8,
    "INT64": 4 * 8,
    "DOUBLE": 5 * 8 + 1,
    "FLOAT": 6 * 8 + 5,
    "BOOL": 7 * 8,
    "UNIX_TIMESTAMP": 8 * 8,
}
_SECONDS, _FRACTION, _CREATED_SECONDS, _CREATED_FRACTION = 1 * 8, 2 * 8, 14 * 8, 15 * 8
_ARROW = {
    "BYTES": pa.binary(),
    "STRING": pa.string(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "DOUBLE": pa.float64(),
    "FLOAT": pa.float32(),
    "BOOL": pa.bool_(),
    "UNIX_TIMESTAMP": pa.timestamp("us", "UTC"),
}


@dataclass(frozen=True)
class Rows:
    """n encoded rows. keys: n; stamps: n; columns: n values for each feature."""

    keys: list[bytes]
    stamps: list[bytes]
    columns: list[list[bytes]]


def fields(view: MaterializedView) -> list[bytes]:
    """The names of a view's fields in an entity's hash: that of the event time, then one a feature."""
    import mmh3

    hashes = [mmh3.hash(f"{view.name}:{feature.name}", signed=False) for feature in view.features]
    return [f"_ts:{view.name}".encode(), *(struct.pack("<I", value) for value in hashes)]


def encode(table: pa.Table, view: MaterializedView) -> Rows:
    """The rows of a table whose columns are each in one chunk. Raises Refused where a column is of another type."""
    return Rows(
        keys=_keys(table, view),
        stamps=_stamps(times(table, view)),
        columns=[_values(_column(table, feature, view), feature.kind) for feature in view.features],
    )


def _column(table: pa.Table, field: Field, view: MaterializedView) -> pa.Array:
    """A column as its declared type, with null for what is not a number."""
    chunks = table.column(field.name)
    column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    try:
        return column.cast(_ARROW[field.kind], safe=field.kind not in ("FLOAT", "UNIX_TIMESTAMP"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Refused(
            f"feature view {view.name}: column {field.name} is {column.type} in the offline store and declared "
            f"{field.kind} ({error}): build the features anew, or correct its type in mlops/features"
        ) from error


def _keys(table: pa.Table, view: MaterializedView) -> list[bytes]:
    head = struct.pack("<I", len(view.join_keys))
    for field in view.join_keys:
        name = field.name.encode()
        head += struct.pack("<II", _VALUE_TYPES["STRING"], len(name)) + name
    tail = view.project.encode()
    parts = [_key_values(_column(table, field, view), field.kind) for field in view.join_keys]
    if len(parts) == 1:
        return [head + value + tail for value in parts[0]]
    return [head + b"".join(values) + tail for values in zip(*parts, strict=True)]


def _key_values(column: pa.Array, kind: str) -> list[bytes]:
    if kind in ("INT32", "INT64"):
        numbers = column.to_numpy()
        size = numbers.dtype.itemsize
        return _joined(struct.pack("<II", _VALUE_TYPES[kind], size), _little_endian(numbers))
    return [struct.pack("<II", _VALUE_TYPES[kind], len(text)) + text for text in column.cast(pa.binary()).to_pylist()]


def _stamps(nanoseconds: list[np.ndarray]) -> list[bytes]:
    """The Timestamps of (n,) event times and, where given, (n,) times of writing."""
    tags = ((_SECONDS, _FRACTION), (_CREATED_SECONDS, _CREATED_FRACTION))
    parts: list[list[bytes]] = []
    for (second, fraction), values in zip(tags, nanoseconds, strict=False):
        seconds, rest = np.divmod(values, _NANOS)
        for tag, numbers in ((second, seconds), (fraction, rest)):
            if numbers.any():  # protobuf leaves a zero out
                parts.append(_varints(tag, numbers, omit_zero=True))
    return [b"".join(row) for row in zip(*parts, strict=True)] if parts else [b""] * len(nanoseconds[0])


def _values(column: pa.Array, kind: str) -> list[bytes]:
    """Protobuf Values; empty for null."""
    if kind in ("BYTES", "STRING"):
        tag = bytes([_TAGS[kind]])
        texts = column.cast(pa.binary()).to_pylist()
        return [b"" if text is None else tag + _varint(len(text)) + text for text in texts]
    missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)) if column.null_count else ()
    filled = column.fill_null(False if kind == "BOOL" else pa.scalar(0).cast(column.type)) if len(missing) else column
    if kind == "UNIX_TIMESTAMP":
        micros = filled.cast(pa.int64()).to_numpy()
        numbers = np.sign(micros) * (np.abs(micros) // _MICROS)  # towards 1970, as Feast does
    else:
        numbers = filled.to_numpy(zero_copy_only=False)
    if kind in ("DOUBLE", "FLOAT"):
        values = _joined(bytes([_TAGS[kind]]), _little_endian(numbers))
    else:
        values = _varints(_TAGS[kind], numbers)
    for row in missing:
        values[row] = b""
    return values


def _little_endian(numbers: np.ndarray) -> np.ndarray:
    """(n, size) bytes."""
    ordered = np.ascontiguousarray(numbers.astype(numbers.dtype.newbyteorder("<"), copy=False))
    return ordered.view(np.uint8).reshape(len(numbers), numbers.dtype.itemsize)


def _joined(head: bytes, matrix: np.ndarray) -> list[bytes]:
    """`head` before each row of an (n, size) matrix of bytes."""
    width = len(head) + matrix.shape[1]
    rows = np.empty((len(matrix), width), np.uint8)
    rows[:, : len(head)] = np.frombuffer(head, np.uint8)
    rows[:, len(head) :] = matrix
    texts: list[bytes] = rows.view(f"V{width}").ravel().tolist()
    return texts


def _varints(tag: int, numbers: np.ndarray, *, omit_zero: bool = False) -> list[bytes]:
    """`tag` and each number as protobuf's varint: seven bits a byte, the lowest first, all but the last with bit 8."""
    unsigned = numbers.astype(np.int64).view(np.uint64)  # a negative number has ten bytes
    shifts = np.arange(0, 64, 7, dtype=np.uint64)
    groups = unsigned[:, None] >> shifts
    lengths = np.maximum(1, (groups != 0).sum(axis=1))
    rows = np.empty((len(numbers), 1 + len(shifts)), np.uint8)
    rows[:, 0] = tag
    rows[:, 1:] = groups & np.uint64(0x7F)
    rows[:, 1:] |= np.where(np.arange(len(shifts)) < lengths[:, None] - 1, 0x80, 0).astype(np.uint8)
    sizes = lengths + 1
    if omit_zero:
        sizes[unsigned == 0] = 0
    data, width = rows.tobytes(), rows.shape[1]
    return [data[start : start + size] for start, size in zip(range(0, len(data), width), sizes.tolist(), strict=True)]


@lru_cache(maxsize=65_536)
def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
