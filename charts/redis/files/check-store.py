"""Writes a value to Redis by its service name, reads it, removes it, and asks whether Redis keeps all it is given.

It comes as the user of the online store, who must not get at the queue of training jobs.
"""

import os
import uuid

import redis

ca = os.environ.get("MAESTRO_REDIS_CA")
where = f"{os.environ['MAESTRO_REDIS_HOST']}:{os.environ['MAESTRO_REDIS_PORT']}"
store = redis.Redis(
    os.environ["MAESTRO_REDIS_HOST"],
    int(os.environ["MAESTRO_REDIS_PORT"]),
    username=os.environ["MAESTRO_REDIS_USERNAME"],
    password=os.environ["MAESTRO_REDIS_PASSWORD"],
    **({"ssl": True, "ssl_ca_certs": ca, "ssl_check_hostname": True} if ca else {}),
)
key, content = f"helm-test/{uuid.uuid4()}/maestro", uuid.uuid4().bytes
try:
    store.hset(key, "value", content)
    store.expire(key, 60)
    if store.hget(key, "value") != content:
        raise SystemExit(f"{where}: {key} holds something else than was written")
    store.delete(key)
    persistence, memory = store.info("persistence"), store.info("memory")
    try:
        store.delete("rq:queue:helm-test")
        raise SystemExit(
            f"{where}: the user of the online store may write to the queue: is it of this release's image?"
        )
    except redis.exceptions.NoPermissionError:
        pass
except redis.RedisError as error:
    raise SystemExit(f"{where}: {error}") from error
if persistence["aof_enabled"] and persistence["aof_last_write_status"] != "ok":
    raise SystemExit(f"{where} cannot write its file ({persistence['aof_last_write_status']}): is the volume full?")
if memory["maxmemory_policy"] != "noeviction":
    raise SystemExit(
        f"{where} evicts features ({memory['maxmemory_policy']}): set redis.conf.maxmemory-policy to noeviction"
    )
print(f"{where}: a value written and read, {memory['used_memory_human']} of {memory['maxmemory_human']} in use")
