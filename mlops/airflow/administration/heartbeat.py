"""Is this pod's Airflow component alive? The probe of scheduler, DAG processor and triggerer.

    python -m mlops.airflow.administration.heartbeat TriggererJob

It asks the database what `airflow jobs check` asks, without importing Airflow: 0.1 s of CPU instead of 4. The
database's address is DATABASE_URL, its password PGPASSWORD, as everywhere in the chart.
"""

import os
import socket
import sys
from contextlib import closing

LIMIT = 90.0  # seconds; a component beats every 5 s, and hangs rather than works when it has not for so long

_SINCE_LAST_BEAT = """
SELECT extract(epoch FROM now() - latest_heartbeat)::float FROM job
WHERE job_type = %s AND hostname = %s ORDER BY latest_heartbeat DESC LIMIT 1
"""


def main(arguments: list[str]) -> int:
    """The exit code of the probe: 0 while the component beats or the database cannot tell, else 1."""
    import psycopg2

    (job_type,) = arguments
    try:
        since = since_last_beat(os.environ["DATABASE_URL"], job_type, own_address())
    except psycopg2.OperationalError as error:
        print(f"the database cannot be asked, and a restart would not change that: {error}")  # noqa: T201
        return 0
    if since is None:
        print(f"no {job_type} of {own_address()} has ever beaten")  # noqa: T201
        return 1
    if since > LIMIT:
        print(f"the {job_type} of {own_address()} has not beaten for {since:.0f} s")  # noqa: T201
        return 1
    return 0


def since_last_beat(url: str, job_type: str, hostname: str) -> float | None:
    """Seconds since a job of this type on this host last beat; None where there was none."""
    import psycopg2

    with closing(psycopg2.connect(url, connect_timeout=5)) as connection, connection.cursor() as cursor:
        cursor.execute(_SINCE_LAST_BEAT, (job_type, hostname))
        row = cursor.fetchone()
        return None if row is None else float(row[0])


def own_address() -> str:
    """What Airflow writes as the host of a job: [core] hostname_callable is get_host_ip_address."""
    return socket.gethostbyname(socket.getfqdn())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
