"""`make ui`: forward the ports of all that has a page or an API at once, and go on when pods are replaced."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

from infrastructure.release import NAMESPACE, NotInstalled, kubectl, object_name, secret

# What is shown, the component whose Service it is, the Service's port, the port of this machine, and the page's path.
PAGES = (
    ("Airflow", "airflow-api-server", 8080, 8080, ""),
    ("MLflow", "mlflow", 5000, 5000, ""),
    ("MinIO", "minio", 9001, 9001, ""),
    ("Model server", "model-server", 8080, 8081, ""),
    ("Features", "feast", 6566, 6566, ""),
    ("Sensor trainer", "sensor-trainer", 8000, 8000, "/docs"),
)


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    taken = [local for *_, local, _ in PAGES if _taken(local)]
    if taken:
        print(
            f"error: port {', '.join(map(str, taken))} of this machine is in use: stop what listens there",
            file=sys.stderr,
        )
        return 1
    try:
        for _, component, *_ in PAGES:
            kubectl("get", "service", object_name(component))
        logins = {
            "Airflow": f"admin / {secret('airflow', 'admin-password')}",
            "MinIO": f"{secret('minio', 'root-user')} / {secret('minio', 'root-password')}",
            "Sensor trainer": f"token {secret('sensor-trainer', 'token')}",
        }
    except NotInstalled as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for title, _, _, local, path in PAGES:
        print(f"{title:<14} http://127.0.0.1:{local}{path}   {logins.get(title, '')}")
    print("Ctrl-C ends it", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no forward outlives this program
    forwards: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while True:
            for _, component, port, local, _ in PAGES:
                # kubectl ends its forward with the pod it went to; the Service has another by then.
                if component not in forwards or forwards[component].poll() is not None:
                    command = [
                        "kubectl",
                        "-n",
                        NAMESPACE,
                        "port-forward",
                        f"service/{object_name(component)}",
                        f"{local}:{port}",
                    ]
                    forwards[component] = subprocess.Popen(
                        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                    )
            time.sleep(1)
    except KeyboardInterrupt:
        return 0
    finally:
        for forward in forwards.values():
            forward.terminate()


if __name__ == "__main__":
    sys.exit(main())
