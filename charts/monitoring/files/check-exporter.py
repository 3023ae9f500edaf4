"""Sends the StatsD exporter a message at STATSD_HOST and STATSD_PORT, and sees at METRICS_PORT that one arrived."""

import os
import re
import socket
import time
import urllib.request

host, port = os.environ["STATSD_HOST"], int(os.environ["STATSD_PORT"])
url = f"http://{host}:{os.environ['METRICS_PORT']}/metrics"
patience = float(os.environ.get("PATIENCE", "30"))  # seconds


def packets() -> float:
    with urllib.request.urlopen(url, timeout=10) as answer:  # an error status is raised
        found = re.search(r"^statsd_exporter_udp_packets_total (\S+)$", answer.read().decode(), re.MULTILINE)
    if not found:
        raise SystemExit(f"{url} does not say how many packets arrived: is it another program's?")
    return float(found[1])


before, deadline = packets(), time.monotonic() + patience
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    while packets() == before:
        if time.monotonic() > deadline:
            raise SystemExit(f"{host}:{port} takes no UDP: compare global.services.statsd with the exporter's Service")
        # The mapping drops it, so that no metric stays of it.
        sender.sendto(b"airflow.dag_processing.last_num_of_db_queries.helm_test:0|g", (host, port))
        time.sleep(0.2)
print(f"{host}:{port}: a packet arrived")
