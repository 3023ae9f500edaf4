"""Who takes messages, on free ports of this machine: a webhook, and a mail server that encrypts and asks who sends."""

import datetime
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from tests.processes import free_ports, in_background

HOST = "127.0.0.1"
SECRET = "T000-secret-path"  # of a webhook's address


class Webhook:
    """A webhook that keeps what it was sent and answers with `status`, or with each of `statuses` first."""

    def __init__(self) -> None:
        self.status = 200
        self.statuses: list[int] = []
        self.said = b""
        self.received: list[dict[str, Any]] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                webhook.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(webhook.statuses.pop(0) if webhook.statuses else webhook.status)
                self.end_headers()
                self.wfile.write(webhook.said)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_port}/{SECRET}"

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.received]

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[Self]:
        hook = cls()
        with in_background(hook.server):
            yield hook


LOGIN = {"username": "maestro-sends", "password": "mail-pass-word"}


@dataclass
class MailServer:
    """What aiosmtpd has taken, and for whom. refused: addresses that it does not take mail for."""

    environment: dict[str, str] = field(default_factory=dict)  # as of a pod that may send here
    mails: list[EmailMessage] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    encrypted: list[bool] = field(default_factory=list)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        self.encrypted.append(session.ssl is not None)
        return "250 OK"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> Any:
        from aiosmtpd.smtp import AuthResult

        given = {"username": login.login.decode(), "password": login.password.decode()}
        return AuthResult(success=given == LOGIN, handled=False)  # it says 535 itself


def text_of(mail: EmailMessage, kind: str = "plain") -> str:
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n").strip()


@contextmanager
def mail_server(folder: Path, security: str = "starttls") -> Iterator[MailServer]:
    """A mail server. folder: for its certificate, which `SSL_CERT_FILE` of the environment trusts."""
    from aiosmtpd.controller import Controller

    found = MailServer()
    certificate = folder / "mail.pem"
    certificate.write_bytes(_certificate())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    options: dict[str, Any] = {}
    if security != "none":
        options = {"authenticator": found.authenticate, "auth_required": True}
    if security == "starttls":
        options |= {"tls_context": context, "require_starttls": True}
    if security == "tls":
        options |= {"ssl_context": context, "auth_require_tls": False}  # it knows of STARTTLS alone
    (port,) = free_ports(1)  # the controller asks its own server at the port that it is given
    controller = Controller(found, hostname=HOST, port=port, **options)
    controller.start()
    found.environment = {
        "MAESTRO_MAIL_HOST": HOST,
        "MAESTRO_MAIL_PORT": str(port),
        "MAESTRO_MAIL_SECURITY": security,
        "MAESTRO_MAIL_FROM": "maestro@example.com",
        "MAESTRO_MAIL_TO": "ml@example.com, oncall@example.com",
        "SSL_CERT_FILE": str(certificate),
        **({f"MAESTRO_MAIL_{name.upper()}": value for name, value in LOGIN.items()} if security != "none" else {}),
    }
    try:
        yield found
    finally:
        controller.stop()


def _certificate() -> bytes:
    """A key, and a certificate of this machine that it has signed itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)
