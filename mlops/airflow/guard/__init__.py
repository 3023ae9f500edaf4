"""What stands before Airflow's server: how much it is asked at once and in one request, by whom, and how it is shown.

Each is a middleware of the whole server, its plugins, its login and the API of tasks included. The limits are of the
section [maestro] of airflow.cfg, which the chart writes.
"""

from __future__ import annotations

from typing import Any

# What the chart says where nobody says otherwise.
LIMITS = {
    "max_conf_bytes": 64 << 10,
    "max_body_bytes": 1 << 20,
    "login_failures": 5,
    "login_pause": 60,  # seconds
    "minimum_password_length": 12,
}


def middlewares() -> list[dict[str, Any]]:
    """As a plugin of Airflow hands them over: the first one is nearest to the application.

    Raises AirflowConfigException where a limit in airflow.cfg is no number.
    """
    from airflow.configuration import conf

    from mlops.airflow.guard.bodies import Bodies
    from mlops.airflow.guard.crowd import Crowd
    from mlops.airflow.guard.headers import Headers
    from mlops.airflow.guard.logins import Logins
    from mlops.airflow.guard.passwords import Passwords

    limits = {name: conf.getint("maestro", name, fallback=usual) for name, usual in LIMITS.items()}
    pool = ("sql_alchemy_pool_size", "sql_alchemy_max_overflow")
    connections = sum(conf.getint("database", name) for name in pool)
    arguments: dict[Any, dict[str, Any]] = {
        Crowd: {"connections": connections},
        Passwords: {"minimum": limits["minimum_password_length"]},
        Logins: {"failures": limits["login_failures"], "pause": limits["login_pause"]},
        Bodies: {"conf": limits["max_conf_bytes"], "body": limits["max_body_bytes"]},
        Headers: {},
    }
    return [
        {"name": f"Maestro: {middleware.__name__}", "middleware": middleware, "kwargs": given}
        for middleware, given in arguments.items()
    ]
