"""The release's Services: by their labels, their ports by name, and what opens them by what their charts publish."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

import requests

from infrastructure.release import NAMESPACE, NotInstalled, find, kubectl

# What the chart of a Service writes on it: of one that one logs in to, and of one that speaks TLS.
SECRET_NAME = "maestro/secret-name"  # noqa: S105 - the name is none
USERNAME = "maestro/username"
CA_SECRET = "maestro/ca-secret"  # noqa: S105
# By which the libraries of this process, and the programs that it starts, verify servers.
_TRUSTED = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE", "MLFLOW_TRACKING_SERVER_CERT_PATH")
UPGRADE = "an earlier chart made it: upgrade the release with 'make install'"


@dataclass(frozen=True)
class Service:
    """A Service of the release; ports: their numbers by their names."""

    name: str
    ports: Mapping[str, int]
    annotations: Mapping[str, str]

    def port(self, name: str) -> int:
        """The number of a port; raises NotInstalled where none is called so."""
        if name not in self.ports:
            known = ", ".join(self.ports)
            raise NotInstalled(f'{self._place} has no port "{name}" but {known}: {UPGRADE}')
        return self.ports[name]

    def published(self, annotation: str) -> str:
        """The value of an annotation; raises NotInstalled where there is none."""
        if annotation not in self.annotations:
            raise NotInstalled(f'{self._place} has no annotation "{annotation}": {UPGRADE}')
        return self.annotations[annotation]

    def secret(self, key: str) -> str:
        """One value of the Secret that opens it; raises NotInstalled where there is none."""
        return _of_secret(self.published(SECRET_NAME), key)

    @property
    def scheme(self) -> str:
        """`https` where it speaks TLS."""
        return "https" if CA_SECRET in self.annotations else "http"

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """While it lasts, what verifies the Service is what this process trusts, where it speaks TLS."""
        if self.scheme == "http":
            yield
            return
        before = {name: os.environ.get(name) for name in _TRUSTED}
        with tempfile.NamedTemporaryFile("w", suffix=".crt") as file:
            file.write(_of_secret(self.published(CA_SECRET), "ca.crt"))
            file.flush()
            os.environ.update(dict.fromkeys(_TRUSTED, file.name))
            try:
                yield
            finally:
                for name, value in before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value

    def forwarding(self, port: str, local: int | None = None) -> list[str]:
        """The command that forwards a port to one of this machine, to a free one where none is given."""
        command = ["kubectl", "--namespace", NAMESPACE, "port-forward", f"service/{self.name}"]
        return [*command, f"{local or ''}:{self.port(port)}"]

    @property
    def _place(self) -> str:
        return f'Service "{self.name}" in namespace "{NAMESPACE}"'


def _of_secret(name: str, key: str) -> str:
    data = json.loads(kubectl("get", "secret", name, "-o", "json")).get("data", {})
    if key not in data:
        raise NotInstalled(f'Secret "{name}" in namespace "{NAMESPACE}" has no key "{key}": add it')
    return base64.b64decode(data[key]).decode()


def service(component: str) -> Service:
    """The Service of a component; raises NotInstalled where the release has none."""
    found = find("service", component)
    ports = {port.get("name", ""): port["port"] for port in found["spec"]["ports"]}
    return Service(found["metadata"]["name"], ports, found["metadata"].get("annotations", {}))


def admin(component: str = "airflow-api-server") -> tuple[str, str]:
    """Name and password of the admin user of a page that has one."""
    found = service(component)
    return found.published(USERNAME), found.secret("admin-password")


def object_store_keys() -> tuple[str, str]:
    """Access key and secret key of MinIO."""
    minio = service("minio")
    return minio.secret("root-user"), minio.secret("root-password")


def mlflow_writer() -> tuple[str, str]:
    """Name and password of MLflow's user who may write."""
    mlflow = service("mlflow")
    return mlflow.published(USERNAME), mlflow.secret("writer-password")


@contextmanager
def port_forward(component: str, port: str = "http") -> Iterator[str]:
    """Forward a port of a component's Service to a free one of this machine; yields `http://127.0.0.1:<port>`.

    Of a Service that speaks TLS it is https, and verified by the release's authority.
    """
    found = service(component)
    command = found.forwarding(port)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    try:
        line = process.stdout.readline()
        forwards = re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", line)
        if not forwards:
            raise NotInstalled(f"cannot reach service {found.name}: {line.strip() or 'kubectl ended'}")
        # kubectl tells of every connection, and after some thousands stands still where nobody reads it.
        Thread(target=deque, args=(process.stdout, 0), daemon=True).start()
        with found.trusted():
            yield f"{found.scheme}://127.0.0.1:{forwards[1]}"
    finally:
        process.terminate()
        process.wait()


def session() -> requests.Session:
    """One that makes a connection for each request: of one that its server has closed a port-forward tells too late."""
    made = requests.Session()
    made.headers["Connection"] = "close"
    return made
