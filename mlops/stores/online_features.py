"""The newest features of entities out of the online store, read as Feast lays them down, and without Feast.

Feast takes seconds to import and hundreds of MB, and a registry in PostgreSQL: a server that knows which features it
wants needs none of it. A test compares the two.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlops.config import RedisSettings
from mlops.result import Failure
from mlops.stores.feature_store import PROJECT
from mlops.stores.online_store import MATERIALIZED, age

if TYPE_CHECKING:
    from redis import Redis

Value = str | int | float | None
_CONNECT, _ANSWER = 1.0, 2.0  # seconds: somebody waits for a prediction
_STRING = 2  # of feast.ValueType, in entity keys
# protobuf's tags of feast/types/Value.proto: field number * 8 + wire type.
_TEXT, _INT64, _DOUBLE = 2 * 8 + 2, 4 * 8, 5 * 8 + 1
_NULL = b"\x98\x01"  # the tag of null_val, by which Feast itself may say that a value is missing


class View(NamedTuple):
    """Features of one entity. key: the column of its identifier."""

    name: str
    key: str
    features: Sequence[str]


class Known(NamedTuple):
    """What is known of an entity. event: seconds since 1970, of the event that the values are of."""

    event: float
    values: Mapping[str, Value]


class OnlineFeatures:
    """The online store of these views. Each method raises Failure where Redis is away or refuses."""

    def __init__(self, settings: RedisSettings, views: Sequence[View]) -> None:
        self._address = f"{settings.host}:{settings.port}"
        self._client = _client(settings)
        self._by_key: dict[str, list[View]] = {}
        for view in views:
            self._by_key.setdefault(view.key, []).append(view)
        self._fields = {key: [field for view in of for field in _fields(view)] for key, of in self._by_key.items()}

    def read(self, rows: Sequence[Mapping[str, str]]) -> list[dict[str, Known]]:
        """By view what is known of each row's entities, in one round trip; a view that knows nothing is left out.

        rows: the identifier of each entity by its column.
        """
        wanted = list(dict.fromkeys((key, row[key]) for row in rows for key in self._by_key))
        answers = self._ask([(_entity_key(key, value), self._fields[key]) for key, value in wanted])
        known = {
            (key, value): self._known(self._by_key[key], answer)
            for (key, value), answer in zip(wanted, answers, strict=True)
        }
        return [{view: found for key in self._by_key for view, found in known[key, row[key]].items()} for row in rows]

    def materialized(self) -> dict[str, float]:
        """By view up to when a materialization has brought its events, in seconds since 1970."""
        from redis.exceptions import RedisError

        try:
            found: Any = self._client.hgetall(MATERIALIZED)
        except RedisError as error:
            raise self._failure(error) from error
        return {view.decode(): float(moment) for view, moment in found.items()}

    def _ask(self, hashes: Sequence[tuple[bytes, list[bytes]]]) -> list[list[bytes | None]]:
        from redis.exceptions import RedisError

        pipeline = self._client.pipeline(transaction=False)
        for key, fields in hashes:
            pipeline.hmget(key, fields)  # type: ignore[arg-type]  # its fields are bytes as well
        try:
            return list(pipeline.execute())
        except RedisError as error:
            raise self._failure(error) from error

    @staticmethod
    def _known(views: Sequence[View], answer: list[bytes | None]) -> dict[str, Known]:
        found: dict[str, Known] = {}
        values = iter(answer)
        for view in views:
            stamp, *packed = (next(values) for _ in range(1 + len(view.features)))
            if stamp is None:
                continue
            seconds, nanoseconds, *_ = age(stamp)
            unpacked = zip(view.features, map(unpack, packed), strict=True)
            found[view.name] = Known(seconds + nanoseconds / 1e9, dict(unpacked))
        return found

    def _failure(self, error: Exception) -> Failure:
        return Failure(
            f"Redis at {self._address} failed ({error}): check that it runs, that global.services.redis or "
            "global.redis.external names it, and that global.redis.existingSecret holds the user's password"
        )


def unpack(packed: bytes | None) -> Value:
    """The number or text of a protobuf Value; None where there is none. Raises Failure for one of another type."""
    if not packed or packed.startswith(_NULL):
        return None
    tag, rest = packed[0], packed[1:]
    if tag == _DOUBLE:
        number: float = struct.unpack("<d", rest)[0]
        return None if number != number else number
    if tag == _INT64:
        value = _varint(rest)[0]
        return value - (1 << 64) if value >> 63 else value
    if tag == _TEXT:
        length, place = _varint(rest)
        return rest[place : place + length].decode()
    raise Failure(f"the online store holds a value of the protobuf tag {tag}: read are texts, Int64 and Float64")


def _varint(packed: bytes) -> tuple[int, int]:
    """A number of protobuf, and where it ends."""
    value = 0
    for place, byte in enumerate(packed):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, place + 1
    raise Failure("the online store holds a number that is cut off: materialize its view anew")


def _fields(view: View) -> list[bytes]:
    """The names of a view's fields in an entity's hash: that of the event time, then one a feature."""
    import mmh3

    hashes = [mmh3.hash(f"{view.name}:{feature}", signed=False) for feature in view.features]
    return [f"_ts:{view.name}".encode(), *(struct.pack("<I", value) for value in hashes)]


def _entity_key(column: str, value: str) -> bytes:
    """Where an entity's hash lies: Feast's entity key of version 3, and the project."""
    name, text = column.encode(), value.encode()
    head = struct.pack("<III", 1, _STRING, len(name)) + name
    return head + struct.pack("<II", _STRING, len(text)) + text + PROJECT.encode()


def _client(settings: RedisSettings) -> Redis:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return Redis(
        **settings.connection,
        socket_connect_timeout=_CONNECT,
        socket_timeout=_ANSWER,
        retry=Retry(NoBackoff(), 1),  # a connection from before a restart is found out by its first request
    )
