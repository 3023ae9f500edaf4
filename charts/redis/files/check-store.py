"""Writes a value to Redis by its service name, reads it, removes it, and asks whether Redis keeps all it is given."""

import os
import uuid

import redis

where = f"{os.environ['REDIS_HOST']}:{os.environ['REDIS_PORT']}"
store = redis.Redis(os.environ["REDIS_HOST"], int(os.environ["REDIS_PORT"]), password=os.environ["REDISCLI_AUTH"])
key, content = f"helm-test/{uuid.uuid4()}", uuid.uuid4().bytes
try:
    store.set(key, content, ex=60)
    if store.get(key) != content:
        raise SystemExit(f"{where}: {key} holds something else than was written")
    store.delete(key)
    persistence, memory = store.info("persistence"), store.info("memory")
except redis.RedisError as error:
    raise SystemExit(f"{where}: {error}") from error
if persistence["aof_enabled"] and persistence["aof_last_write_status"] != "ok":
    raise SystemExit(f"{where} cannot write its file ({persistence['aof_last_write_status']}): is the volume full?")
if memory["maxmemory_policy"] != "noeviction":
    raise SystemExit(
        f"{where} evicts features ({memory['maxmemory_policy']}): set redis.conf.maxmemory-policy to noeviction"
    )
print(f"{where}: a value written and read, {memory['used_memory_human']} of {memory['maxmemory_human']} in use")
