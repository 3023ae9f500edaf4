"""TLS by values: every server has a certificate and speaks nothing else, and every client of one verifies it.

An evaluator over all rendered objects. What is neither in common.tls.ports nor in PLAIN, and what is told of a server
in a way that it does not know, is a fault.
"""

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.charts.conftest import ROOT, Object, Refused, containers, environment, find, render, template
from tests.charts.network import arrows
from tests.charts.profiles import EVERYTHING, command_pod, pods, task_pod

POOLER = {"pooler": {"enabled": True}}
TLS: dict[str, Any] = {"global": {"tls": {"enabled": True}, "postgresql": POOLER}}
KEDA = {"worker": {"autoscaling": {"keda": True}}}
ISSUER = {"issuerRef": {"name": "platform.example.com", "kind": "ClusterIssuer"}}
CA, CERTIFICATE, KEY = "/etc/tls-ca/ca.crt", "/etc/tls/tls.crt", "/etc/tls/tls.key"
# Ports that stay plain, as docs/security.md says.
PLAIN = {
    ("feast", 8000),  # its metrics
    ("statsd", 9125),
    ("statsd", 9102),
    ("pushgateway", 9091),
    ("prometheus", 9090),
    ("alertmanager", 9093),
    ("postgresql-exporter", 9187),
    ("redis-exporter", 9121),
    ("pod-states", 8080),
    ("airflow-scheduler", 8793),  # logs of what runs
    ("airflow-triggerer", 8794),
    ("airflow-worker", 8793),
}
# How a server is told of its files;
TOLD = {
    "postgresql": {"POSTGRES_TLS": "/etc/tls"},
    "postgresql-pooler": {"POOLER_TLS": "/etc/tls"},
    "redis": ["--tls-cert-file", CERTIFICATE, "--tls-key-file", KEY, "--port", "0", "--tls-port", "6379"],
    "minio": ["--certs-dir", "/etc/tls"],
    "mlflow": [f"--uvicorn-opts=--ssl-certfile={CERTIFICATE} --ssl-keyfile={KEY}"],
    "feast": {"MAESTRO_TLS_CERTIFICATE": CERTIFICATE, "MAESTRO_TLS_KEY": KEY},
    "model-server": {"MAESTRO_TLS_CERTIFICATE": CERTIFICATE, "MAESTRO_TLS_KEY": KEY},
    "sensor-trainer": {"MAESTRO_TLS_CERTIFICATE": CERTIFICATE, "MAESTRO_TLS_KEY": KEY},
    "airflow-api-server": {"AIRFLOW__API__SSL_CERT": CERTIFICATE, "AIRFLOW__API__SSL_KEY": KEY},
}
# Per kind of client, what it is told of the server, and what it verifies the server by.
VERIFIED = {
    "DATABASE_URL": {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": CA},
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": CA},
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": CA},
    "MLFLOW_BACKEND_STORE_URI": {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": CA},
    "MAESTRO_FEAST_REGISTRY": {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": CA},
    "AIRFLOW_CONFIG": {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": CA, "AIRFLOW__API__SSL_CA_FILE": CA},
    "MAESTRO_REDIS_HOST": {"MAESTRO_REDIS_CA": CA},
    "AWS_ENDPOINT_URL_S3": {"AWS_CA_BUNDLE": CA},
    "MLFLOW_TRACKING_URI": {"MLFLOW_TRACKING_SERVER_CERT_PATH": CA, "SSL_CERT_FILE": CA},
    "MAESTRO_AIRFLOW_URL": {"SSL_CERT_FILE": CA},
    "MAESTRO_MODEL_SERVER_URL": {"SSL_CERT_FILE": CA},
    "MAESTRO_SENSOR_TRAINER_URL": {"SSL_CERT_FILE": CA},
    "FEAST_URL": {"SSL_CERT_FILE": CA},
    "MODEL_SERVER_URL": {"SSL_CERT_FILE": CA},
    "SENSOR_TRAINER_URL": {"SSL_CERT_FILE": CA},
    "PGHOST": {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": CA},
    "PGBACKREST_REPO1_S3_ENDPOINT": {"SSL_CERT_FILE": CA},
    # Verified by the address itself, see below.
    "MAESTRO_LEDGER": {},
    "DATA_SOURCE_URI": {},
    "REDIS_ADDR": {},
}
BY_ADDRESS = f"/ledger?sslmode=verify-full&sslrootcert={CA}"


@cache
def speaking() -> dict[str, list[int]]:
    text = (ROOT / "charts/common/templates/_tls.tpl").read_text()
    (body,) = re.findall(r'define "common.tls.ports" -}}\n(.*?)\n{{- end', text, re.DOTALL)
    ports: dict[str, list[int]] = yaml.safe_load(body)
    return ports


OWN = {name: f"our-{name}" for name in [*speaking(), "ca"]}


def made(values: dict[str, Any]) -> list[Object]:
    """All objects, the pod of a task that opens everything, and that of a command."""
    objects = render("maestro", values)
    return [*objects, task_pod(objects), command_pod(objects)]


@pytest.fixture(params=["default", "everything", "api-server beside the scheduler"])
def objects(request: pytest.FixtureRequest) -> list[Object]:
    more = {
        "default": {"sensorTrainer": KEDA},
        "everything": EVERYTHING,
        "api-server beside the scheduler": {"airflow": {"scheduler": {"withApiServer": True}}},
    }[request.param]
    return made({**more, "global": {**more.get("global", {}), **TLS["global"]}})


def owner_of(name: str, component: str) -> str:
    """Whose certificate the container `name` of the pod `component` shows, if one; all model servers have the same."""
    return {"api-server": "airflow-api-server", "model-server": "model-server"}.get(name, component)


def of(name: str, component: str) -> list[int]:
    """The ports that speak TLS in the container `name` of the pod `component`."""
    return speaking().get(owner_of(name, component), []) if name != "scheduler" else []


def test_each_port_that_something_asks_speaks_tls_or_is_listed_as_plain() -> None:
    asked = {(whom, port.number) for _, whom, port in arrows()} - {("airflow-scheduler", 8080)}
    assert asked - PLAIN == {(c, p) for c, ports in speaking().items() for p in ports} - {("minio", 9001)}
    assert asked >= PLAIN, "what is not there is not plain"


def test_each_server_is_told_of_its_certificate_and_key(objects: list[Object]) -> None:
    found = set()
    for component, pod in pods(objects).items():
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            ports = {port["containerPort"] for port in container.get("ports", ())}
            if not (speaks := ports & set(of(container["name"], component))):
                continue
            owner = owner_of(container["name"], component)
            assert speaks == set(speaking()[owner]), f"{owner} has a port more or less than its list"
            found.add(owner)
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts["tls"] == "/etc/tls"
            (volume,) = (volume["secret"] for volume in pod["spec"]["volumes"] if volume["name"] == "tls")
            assert volume["secretName"] == f"maestro-tls-{owner}"
            assert volume["defaultMode"] == 0o440, "PostgreSQL takes no key that others may read"
            told = TOLD[owner]
            if isinstance(told, dict):
                assert told.items() <= environment(container).items()
            else:
                assert not [word for word in told if word not in container["args"]]
    assert found == speaking().keys()


def test_only_a_server_has_its_key(objects: list[Object]) -> None:
    for name, pod in pods(objects).items():
        for container in containers(pod["spec"]):
            mounts = [mount["name"] for mount in container.get("volumeMounts", ())]
            owner = owner_of(container["name"], name)
            main = container["name"] not in ("release-gate", "dags-gate", "scheduler", "restore")
            assert ("tls" in mounts) == (owner in speaking() and main), (name, container["name"])


def test_minio_finds_its_files_by_the_names_that_it_wants(objects: list[Object]) -> None:
    (volume,) = (
        v
        for v in find(objects, "StatefulSet", "maestro-minio")["spec"]["template"]["spec"]["volumes"]
        if v["name"] == "tls"
    )
    assert {entry["key"]: entry["path"] for entry in volume["secret"]["items"]} == {
        "tls.crt": "public.crt",
        "tls.key": "private.key",
    }


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from strings(entry)


# In an address a host may have a user before it and a namespace behind it.
ADDRESS = re.compile(r"([a-z][a-z0-9+]*)://(?:[^/\s@\"']*@)?([a-z0-9-]+)(?:\.[a-z.-]+)?(?::(\d+))?")
DRIVERS = {"postgresql", "postgresql+psycopg2"}
SCHEMES = {
    "postgresql": {*DRIVERS, "postgresql+asyncpg"},
    "postgresql-pooler": DRIVERS,
    "redis": {"rediss"},
}


def test_every_address_of_a_server_of_ours_is_one_of_tls(objects: list[Object]) -> None:
    seen = set()
    for entry in objects:
        for text in strings(entry):
            for scheme, host, _ in ADDRESS.findall(text):
                prefix, _, component = host.partition("-")
                if prefix == "maestro" and component in speaking():
                    seen.add(component)
                    assert scheme in SCHEMES.get(component, {"https"}), f"{entry['metadata']['name']}: {text[:200]}"
    assert seen == speaking().keys()


def test_every_client_verifies_what_it_is_told_of(objects: list[Object]) -> None:
    hosts = re.compile(r"maestro-(?:" + "|".join(speaking()) + r")(?::\d+|/|$|\b)")
    for name, pod in pods(objects).items():
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
        for container in containers(pod["spec"]):
            told = environment(container)
            clients = {key for key, value in told.items() if isinstance(value, str) and hosts.search(value)}
            clients -= {"MLFLOW_SERVER_ALLOWED_HOSTS", "MAESTRO_MODEL_SERVER_DEPLOYMENT", "MAESTRO_REDIS_PORT", "IMAGE"}
            clients |= told.keys() & {"AIRFLOW_CONFIG"}
            assert clients <= VERIFIED.keys(), f"{name}: how does it verify that?"
            for key in clients:
                assert VERIFIED[key].items() <= told.items(), f"{name}/{container['name']}: {key}"
            assert told.get("MAESTRO_LEDGER", BY_ADDRESS).endswith(BY_ADDRESS)
            if clients or any(CA in text for text in strings(container.get("args", []))):
                mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
                assert mounts["tls-ca"]["mountPath"] == "/etc/tls-ca"
                assert volumes["tls-ca"]["secret"] == {
                    "secretName": "maestro-tls-ca",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }
    exporter = find(objects, "Deployment", "maestro-postgresql-exporter")["spec"]["template"]["spec"]["containers"][0]
    assert f"?sslmode=verify-full&sslrootcert={CA}&" in environment(exporter)["DATA_SOURCE_URI"]
    exporter = find(objects, "Deployment", "maestro-redis-exporter")["spec"]["template"]["spec"]["containers"][0]
    assert f"--tls-ca-cert-file={CA}" in exporter["args"]


def test_a_probe_asks_by_https_where_the_port_speaks_it_and_nowhere_else(objects: list[Object]) -> None:
    probed = set()
    for name, pod in pods(objects).items():
        for container in containers(pod["spec"]):
            numbers = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if asked := container.get(probe, {}).get("httpGet"):
                    speaks = numbers[asked["port"]] in of(container["name"], name)
                    assert asked.get("scheme") == ("HTTPS" if speaks else None), f"{name}: {probe}"
                    probed |= {container["name"]} if speaks else set()
    assert probed == {"api-server", "mlflow", "feast", "minio", "model-server", "api"}


def test_prometheus_asks_by_https_what_speaks_it_and_knows_the_name_in_the_certificate(objects: list[Object]) -> None:
    config = yaml.safe_load(find(objects, "ConfigMap", "maestro-prometheus")["data"]["prometheus.yaml"])
    for job in config["scrape_configs"]:
        name, (found,) = job["job_name"], job["dns_sd_configs"]
        speaks = found["port"] in speaking().get(name, [])
        assert job.get("scheme", "http") == ("https" if speaks else "http"), name
        expected = {"ca_file": CA, "server_name": f"maestro-{name}"} if speaks else None
        assert job.get("tls_config") == expected


def test_a_certificate_has_the_names_of_its_service_and_is_signed_by_what_clients_trust() -> None:
    tls = {"enabled": True, "days": 100}
    values = {"global": {"services": {"mlflow": {"name": "tracking"}}, "tls": tls, "postgresql": POOLER}}
    objects = render("maestro", values, namespace="ours")
    secrets = {o["metadata"]["name"]: o for o in objects if o["kind"] == "Secret" and "-tls-" in o["metadata"]["name"]}
    assert secrets.keys() == {f"maestro-tls-{name}" for name in [*speaking(), "ca", "authority"]}
    trusted = base64.b64decode(secrets["maestro-tls-ca"]["data"]["ca.crt"])
    assert secrets["maestro-tls-ca"]["data"].keys() == {"ca.crt"}, "the key that signs is mounted nowhere"
    authority = x509.load_pem_x509_certificate(trusted)
    for component in speaking():
        secret = secrets[f"maestro-tls-{component}"]
        data = {key: base64.b64decode(value) for key, value in secret["data"].items()}
        assert secret["type"] == "kubernetes.io/tls"
        assert data["ca.crt"] == trusted
        certificate = x509.load_pem_x509_certificate(data["tls.crt"])
        certificate.verify_directly_issued_by(authority)
        assert certificate.public_key() == load_pem_private_key(data["tls.key"], None).public_key()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        host = "tracking" if component == "mlflow" else f"maestro-{component}"
        assert find(objects, "Service", host)["metadata"]["annotations"]["maestro/ca-secret"] == "maestro-tls-ca"
        assert names.get_values_for_type(x509.DNSName) == [
            *(f"{host}{end}" for end in ("", ".ours", ".ours.svc", ".ours.svc.cluster.local")),
            "localhost",
        ]
        assert names.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1")]
        ends = datetime.fromtimestamp(int(secret["metadata"]["annotations"]["maestro/ends"]), UTC)
        assert abs(ends - certificate.not_valid_after_utc) < timedelta(minutes=10)
        assert abs(ends - datetime.now(UTC) - timedelta(days=100)) < timedelta(hours=1)


def test_all_model_servers_are_in_one_certificate() -> None:
    objects = made({**EVERYTHING, "global": TLS["global"]})
    secret = find(objects, "Secret", "maestro-tls-model-server")
    certificate = x509.load_pem_x509_certificate(base64.b64decode(secret["data"]["tls.crt"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    servers = {entry["metadata"]["name"] for entry in objects if entry["kind"] == "Service"} & set(
        names.get_values_for_type(x509.DNSName)
    )
    assert servers == {"maestro-model-server", "maestro-model-server-clicks", "maestro-model-server-trial"}
    labels = {
        find(objects, "Deployment", server)["spec"]["template"]["metadata"]["labels"]["maestro/certificates"]
        for server in servers
    }
    assert len(labels) == 1, "a new certificate replaces the pods of all of them"


def test_cert_manager_makes_the_same_secrets() -> None:
    values = {"global": {"tls": {"enabled": True, "certManager": ISSUER}, "postgresql": POOLER}}
    text = template("maestro", values, "maestro", "maestro", "--api-versions", "cert-manager.io/v1")
    objects = [entry for entry in yaml.safe_load_all(text) if entry]
    assert not [o for o in objects if o["kind"] == "Secret" and "-tls-" in o["metadata"]["name"]]
    certificates = {o["spec"]["secretName"]: o["spec"] for o in objects if o["kind"] == "Certificate"}
    assert certificates.keys() == {f"maestro-tls-{name}" for name in [*speaking(), "ca"]}
    mlflow = certificates["maestro-tls-mlflow"]
    assert mlflow["issuerRef"] == ISSUER["issuerRef"]
    assert mlflow["dnsNames"][0] == "maestro-mlflow"
    assert mlflow["dnsNames"][-1] == "localhost"
    assert (mlflow["duration"], mlflow["renewBefore"]) == ("8760h", "1440h")


def test_secrets_of_ones_own_take_the_place_of_each() -> None:
    objects = made({"global": {"tls": {"enabled": True, "existingSecrets": OWN}, "postgresql": POOLER}})
    assert not [o for o in objects if "-tls-" in o["metadata"]["name"]]
    mounted = {
        (volume["name"], volume["secret"]["secretName"])
        for pod in pods(objects).values()
        for volume in pod["spec"].get("volumes", ())
        if volume["name"] in ("tls", "tls-ca")
    }
    assert mounted == {("tls-ca", "our-ca"), *(("tls", f"our-{name}") for name in speaking())}


def test_without_a_pooler_there_is_no_certificate_of_it_and_people_need_make_none() -> None:
    own = {name: secret for name, secret in OWN.items() if name != "postgresql-pooler"}
    for tls in ({}, {"existingSecrets": own}):
        objects = render("maestro", {"global": {"tls": {"enabled": True, **tls}}})
        assert not [entry for entry in objects if "pooler" in entry["metadata"]["name"]]


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ({"existingSecrets": {"ca": "ours"}}, "global.tls.existingSecrets has no "),
        ({"existingSecrets": OWN, "certManager": ISSUER}, "certificates come from one of them"),
        ({"certManager": ISSUER}, "install cert-manager first"),
        ({"days": 60}, "renew certificates before they end"),
    ],
)
def test_what_cannot_be_is_refused(tls: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        render("maestro", {"global": {"tls": {"enabled": True, **tls}}})


def test_stores_elsewhere_are_asked_as_before() -> None:
    """Their certificates are not ours to verify."""
    values = {
        "global": {
            **TLS["global"],
            "postgresql": {"external": {"enabled": True, "host": "db.example.com"}, "existingSecret": "databases"},
            "redis": {"external": {"enabled": True, "host": "redis.example.com"}, "existingSecret": "online-store"},
            "s3": {"external": {"enabled": True, "endpoint": "https://s3.example.com"}, "existingSecret": "keys"},
        }
    }
    objects = made(values)
    told = {key for pod in pods(objects).values() for c in containers(pod["spec"]) for key in environment(c)}
    assert not told & {"PGSSLMODE", "MAESTRO_REDIS_CA", "AWS_CA_BUNDLE"}
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in told
    assert not [o for o in objects if o["metadata"]["name"] == "maestro-tls-postgresql"]


def test_without_it_nothing_is_other_than_it_was() -> None:
    assert not [text for entry in made({}) for text in strings(entry) if "tls-ca" in text or "https://maestro" in text]
