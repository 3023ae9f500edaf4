"""What a pod of the model server runs: MLflow's scoring server, or, without a model, a server that says so."""

import json
import logging
import os
import signal
import ssl
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

from mlops.config import CertificateSettings, MLflowSettings, ServedModelSettings
from mlops.registry.aliases import PRODUCTION
from mlops.registry.record import FEATURE_SERVICE
from mlops.result import JSON
from mlops.retry import once_started
from mlops.serving import answers
from mlops.serving.measured import METRICS
from mlops.stores.tracking import Tracking, health_check, load_through, scoring_command
from mlops.training import families

APPLICATION = "mlops.serving.measured:application"

log = logging.getLogger(__name__)


def serve(settings: ServedModelSettings, host: str, port: int, patience: float) -> None:
    """Serves until it is told to stop. patience: seconds to wait for MLflow, which may start at the same time."""
    mlflow, model, tls = MLflowSettings.from_environment(), settings.model, CertificateSettings.from_environment()
    once_started(health_check(mlflow), time.monotonic() + patience)
    tracking = Tracking(mlflow)
    version = settings.version or tracking.aliased(model, settings.alias)
    if version is None:
        wait_for_a_model(host, port, model, settings.alias, tls)
    else:
        run = tracking.run(tracking.made_by(model, version)).data
        family = families.name_of(run.params)
        folder = Path(tempfile.mkdtemp(prefix="model-"))
        known = families.get(family)
        path = tracking.download_model(f"models:/{model}/{version}", folder, known.LAYOUT)
        told: dict[str, JSON] = {"family": family, "model": model, "version": version}
        told["feature_service"] = run.tags.get(FEATURE_SERVICE)
        load_through(path, known.FILE, answers.__name__, told, answers.PROBABILITIES)
        run_scoring_server(path, host, port, tls)


def run_scoring_server(model: Path, host: str, port: int, tls: CertificateSettings) -> None:
    """Becomes MLflow's scoring server, the process that `mlflow models serve --env-manager local` starts.

    `mlflow models serve` itself would stay as its parent and end at SIGTERM before the requests under way are done,
    and it takes 180 MB.
    """
    command, environment = scoring_command(model, host, port, APPLICATION)
    if tls.certificate:
        command += [f"--ssl-certfile={tls.certificate}", f"--ssl-keyfile={tls.key}"]
    log.info("serving %s: %s", model, " ".join(command))
    # A request holds few rows: several threads would only wait for each other.
    told = {"OMP_NUM_THREADS": "1", **environment}
    told.pop("MLFLOW_TRACKING_PASSWORD", None)  # the model is here
    os.execvpe(command[0], command, told)


def wait_for_a_model(host: str, port: int, model: str, alias: str, tls: CertificateSettings) -> None:
    """Answers /ping with 200, so that a fresh installation is ready, and all else with 503 and the remedy.

    /metrics has nothing to show, which is no fault.
    """
    log.info("model %s has no version with the alias %s: waiting for the first deployment", model, alias)
    remedy = (
        f"run the DAG that trains it, then 'make promote MODEL={model} VERSION=...' where that DAG deploys nothing"
        if alias == PRODUCTION
        else "give a version that alias in MLflow and restart this server"
    )
    message = f"no version of model {model!r} has the alias {alias!r}: {remedy}"
    body = json.dumps({"error_code": "NO_MODEL", "message": message}).encode()

    class Waiting(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            well = {"/ping": b"{}", METRICS: b""}
            content = well.get(self.path, body)
            self.send_response(200 if self.path in well else 503)
            self.send_header("Content-Type", "text/plain" if self.path == METRICS else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815 - the names that BaseHTTPRequestHandler calls

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - its name there
            log.debug(format, *values)

    server = ThreadingHTTPServer((host, port), Waiting)
    if tls.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        # Each handshake in its own thread: a client that says nothing keeps nobody waiting.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)

    def stop(signal_number: int, frame: FrameType | None) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
