"""The online store: Redis, written so that a newer value is never replaced by an older one."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mlops.config import RedisSettings
from mlops.result import Failure

if TYPE_CHECKING:
    from redis import Redis

_PATIENCE = 60.0  # seconds without an answer; a pod of Redis is back after 10 to 30
_PAUSE = 0.25  # seconds between two attempts to connect
_UNANSWERED = 16  # calls on their way: while they are worked off, the next rows are encoded
CALL = 500  # entities a call, for which Redis does nothing else for 4 ms

T = TypeVar("T")
log = logging.getLogger(__name__)

# Sets all fields of an entity, or none where what is stored is as new. Compares event times and, of equal ones, the
# times of writing, which stand in a protobuf Timestamp as varints: field 1 the seconds and 2 the nanoseconds of the
# event, 14 and 15 those of writing. Not as texts, since Lua compares those by the server's locale, and not as one
# number, since nanoseconds since 1970 do not fit into Lua's 53 bits. What Feast wrote itself has no time of writing
# and gives way to a row of the same event.
_PUT_NEWER = """
local width, written, row = tonumber(ARGV[1]), 0, {}
for column = 1, width do row[2 * column] = ARGV[1 + column] end
local places = {[8] = 1, [16] = 2, [112] = 3, [120] = 4}

local function parsed(stamp)
  local found, position = {0, 0, nil, 0}, 1
  while position <= #stamp do
    local place, last = places[stamp:byte(position)], position + 1
    while stamp:byte(last) >= 128 do last = last + 1 end
    local negative, value = last - position == 10, 0
    for index = math.min(last, position + 9), position + 1, -1 do
      local bits = stamp:byte(index) % 128
      value = value * 128 + (negative and 127 - bits or bits)
    end
    if place then found[place] = negative and -value - 1 or value end
    position = last + 1
  end
  found[3] = found[3] or (found[4] > 0 and 0) or -math.huge
  return found
end

local function newer(stamp, stored)
  if not stored then return true end
  if stamp == stored then return false end
  local ours, theirs = parsed(stamp), parsed(stored)
  for place = 1, 4 do
    if ours[place] ~= theirs[place] then return ours[place] > theirs[place] end
  end
  return false
end

for number, key in ipairs(KEYS) do
  local first = 1 + width * number
  if newer(ARGV[first + 1], redis.call('HGET', key, ARGV[2])) then
    row[1] = key
    for column = 1, width do row[2 * column + 1] = ARGV[first + column] end
    redis.call('HSET', unpack(row, 1, 2 * width + 1))
    written = written + 1
  end
end
return written
"""


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
        self._connection: Any = None
        self._script = b""
        self._failing_since: float | None = None

    def run_id(self) -> str:
        """The server's name for the time since its start: another one after a restart."""
        server: Any = self._patiently(self._client.info, "server")
        return str(server["run_id"])

    def put_newer(
        self, fields: Sequence[bytes], batches: Iterable[tuple[Sequence[bytes], Sequence[Sequence[bytes]]]]
    ) -> Written:
        """Sets the fields of each entity whose stored value is older, some hundred entities at once.

        fields: their names, that of the Timestamp first. batches: (n keys, a column of n values for each field).
        What was set when this fails, stays, and may be set again: to repeat it changes nothing.
        """
        unanswered: deque[tuple[int, Any]] = deque()
        total = written = 0
        try:
            for keys, columns in batches:
                for start in range(0, len(keys), CALL):
                    part = slice(start, start + CALL)
                    unanswered.append((len(keys[part]), self._call(fields, keys[part], [c[part] for c in columns])))
                    self._send(unanswered)
                    total += unanswered[-1][0]
                    if len(unanswered) > _UNANSWERED:
                        written += self._answer(unanswered)
            while unanswered:
                written += self._answer(unanswered)
        finally:
            self.close()
        return Written(written, total - written)

    def close(self) -> None:
        """Gives the connection up, with whatever is on its way."""
        if self._connection is not None:
            self._connection.disconnect()
            self._client.connection_pool.release(self._connection)
            self._connection = None

    def _call(self, fields: Sequence[bytes], keys: Sequence[bytes], columns: Sequence[Sequence[bytes]]) -> Any:
        values = chain.from_iterable(zip(*columns, strict=True))
        return self._connected().pack_command("EVALSHA", self._script, len(keys), *keys, len(fields), *fields, *values)

    def _connected(self) -> Any:
        """The connection; the script is known to the server."""
        if self._connection is None:
            self._patiently(self._connect)
        return self._connection

    def _connect(self) -> None:
        self._script = str(self._client.script_load(_PUT_NEWER)).encode()
        self._connection = self._client.connection_pool.get_connection()

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

    def _send(self, unanswered: deque[tuple[int, Any]]) -> None:
        """Sends the last call; on a connection that broke, sends all unanswered ones on a new one."""
        from redis.exceptions import RedisError

        try:
            self._connected().send_packed_command(unanswered[-1][1], check_health=False)
        except RedisError as error:
            self._resend(unanswered, error)

    def _answer(self, unanswered: deque[tuple[int, Any]]) -> int:
        """How many entities the oldest call has set."""
        from redis.exceptions import RedisError

        while True:
            try:
                written = int(self._connected().read_response())
            except RedisError as error:
                self._resend(unanswered, error)
                continue
            unanswered.popleft()
            self._failing_since = None
            return written

    def _resend(self, unanswered: deque[tuple[int, Any]], error: Exception) -> None:
        """Sends all of them on a new connection. The patience goes on from call to call until one is answered."""
        from redis.exceptions import RedisError

        self._failing_since = self._failing_since or time.monotonic()
        while _passes(error) and time.monotonic() < self._failing_since + self._patience:
            log.warning("Redis at %s: %s; sending %d calls again", self._address, error, len(unanswered))
            self.close()
            time.sleep(_PAUSE)
            connection = self._connected()
            try:
                for _, call in unanswered:
                    connection.send_packed_command(call, check_health=False)
                return
            except RedisError as again:
                error = again
        raise self._failure(error) from error

    def _failure(self, error: Exception) -> Failure:
        from redis.exceptions import AuthenticationError, OutOfMemoryError

        remedy = "check that it runs and that global.services.redis or global.redis.external names it"
        if isinstance(error, AuthenticationError) or "NOAUTH" in str(error) or "WRONGPASS" in str(error):
            remedy = "check the password in the Secret that global.redis.existingSecret names"
        elif isinstance(error, OutOfMemoryError):
            remedy = "raise redis.maxmemory and its memory limit; what is stored stays readable"
        return Failure(f"Redis at {self._address} failed ({error}): {remedy}")


def _passes(error: BaseException) -> bool:
    """Whether it is of the kind that a restart or a failover brings and ends."""
    from redis import exceptions as of

    if isinstance(error, of.AuthenticationError):
        return False
    return isinstance(error, of.ConnectionError | of.TimeoutError | of.NoScriptError | of.ReadOnlyError)


def _client(settings: RedisSettings) -> Redis:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return Redis(
        host=settings.host,
        port=int(settings.port),
        password=settings.password,
        socket_connect_timeout=5,
        socket_timeout=30,
        retry=Retry(NoBackoff(), 0),  # here it is known what may be sent again
    )
