"""The release's Services by a stand-in for kubectl, which says what kubectl says."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from infrastructure import sensors
from infrastructure.release import NotInstalled, wait_until
from infrastructure.services import (
    CA_SECRET,
    SECRET_NAME,
    USERNAME,
    admin,
    mlflow_writer,
    object_store_keys,
    port_forward,
    service,
)
from tests.unit.programs import put_service, services_case, stand_in

KUBECTL = """#!/bin/sh
echo "$*" >> {folder}/calls
case "$*" in
  *port-forward*) {forward};;
  {services}
  *" get secret ours "*) echo '{{"data": {{"admin-password": "YQ==", "root-user": "Yg==", "root-password": "Yw==",
    "token": "ZA==", "writer-password": "ZQ==", "ca.crt": "Y2E="}}}}';;
  *" get secret empty "*) echo '{{}}';;
  *) echo "kubectl is not asked for $*" >&2; exit 1;;
esac
"""
FORWARDS = "echo 'Forwarding from 127.0.0.1:4711 -> 8080'; exec sleep 60"
MANY = """echo 'Forwarding from 127.0.0.1:4711 -> 8080'
    yes 'Handling connection for 4711' | head -n 20000
    touch {done}
    exec sleep 60"""
REFUSES = "echo 'error: unable to forward port because pod is not running' >&2; exit 1"


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], list[str]]]:
    """Puts a kubectl on the PATH, which forwards as it is told to; returns what reads the calls."""

    def put(forward: str = FORWARDS) -> Callable[[], list[str]]:
        script = KUBECTL.format(folder=tmp_path, services=services_case(tmp_path), forward=forward)
        stand_in(tmp_path, monkeypatch, "kubectl", script)
        return lambda: (tmp_path / "calls").read_text().splitlines()

    return put


# What is found


def test_a_service_is_found_by_the_labels_of_its_release_and_its_component(kubectl, tmp_path):
    put_service(tmp_path, "mlflow", {"http": 80}, {})
    calls = kubectl()
    found = service("mlflow")
    assert (found.name, found.port("http")) == ("our-mlflow", 80)
    (call,) = calls()
    assert " -l app.kubernetes.io/instance=maestro,app.kubernetes.io/component=mlflow " in call


def test_a_component_without_a_service_is_named_with_where_it_was_looked_for_and_what_to_do(kubectl):
    kubectl()
    with pytest.raises(NotInstalled) as error:
        service("mlflow")
    assert str(error.value) == (
        'no service of release "maestro" with component "mlflow" in namespace "maestro": install it with '
        "'make install', or name another release by RELEASE and NAMESPACE"
    )


def test_of_two_services_with_the_labels_of_one_component_none_is_taken(kubectl, tmp_path):
    """`kubectl expose` makes one with the labels of what it exposes."""
    put_service(tmp_path, "mlflow", {"http": 80}, {}, "our-mlflow", "exposed")
    kubectl()
    with pytest.raises(NotInstalled, match=r"more than one service .* \(our-mlflow, exposed\): take these labels off"):
        service("mlflow")


def test_a_port_that_is_not_called_so_is_refused_with_those_that_there_are(kubectl, tmp_path):
    put_service(tmp_path, "minio", {"api": 90, "console": 91}, {})
    kubectl()
    with pytest.raises(NotInstalled, match='"our-minio" in namespace "maestro" has no port "http" but api, console'):
        service("minio").port("http")


# What opens it


def test_logins_are_what_the_services_say_and_their_secrets_hold(kubectl, tmp_path):
    put_service(tmp_path, "airflow-api-server", {"http": 80}, {USERNAME: "ada", SECRET_NAME: "ours"})
    for component in ("minio", "sensor-trainer"):
        put_service(tmp_path, component, {"http": 80}, {SECRET_NAME: "ours"})
    put_service(tmp_path, "mlflow", {"http": 80}, {USERNAME: "writer", SECRET_NAME: "ours"})
    kubectl()
    assert (admin(), object_store_keys(), sensors.token()) == (("ada", "a"), ("b", "c"), "d")
    assert mlflow_writer() == ("writer", "e")


@pytest.mark.parametrize(
    ("annotations", "cause"),
    [
        ({SECRET_NAME: "ours"}, 'Service "our-airflow-api-server" .* no annotation "maestro/username": .* upgrade'),
        ({USERNAME: "ada"}, 'Service "our-airflow-api-server" .* no annotation "maestro/secret-name": .* upgrade'),
        ({USERNAME: "ada", SECRET_NAME: "empty"}, 'Secret "empty" .* has no key "admin-password": add it'),
        ({USERNAME: "ada", SECRET_NAME: "lost"}, "get secret lost"),
    ],
    ids=["no user", "no Secret", "no key", "a Secret that is not there"],
)
def test_a_login_that_is_nowhere_is_refused_with_what_is_missing(kubectl, tmp_path, annotations, cause):
    put_service(tmp_path, "airflow-api-server", {"http": 80}, annotations)
    kubectl()
    with pytest.raises(NotInstalled, match=cause):
        admin()


# Forwards


def test_a_forward_leads_to_the_port_of_that_name_whatever_the_service_is_called(kubectl, tmp_path):
    put_service(tmp_path, "minio", {"api": 90, "console": 91}, {})
    calls = kubectl()
    with port_forward("minio", "console") as url:
        assert url == "http://127.0.0.1:4711"
    assert calls()[-1] == "--namespace maestro port-forward service/our-minio :91"


def test_a_forward_that_carries_twenty_thousand_connections_goes_on(kubectl, tmp_path):
    done = tmp_path / "done"
    put_service(tmp_path, "mlflow", {"http": 80}, {})
    kubectl(MANY.format(done=done))
    with port_forward("mlflow"):
        assert wait_until(done.exists, 30, "the end of what kubectl says")


def test_a_forward_that_is_refused_says_why(kubectl, tmp_path):
    put_service(tmp_path, "mlflow", {"http": 80}, {})
    kubectl(REFUSES)
    with pytest.raises(NotInstalled, match=r"service our-mlflow: error: .* not running"), port_forward("mlflow"):
        pass


def test_what_speaks_tls_is_forwarded_as_that_and_trusted_by_all_libraries_as_long_as_it_is(
    kubectl, tmp_path, monkeypatch
):
    put_service(tmp_path, "mlflow", {"http": 5000}, {CA_SECRET: "ours"})
    kubectl()
    monkeypatch.setenv("SSL_CERT_FILE", "before")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    names = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE", "MLFLOW_TRACKING_SERVER_CERT_PATH")
    with port_forward("mlflow") as url:
        assert url == "https://127.0.0.1:4711"
        assert {Path(os.environ[name]).read_text() for name in names} == {"ca"}
    assert os.environ["SSL_CERT_FILE"] == "before"
    assert "REQUESTS_CA_BUNDLE" not in os.environ
