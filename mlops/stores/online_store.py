"""The online store: Redis, written so that a newer value is never replaced by an older one."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mlops.config import RedisSettings
from mlops.result import Failure

if TYPE_CHECKING:
    import pyarrow as pa
    from redis import Redis

_PATIENCE = 60.0  # seconds without an answer; a pod of Redis is back after 10 to 30
_PAUSE = 0.25  # seconds between two attempts to connect
_ON_THEIR_WAY = 4  # transactions, each on a connection of its own: while Redis works at one, the next is made
_MULTI, _EXEC, _UNWATCH = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n", b"*1\r\n$7\r\nUNWATCH\r\n"
# The hash that says of each view up to when a materialization has brought its events. Its name ends in that of the
# project, as all do that the user `features` may touch.
MATERIALIZED = "materialized:maestro"
TRANSACTION = 64  # entities; Redis compares each key that is watched with all those that are

T = TypeVar("T")
log = logging.getLogger(__name__)


class Written(NamedTuple):
    """Entities that were set, and those whose stored value was as new."""

    written: int
    not_newer: int


class OnlineStore:
    """One Redis. Each method raises Failure where it is away for longer than a restart takes, or refuses."""

    def __init__(self, settings: RedisSettings, *, patience: float = _PATIENCE) -> None:
        self._address = f"{settings.host}:{settings.port}"
        self._patience = patience
        self._client = _client(settings)
        self._connections: deque[Any] = deque()
        self._failing_since: float | None = None

    def run_id(self) -> str:
        """The server's name for the time since its start: another one after a restart."""
        server: Any = self._patiently(self._client.info, "server")
        return str(server["run_id"])

    def note_materialized(self, view: str, moment: float) -> None:
        """Notes up to when a materialization has brought the events of a view, unless a later one has.

        moment: seconds since 1970.
        """
        known: Any = self._patiently(self._client.hget, MATERIALIZED, view)
        if known is None or float(known) < moment:
            self._patiently(self._client.hset, MATERIALIZED, view, repr(moment))

    def put_newer(self, fields: Sequence[bytes], batches: Iterable[tuple[pa.Array, Sequence[pa.Array]]]) -> Written:
        """Sets the fields of each entity whose stored value is older: all of them, or none.

        Compares event times and, of equal ones, the times of writing (see `age`). Redis sets what was found to be older
        only where nobody has touched it since it was read; otherwise it is read again. So a newer value is never
        replaced, whoever writes it, Feast itself among them.

        fields: their names, that of the Timestamp first. batches: (n keys, a column of n values for each field), binary
        and without null. What was set when this fails, stays, and may be set again: to repeat it changes nothing.
        """
        from redis.exceptions import RedisError

        chunks = chain.from_iterable(_chunks(fields, *batch) for batch in batches)
        again: deque[_Chunk] = deque()
        on_their_way: deque[_Transaction] = deque()
        total = written = 0
        try:
            while True:
                chunk = again.popleft() if again else next(chunks, None)
                if chunk is None and not on_their_way:
                    return Written(written, total - written)
                try:
                    if chunk is None or len(on_their_way) == _ON_THEIR_WAY:
                        changed = on_their_way[0].end()
                        done = on_their_way.popleft()
                        self._failing_since = None
                        if changed is None:
                            again.append(done.chunk)
                        else:
                            total, written = total + len(done.chunk.stamps), written + changed
                    if chunk is not None:
                        on_their_way.append(_Transaction(self._connected(), chunk))
                        chunk = None
                        on_their_way[-1].begin()
                        if len(on_their_way) > 1:
                            on_their_way[-2].decide()
                except RedisError as error:
                    again.extend(transaction.chunk for transaction in on_their_way)
                    on_their_way.clear()
                    if chunk is not None:
                        again.append(chunk)
                    self._recover(error, len(again))
        finally:
            self.close()

    def close(self) -> None:
        """Gives the connections up, with whatever is on its way."""
        for connection in self._connections:
            connection.disconnect()
            self._client.connection_pool.release(connection)
        self._connections.clear()

    def _connected(self) -> Any:
        """The connection whose turn it is."""
        if len(self._connections) < _ON_THEIR_WAY:
            self._connections.append(self._patiently(self._client.connection_pool.get_connection))
        self._connections.rotate()
        return self._connections[0]

    def _patiently(self, call: Callable[..., T], *arguments: Any) -> T:
        """What the call returns. It is repeated while the server is away, for as long as the patience lasts."""
        from redis.exceptions import RedisError
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

        retrying = Retrying(
            retry=retry_if_exception(_passes),
            wait=wait_fixed(_PAUSE),
            stop=stop_after_delay(self._patience),
            reraise=True,
        )
        try:
            return retrying(call, *arguments)
        except RedisError as error:
            raise self._failure(error) from error

    def _recover(self, error: Exception, transactions: int) -> None:
        """Gives the connections up, for new ones. The patience goes on from one to the next until one has worked."""
        self._failing_since = self._failing_since or time.monotonic()
        if not _passes(error) or time.monotonic() >= self._failing_since + self._patience:
            raise self._failure(error) from error
        log.warning("Redis at %s: %s; %d transactions begin again", self._address, error, transactions)
        self.close()
        time.sleep(_PAUSE)

    def _failure(self, error: Exception) -> Failure:
        from redis.exceptions import AuthenticationError, OutOfMemoryError

        remedy = "check that it runs and that global.services.redis or global.redis.external names it"
        if isinstance(error, AuthenticationError) or "NOAUTH" in str(error) or "WRONGPASS" in str(error):
            remedy = "check the password in the Secret that global.redis.existingSecret names"
        elif isinstance(error, OutOfMemoryError):
            remedy = "raise redis.maxmemory and its memory limit; what is stored stays readable"
        return Failure(f"Redis at {self._address} failed ({error}): {remedy}")


class _Chunk(NamedTuple):
    """The entities of one transaction, in Redis' protocol.

    reads: that they are watched, and their Timestamps asked for. stamps: the n new Timestamps. writes: n commands.
    """

    reads: list[Any]
    stamps: list[bytes]
    writes: pa.Array


class _Transaction:
    """A chunk on its way: begun, then decided, then ended. All raise what redis-py does."""

    def __init__(self, connection: Any, chunk: _Chunk) -> None:
        self.chunk = chunk
        self._connection = connection
        self._setting: int | None = None  # how many entities; None as long as that is not known

    def begin(self) -> None:
        self._connection.send_packed_command(self.chunk.reads, check_health=False)

    def decide(self) -> None:
        """Sends the entities that are newer than what is stored."""
        if self._setting is not None:
            return
        read, stamps = self._connection.read_response, self.chunk.stamps
        read()  # of WATCH
        chosen = [newer(stamp, read()) for stamp in stamps]
        self._setting = sum(chosen)
        if self._setting:
            writes = self.chunk.writes if all(chosen) else self.chunk.writes.filter(chosen)
            commands = [_MULTI, _bytes(writes), _EXEC]
        else:
            commands = [_UNWATCH]
        self._connection.send_packed_command(commands, check_health=False)

    def end(self) -> int | None:
        """How many entities were set; None where somebody else has touched one meanwhile, and so none was."""
        self.decide()
        read = self._connection.read_response
        if not self._setting:
            read()
            return 0
        for _ in range(1 + self._setting):  # of MULTI, and that each command waits for EXEC
            read()
        answers = read()
        if answers is None:
            return None
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return self._setting


def _chunks(fields: Sequence[bytes], keys: pa.Array, columns: Sequence[pa.Array]) -> Iterator[_Chunk]:
    """The rows, at most TRANSACTION at once."""
    framed = _framed(keys)
    reads = _joined(b"*3\r\n$4\r\nHGET\r\n", framed, _bulk(fields[0]))
    values = (part for field, column in zip(fields, columns, strict=True) for part in (_bulk(field), _framed(column)))
    writes = _joined(b"*%d\r\n$4\r\nHSET\r\n" % (2 + 2 * len(fields)), framed, *values)
    stamps = columns[0].to_pylist()
    for start in range(0, len(keys), TRANSACTION):
        part = slice(start, start + TRANSACTION)
        watch = b"*%d\r\n$5\r\nWATCH\r\n" % (1 + len(stamps[part]))
        yield _Chunk([watch, _bytes(framed[part]), _bytes(reads[part])], stamps[part], writes[part])


def _framed(texts: pa.Array) -> pa.Array:
    """(n,) texts as bulk strings of Redis' protocol (RESP 2): their length, and themselves."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths, places = np.unique(pc.binary_length(texts).to_numpy(), return_inverse=True)
    heads = pa.array([b"$%d\r\n" % length for length in lengths], pa.binary())
    return _joined(heads.take(pa.array(places)), texts, b"\r\n")


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def _joined(*parts: pa.Array | bytes) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    given = (pa.scalar(part, pa.binary()) if isinstance(part, bytes) else part for part in (*parts, b""))
    return pc.binary_join_element_wise(*given)


def _bytes(texts: pa.Array) -> memoryview:
    """The texts one behind the other, as they lie in memory."""
    import numpy as np

    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[[texts.offset, texts.offset + len(texts)]]
    return memoryview(data)[ends[0] : ends[1]]


def newer(stamp: bytes, stored: bytes | None) -> bool:
    """Whether the Timestamp is newer than the one that is stored; None where nothing is."""
    return stored is None or (stamp != stored and age(stamp) > age(stored))


@lru_cache(maxsize=65_536)  # many rows of a view are of one moment
def age(stamp: bytes) -> tuple[float, ...]:
    """What two Timestamps are compared by: seconds and nanoseconds of the event, and those of writing.

    They stand in a protobuf Timestamp as varints, in the fields 1 and 2, and 14 and 15. What Feast wrote itself has no
    time of writing and gives way to a row of the same event.
    """
    found: dict[int, int] = {}
    position = 0
    while position < len(stamp):
        field, value, shift = stamp[position] >> 3, 0, 0
        while True:
            position += 1
            value |= (stamp[position] & 0x7F) << shift
            shift += 7
            if stamp[position] < 0x80:
                break
        found[field] = value - (1 << 64) if value >> 63 else value
        position += 1
    written = found.get(14, 0 if 15 in found else -inf)
    return found.get(1, 0), found.get(2, 0), written, found.get(15, 0)


def _passes(error: BaseException) -> bool:
    """Whether it is of the kind that a restart or a failover brings and ends."""
    from redis import exceptions as of

    if isinstance(error, of.AuthenticationError):
        return False
    return isinstance(error, of.ConnectionError | of.TimeoutError | of.ReadOnlyError)


def _client(settings: RedisSettings) -> Redis:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return Redis(
        **settings.connection,
        socket_connect_timeout=5,
        socket_timeout=30,
        retry=Retry(NoBackoff(), 0),  # here it is known what may be sent again
    )
