"""Certificates over upgrades: Helm keeps them in a cluster, and makes those anew that end soon or have other names."""

import base64
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.charts.conftest import Object
from tests.contract.test_rotation import WORKLOADS, in_a_cluster
from tests.kube_apiserver import KubeApiserver, Namespace, call

LABEL = "maestro/certificates"
DAY = 86400


class Release:
    """What upgrades with TLS would apply, of which Secrets are applied."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self.namespace, self.folder = namespace, folder
        self.secrets: dict[str, Object] = {}
        self.labels: dict[str, str] = {}

    def upgrade(self, **services: Any) -> tuple[set[str], set[str]]:
        """The components whose certificate is another one than before, and the workloads that start anew."""
        values = {"global": {"tls": {"enabled": True, "renewDays": 30}, "services": services}}
        objects = in_a_cluster(self.namespace, self.folder, values)
        made = {
            entry["metadata"]["name"].removeprefix("maestro-tls-"): entry
            for entry in objects
            if entry["kind"] == "Secret" and entry["metadata"]["name"].startswith("maestro-tls-")
        }
        labels = {
            entry["metadata"]["name"].removeprefix("maestro-"): entry["spec"]["template"]["metadata"]["labels"][LABEL]
            for entry in objects
            if entry["kind"] in WORKLOADS
        }
        for name, secret in made.items():
            if name in self.secrets:
                body = {"data": secret["data"], "metadata": {"annotations": secret["metadata"].get("annotations")}}
                call(self.namespace.admin, "PATCH", self.namespace.path(f"secrets/maestro-tls-{name}"), body)
            else:
                self.namespace.create(secret)
        others = {name for name in made if name not in self.secrets or made[name]["data"] != self.secrets[name]["data"]}
        anew = {name for name in labels if labels[name] != self.labels.get(name)}
        self.secrets, self.labels = made, labels
        return others, anew

    def ends_in(self, component: str, days: float) -> None:
        body = {"metadata": {"annotations": {"maestro/ends": str(int(time.time() + days * DAY))}}}
        call(self.namespace.admin, "PATCH", self.namespace.path(f"secrets/maestro-tls-{component}"), body)

    def certificate(self, component: str, key: str = "tls.crt") -> x509.Certificate:
        return x509.load_pem_x509_certificate(base64.b64decode(self.secrets[component]["data"][key]))


@pytest.fixture
def release(kube_apiserver: KubeApiserver, tmp_path: Path) -> Release:
    return Release(kube_apiserver.namespace(), tmp_path)


def test_an_upgrade_makes_those_anew_that_end_soon_and_restarts_who_shows_them(release: Release) -> None:
    made, _ = release.upgrade()
    assert {"authority", "ca", "mlflow", "postgresql"} <= made
    assert release.upgrade() == (set(), set()), "the first upgrade restarts nothing"
    release.ends_in("mlflow", 31)
    release.ends_in("airflow-api-server", 29)
    assert release.upgrade() == ({"airflow-api-server"}, {"airflow-api-server"})
    release.certificate("airflow-api-server").verify_directly_issued_by(release.certificate("ca", "ca.crt"))
    assert release.upgrade() == (set(), set())


def test_another_name_makes_a_certificate_anew_and_another_authority_all_of_them(
    release: Release,
) -> None:
    made, workloads = release.upgrade()
    tracking, authority = {"mlflow": {"name": "tracking"}}, release.certificate("ca", "ca.crt")
    others, anew = release.upgrade(**tracking)
    assert others == {"mlflow"}
    assert "mlflow" in anew
    release.ends_in("authority", 29)
    assert release.upgrade(**tracking) == (made, workloads)
    assert release.certificate("ca", "ca.crt") != authority
    release.certificate("mlflow").verify_directly_issued_by(release.certificate("ca", "ca.crt"))
