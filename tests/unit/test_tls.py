"""Servers of the platform with a certificate as the charts give it to them, and their clients as pods have them."""

import shutil
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

import polars as pl
import pytest
from mlflow import MlflowClient

from mlops.config import S3Settings
from mlops.result import Failure
from mlops.stores.object_store import ObjectStore
from tests.certificates import Authority
from tests.conftest import free_ports, running
from tests.servers import ACCESS_KEY, REGION, S3, SECRET_KEY, MLflow


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def folder(authority: Authority, tmp_path: Path) -> Path:
    return authority.certificate(tmp_path / "tls", "localhost", "127.0.0.1")


def trusting(authority: Authority) -> dict[str, str]:
    """What common.tls.env and its like tell a container."""
    ca = str(authority.ca)
    names = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "MLFLOW_TRACKING_SERVER_CERT_PATH")
    return {**dict.fromkeys(names, ca), "SSL_CERT_DIR": "/etc/ssl/certs"}


def asked(url: str, authority: Authority) -> int | None:
    """The status of the answer; None where there is none, which is raised where it is the certificate's fault."""
    context = ssl.create_default_context(cafile=str(authority.ca))
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise error.reason from error
        return None
    except OSError:
        return None


def assert_tls_only(url: str, authority: Authority, tmp_path: Path) -> None:
    assert asked(url, authority) == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        asked(url, Authority(tmp_path / "others"))
    assert asked(url.replace("https:", "http:"), authority) in (None, 400), "it answers in the clear"


# Servers of mlops

WAITING = """
import sys
from mlops.config import CertificateSettings
from mlops.serving.server import wait_for_a_model
wait_for_a_model("127.0.0.1", int(sys.argv[1]), "m", "production", CertificateSettings.from_environment())
"""
TRAINER = {
    "DATABASE_URL": "postgresql://sensors@127.0.0.1:1/sensors",
    "MAESTRO_REDIS_HOST": "127.0.0.1",
    "MAESTRO_REDIS_PORT": "1",
    "MAESTRO_REDIS_USERNAME": "queue",
    "MAESTRO_REDIS_PASSWORD": "x",
    "MLFLOW_TRACKING_URI": "https://127.0.0.1:1",
    "SENSOR_TRAINER_TOKEN": "x",
}


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ([sys.executable, "-c", WAITING, "PORT"], "/ping"),
        ([sys.executable, "-m", "mlops", "sensor-trainer", "serve", "--host=127.0.0.1", "--port=PORT"], "/health"),
    ],
    ids=["model server", "sensor trainer"],
)
def test_a_server_of_ours_speaks_tls_only(command, path, authority, folder, tmp_path):
    (port,) = free_ports(1)
    url = f"https://127.0.0.1:{port}{path}"
    told = {"MAESTRO_TLS_CERTIFICATE": f"{folder}/tls.crt", "MAESTRO_TLS_KEY": f"{folder}/tls.key", **TRAINER}
    command = [word.replace("PORT", str(port)) for word in command]
    with running(command, tmp_path / "log", lambda: asked(url, authority) is not None, told):
        assert_tls_only(url, authority, tmp_path)


# Servers of others


class SecretS3(S3):
    """With the files as the chart mounts them: names of MinIO's, in a folder that links to another one."""

    def __init__(self, within: Path, tls: Path, authority: Authority) -> None:
        self._tls, self._authority = tls, authority
        super().__init__(within)

    def prepared(self) -> tuple[list[str], str]:
        command, url = super().prepared()
        certs, data = self.folder / "certs", self.folder / "certs/..2026_01_01"
        data.mkdir(parents=True)
        (certs / "..data").symlink_to(data.name)
        for ours, theirs in (("tls.crt", "public.crt"), ("tls.key", "private.key")):
            shutil.copy(self._tls / ours, data / theirs)
            (certs / theirs).symlink_to(f"..data/{theirs}")
        return [*command, f"--certs-dir={certs}"], url.replace("http:", "https:")

    def is_ready(self) -> bool:
        return asked(f"{self.url}/minio/health/ready", self._authority) == 200


class SecretMLflow(MLflow):
    """With the option that the chart gives it."""

    def __init__(self, within: Path, tls: Path, authority: Authority) -> None:
        self._tls, self._authority = tls, authority
        super().__init__(within)

    def prepared(self) -> tuple[list[str], str]:
        command, url = super().prepared()
        options = f"--ssl-certfile={self._tls}/tls.crt --ssl-keyfile={self._tls}/tls.key"
        return [*command, f"--uvicorn-opts={options}"], url.replace("http:", "https:")

    def is_ready(self) -> bool:
        return asked(f"{self.url}/health", self._authority) is not None


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in trusting(authority).items():
        monkeypatch.setenv(name, value)


def test_objects_and_tables_are_written_and_read_by_tls(authority, folder, tmp_path, trusted, monkeypatch):
    with SecretS3(tmp_path, folder, authority) as server:
        assert_tls_only(f"{server.url}/minio/health/ready", authority, tmp_path)
        settings = S3Settings(server.url, ACCESS_KEY, SECRET_KEY, REGION)
        store = ObjectStore(settings, "data")
        store.ensure()
        store.write_bytes("key", b"content")
        assert store.read_bytes("key") == b"content"
        store.write("table", pl.LazyFrame({"column": [1]}))
        assert store.scan("table").collect()["column"].to_list() == [1]
        for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(Authority(tmp_path / "others").ca))
        with pytest.raises(Failure):
            ObjectStore(settings, "data").read_bytes("key")


def test_a_run_is_written_to_mlflow_by_tls(authority, folder, tmp_path, trusted, monkeypatch):
    with SecretMLflow(tmp_path, folder, authority) as server:
        assert_tls_only(f"{server.url}/health", authority, tmp_path)
        for name, value in server.writer.items():
            monkeypatch.setenv(name, value)
        client = MlflowClient(server.url)
        run = client.create_run("0").info.run_id
        client.log_text(run, "text", "text.txt")
        assert Path(client.download_artifacts(run, "text.txt", str(tmp_path))).read_text() == "text"
