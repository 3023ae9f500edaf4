"""What Celery is told beside airflow.cfg ([celery] celery_config_options): as whom it comes to Redis, and where in it.

airflow.cfg has the address without user and password, which come from the environment. So any character may be in a
password, and no file and no argument shows it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG

from mlops.config import RedisSettings

# What all keys and channels of Celery in Redis begin with: those that its user may use (images/redis/redis-start).
PREFIX = "airflow:"
# And what its channels go on with. kombu's own has the number of the database in it, of which the list of rights knows
# nothing; that it begins with a slash and ends with a dot is how kombu tells it from the channel's name.
FANOUT_PREFIX = "/fanout."


def config(told: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Celery's settings out of those that Airflow makes of airflow.cfg.

    Whoever is told of no Redis, as what only asks which executor there is, gets an address at which nobody is let in. A
    broker of one's own, with a user in its address or another scheme, is left as it is.
    """
    from sqlalchemy.pool import NullPool

    address = urlsplit(told["broker_url"])
    if address.username is not None or address.scheme not in ("redis", "rediss"):
        return dict(told)
    made = dict(told)
    ours = {"global_keyprefix": PREFIX, "fanout_prefix": FANOUT_PREFIX}
    made["broker_transport_options"] = {**told["broker_transport_options"], **ours}
    # What became of a message is written by one statement, and a connection that is kept would be one for each process
    # of each worker.
    made["database_engine_options"] = {**told.get("database_engine_options", {}), "poolclass": NullPool}
    # A database that is away for a minute, or that has another password than this process by now, is asked again.
    # After that the message is acknowledged without a result, and its place in the scheduler taken until a new start.
    made |= {"result_backend_always_retry": True, "result_backend_max_retries": 15}
    if "broker_use_ssl" in told:
        made["broker_use_ssl"] = {**told["broker_use_ssl"], "ssl_check_hostname": True}
    if RedisSettings.keys() - {"MAESTRO_REDIS_CA"} <= environment.keys():
        redis = RedisSettings.from_environment(environment)
        user, password = quote(redis.username, safe=""), quote(redis.password, safe="")
        made["broker_url"] = urlunsplit(address._replace(netloc=f"{user}:{password}@{address.netloc}"))
    return made


CONFIG = config(DEFAULT_CELERY_CONFIG, os.environ)
