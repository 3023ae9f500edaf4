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
    """n encoded rows, as binary arrays without null. keys: n; stamps: n; columns: n values for each feature."""

    keys: pa.Array
    stamps: pa.Array
    columns: list[pa.Array]


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


def _keys(table: pa.Table, view: MaterializedView) -> pa.Array:
    head = struct.pack("<I", len(view.join_keys))
    for field in view.join_keys:
        name = field.name.encode()
        head += struct.pack("<II", _VALUE_TYPES["STRING"], len(name)) + name
    parts = [part for field in view.join_keys for part in _key_values(_column(table, field, view), field.kind)]
    return _joined(head, *parts, view.project.encode())


def _key_values(column: pa.Array, kind: str) -> list[pa.Array | bytes]:
    """What stands for a value in a key, in two parts: its type and length, and itself."""
    if kind in ("INT32", "INT64"):
        numbers = column.to_numpy()
        return [struct.pack("<II", _VALUE_TYPES[kind], numbers.dtype.itemsize), _fixed(b"", _little_endian(numbers))]
    texts = column.cast(pa.binary())
    lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
    return [_fixed(struct.pack("<I", _VALUE_TYPES[kind]), _little_endian(lengths.astype(np.int32))), texts]


def _stamps(nanoseconds: list[np.ndarray]) -> pa.Array:
    """The Timestamps of (n,) event times and, where given, (n,) times of writing."""
    tags = ((_SECONDS, _FRACTION), (_CREATED_SECONDS, _CREATED_FRACTION))
    parts = []
    for (second, fraction), values in zip(tags, nanoseconds, strict=False):
        seconds, rest = np.divmod(values, _NANOS)
        parts += [_varints(second, seconds, left_out=seconds == 0), _varints(fraction, rest, left_out=rest == 0)]
    return _joined(*parts)


def _values(column: pa.Array, kind: str) -> pa.Array:
    """Protobuf Values; empty for null."""
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if kind in ("BYTES", "STRING"):
        texts = pc.fill_null(column.cast(pa.binary()), b"")
        lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
        return _joined(_varints(_TAGS[kind], lengths, left_out=missing), texts)
    filled = column.fill_null(False if kind == "BOOL" else pa.scalar(0).cast(column.type)) if missing.any() else column
    if kind == "UNIX_TIMESTAMP":
        micros = filled.cast(pa.int64()).to_numpy()
        numbers = np.sign(micros) * (np.abs(micros) // _MICROS)  # towards 1970, as Feast does
    else:
        numbers = filled.to_numpy(zero_copy_only=False)
    if kind in ("DOUBLE", "FLOAT"):
        return _fixed(bytes([_TAGS[kind]]), _little_endian(numbers), left_out=missing)
    return _varints(_TAGS[kind], numbers, left_out=missing)


def _little_endian(numbers: np.ndarray) -> np.ndarray:
    """(n, size) bytes."""
    ordered = np.ascontiguousarray(numbers.astype(numbers.dtype.newbyteorder("<"), copy=False))
    return ordered.view(np.uint8).reshape(len(numbers), numbers.dtype.itemsize)


def _fixed(head: bytes, matrix: np.ndarray, left_out: np.ndarray | None = None) -> pa.Array:
    """`head` before each row of an (n, size) matrix of bytes; nothing at all for the rows that are left out."""
    rows = np.empty((len(matrix), len(head) + matrix.shape[1]), np.uint8)
    rows[:, : len(head)] = np.frombuffer(head, np.uint8)
    rows[:, len(head) :] = matrix
    sizes = np.full(len(rows), rows.shape[1])
    if left_out is not None and left_out.any():
        sizes[left_out] = 0
        rows = rows[~left_out]
    return _texts(rows.ravel(), sizes)


def _varints(tag: int, numbers: np.ndarray, left_out: np.ndarray) -> pa.Array:
    """`tag` and each number as protobuf's varint: seven bits a byte, the lowest first, all but the last with bit 8;
    nothing at all for those that are left out."""
    unsigned = numbers.astype(np.int64).view(np.uint64)  # a negative number has ten bytes
    groups = unsigned[:, None] >> np.arange(0, 64, 7, dtype=np.uint64)
    lengths = np.maximum(1, (groups != 0).sum(axis=1))
    rows = np.empty((len(numbers), 1 + groups.shape[1]), np.uint8)
    rows[:, 0] = tag
    rows[:, 1:] = groups & np.uint64(0x7F)
    places = np.arange(rows.shape[1])
    rows[(places > 0) & (places < lengths[:, None])] |= 0x80
    sizes = np.where(left_out, 0, lengths + 1)
    return _texts(rows[places < sizes[:, None]], sizes)


def _texts(data: np.ndarray, sizes: np.ndarray) -> pa.Array:
    """(n,) texts of these sizes, which lie one behind the other."""
    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return pa.Array.from_buffers(pa.binary(), len(sizes), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _joined(*parts: pa.Array | bytes) -> pa.Array:
    """The parts of each row one behind the other; one that is the same for all rows is given once."""
    given = (pa.scalar(part, pa.binary()) if isinstance(part, bytes) else part for part in (*parts, b""))
    return pc.binary_join_element_wise(*given)
