"""Feast's feature store: its registry in PostgreSQL, values to serve in Redis, history as Parquet in a bucket."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, urlsplit

from mlops.config import FeastSettings, RedisSettings
from mlops.result import Failure
from mlops.stores.object_store import ObjectStore, bucket

if TYPE_CHECKING:
    from feast import FeatureStore, FileSource, RepoConfig

PROJECT = "maestro"
EVENT_TIMESTAMP, CREATED = "event_timestamp", "created"  # the time columns of every feature table, UTC
_CONNECT_SECONDS = 5
# Connections of a process to the registry; charts/feast/templates/_connections.tpl counts on their sum.
_POOL = {"pool_size": 2, "max_overflow": 3}


@dataclass(frozen=True)
class FeatureStoreConfig:
    """Where the parts of the feature store are.

    registry: SQLAlchemy's address of the registry; online: Feast's connection string of Redis; both hold a password.
    offline: the folder with one folder a feature view; s3_endpoint: its server, None where `offline` is a local path.
    registry_cache: seconds for which the registry is not read again; 0: until it is told to.
    """

    registry: str = field(repr=False)
    online: str = field(repr=False)
    offline: str
    s3_endpoint: str | None
    registry_cache: int = 60

    @classmethod
    def from_environment(cls) -> Self:
        feast = FeastSettings.from_environment()
        return cls(
            registry=_with_password(feast.registry, feast.registry_password),
            online=_connection_string(RedisSettings.from_environment()),
            offline=f"s3://{feast.bucket}",
            s3_endpoint=feast.store.endpoint,
        )

    def path(self, view: str) -> str:
        """The folder that holds the Parquet files of a feature view."""
        return f"{self.offline}/{view}"

    def source(self, view: str) -> FileSource:
        """A feature view's source, as Feast reads it: every Parquet file of its folder."""
        from feast import FileSource
        from feast.data_format import ParquetFormat

        return FileSource(
            name=view,
            path=self.path(view),
            file_format=ParquetFormat(),
            s3_endpoint_override=self.s3_endpoint,
            timestamp_field=EVENT_TIMESTAMP,
            created_timestamp_column=CREATED,
        )

    def repo_config(self) -> RepoConfig:
        """Feast's own configuration, which elsewhere is the file feature_store.yaml."""
        os.environ.setdefault("FEAST_USAGE", "False")  # nothing leaves the cluster
        from feast import RepoConfig

        postgresql = {"connect_args": {"connect_timeout": _CONNECT_SECONDS}, **_POOL}
        return RepoConfig(
            project=PROJECT,
            provider="local",
            registry={
                "registry_type": "sql",
                "path": self.registry,
                "cache_ttl_seconds": self.registry_cache,
                # A server that outlives a restart of PostgreSQL must not keep the connections from before.
                "sqlalchemy_config_kwargs": {
                    "pool_pre_ping": True,
                    **(postgresql if "postgresql" in self.registry else {}),
                },
            },
            online_store={"type": "redis", "connection_string": self.online},
            offline_store={"type": "mlops.stores.offline_store.AsOfOfflineStore"},
            entity_key_serialization_version=3,
        )


def open_feature_store() -> FeatureStore:
    """The platform's feature store. Connects to the registry, not to Redis or the bucket.

    Raises Failure where the registry is away or refuses.
    """
    return open_configured(FeatureStoreConfig.from_environment())


def open_configured(config: FeatureStoreConfig) -> FeatureStore:
    """The feature store of a configuration. Raises Failure where its registry is away or refuses."""
    from feast import FeatureStore

    with explained(config):
        store = FeatureStore(config=config.repo_config())
        _ = store.registry  # connects, and creates the registry's tables where they are missing
    return store


@contextmanager
def explained(config: FeatureStoreConfig) -> Iterator[None]:
    """Turns what Feast raises of its registry and of Redis into a Failure that names the server and the remedy."""
    from redis.exceptions import RedisError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        address = urlsplit(config.registry)
        raise Failure(
            f"Feast's registry, database {address.path.lstrip('/')!r} at {address.hostname}:{address.port}, failed "
            f"({_first_line(error)}): check that PostgreSQL runs, has the database and user of "
            "global.postgresql.databases, and that global.postgresql.existingSecret holds the user's password"
        ) from error
    except RedisError as error:
        raise Failure(
            f"Redis at {config.online.partition(',')[0]} failed ({_first_line(error)}): check that it runs, that "
            "global.services.redis or global.redis.external names it, and that global.redis.existingSecret holds its "
            "password"
        ) from error


def check_online() -> None:
    """Raises Failure where Redis is away or refuses."""
    from redis import Redis

    settings = RedisSettings.from_environment()
    with explained(FeatureStoreConfig.from_environment()):
        Redis(
            **settings.connection,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_CONNECT_SECONDS,
        ).ping()


def feast_bucket() -> ObjectStore:
    """The bucket of the offline store."""
    return bucket(FeastSettings.from_environment().bucket)


def _with_password(address: str, password: str) -> str:
    """The address of a database with a password that may hold any character."""
    parts = urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{quote(user, safe='%')}:{quote(password, safe='')}@{host}").geturl()


def _connection_string(settings: RedisSettings) -> str:
    """Redis as Feast wants it: `host:port,option=value,...`, each value read as JSON and no comma in any.

    As a JSON string a password of digits stays a text, and its commas can be escaped.
    """
    password = json.dumps(settings.password).replace(",", "\\u002c")
    options = {"socket_connect_timeout": _CONNECT_SECONDS, "socket_timeout": 30, **settings.tls}
    told = ",".join(f"{name}={json.dumps(value)}" for name, value in options.items())
    return f"{settings.host}:{settings.port},username={json.dumps(settings.username)},password={password},{told}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
