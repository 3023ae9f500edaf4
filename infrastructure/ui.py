"""`make ui`: forward the ports of all that has a page or an API at once, and go on when pods are replaced."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from infrastructure import sensors
from infrastructure.release import NotInstalled
from infrastructure.services import admin, mlflow_writer, object_store_keys, service

CLICKS = "model-server-ctr"  # the server of ctr_model, which a release has where modelServer.models names it so


class Page(NamedTuple):
    """What is shown of a component: the port of its Service by name, and where it is on this machine.

    optional: whether a release may be without it.
    """

    title: str
    component: str
    port: str
    local: int
    path: str = ""
    login: Callable[[], str] = str  # nothing, where everybody gets in
    optional: bool = False


PAGES = (
    Page("Airflow", "airflow-api-server", "http", 8080, login=lambda: " / ".join(admin())),
    Page("MLflow", "mlflow", "http", 5000, login=lambda: " / ".join(mlflow_writer())),
    Page("MinIO", "minio", "console", 9001, login=lambda: " / ".join(object_store_keys())),
    Page("Model server", "model-server", "http", 8081),
    Page("Clicks", CLICKS, "http", 8082, optional=True),
    Page("Features", "feast", "http", 6566),
    Page("Sensor trainer", sensors.COMPONENT, "http", 8000, "/docs", lambda: f"token {sensors.token()}"),
    Page("Prometheus", "prometheus", "http", 9090, optional=True),
    Page("Grafana", "grafana", "http", 3000, login=lambda: " / ".join(admin("grafana")), optional=True),
)


def installed() -> list[Page]:
    """The pages that the release has. Raises NotInstalled where one is missing that each release has."""

    def there(page: Page) -> bool:
        try:
            service(page.component)
        except NotInstalled:
            if not page.optional:
                raise
            return False
        return True

    return [page for page in PAGES if there(page)]


def addresses(*, logins: bool = True) -> list[str]:
    """A line for each page: its address while `make ui` runs, and what to log in with where that is to be shown."""

    def line(page: Page) -> str:
        address = f"{service(page.component).scheme}://127.0.0.1:{page.local}{page.path}"
        return f"{page.title:<14} {address}   {page.login() if logins else ''}".rstrip()

    return [line(page) for page in installed()]


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    taken = [page.local for page in PAGES if _taken(page.local)]
    if taken:
        print(
            f"error: port {', '.join(map(str, taken))} of this machine is in use: stop what listens there",
            file=sys.stderr,
        )
        return 1
    try:
        commands = [service(page.component).forwarding(page.port, page.local) for page in installed()]
        lines = addresses()
    except NotInstalled as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    print("Ctrl-C ends it", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no forward outlives this program
    forwards: dict[int, subprocess.Popen[bytes]] = {}
    try:
        while True:
            for number, command in enumerate(commands):
                # kubectl ends its forward with the pod it went to; the Service has another by then.
                if number not in forwards or forwards[number].poll() is not None:
                    forwards[number] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(1)
    except KeyboardInterrupt:
        return 0
    finally:
        for forward in forwards.values():
            forward.terminate()


if __name__ == "__main__":
    sys.exit(main())
