"""What Celery is told of its broker: any password, the certificate, its own part of Redis."""

from urllib.parse import unquote, urlsplit

import pytest
from sqlalchemy.pool import NullPool

from mlops.airflow.administration.broker import FANOUT_PREFIX, PREFIX, config

TOLD = {"broker_url": "redis://redis:6379/2", "broker_transport_options": {"visibility_timeout": 60}}
REDIS = {
    "MAESTRO_REDIS_HOST": "redis",
    "MAESTRO_REDIS_PORT": "6379",
    "MAESTRO_REDIS_USERNAME": "celery",
    "MAESTRO_REDIS_PASSWORD": "it's @ any/password? #%41",
}


def test_any_password_comes_through_and_the_place_stays() -> None:
    address = urlsplit(config(TOLD, REDIS)["broker_url"])
    assert (address.hostname, address.port, address.path) == ("redis", 6379, "/2")
    assert (address.username, unquote(address.password or "")) == ("celery", REDIS["MAESTRO_REDIS_PASSWORD"])


def test_what_airflow_says_stays_and_the_prefix_is_added() -> None:
    made = config(TOLD, REDIS)
    assert made["broker_transport_options"] == {
        "visibility_timeout": 60,
        "global_keyprefix": PREFIX,
        "fanout_prefix": FANOUT_PREFIX,
    }
    assert made["database_engine_options"] == {"poolclass": NullPool}
    assert "broker_use_ssl" not in made


def test_a_server_that_speaks_tls_is_verified_by_name_too() -> None:
    made = config({**TOLD, "broker_use_ssl": {"ssl_ca_certs": "/ca.crt"}}, REDIS)
    assert made["broker_use_ssl"] == {"ssl_ca_certs": "/ca.crt", "ssl_check_hostname": True}


def test_who_is_told_of_no_redis_reads_the_settings_all_the_same() -> None:
    assert config(TOLD, {})["broker_url"] == TOLD["broker_url"]


@pytest.mark.parametrize("own", ["redis://me:secret@elsewhere:6379/0", "amqp://rabbit//"])
def test_a_broker_of_ones_own_is_left_as_it_is(own: str) -> None:
    assert config({**TOLD, "broker_url": own}, REDIS) == {**TOLD, "broker_url": own}
