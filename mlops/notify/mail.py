"""A message by mail, as text and as HTML. Addresses and login are secrets, and stand in no error."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import formatdate, getaddresses, make_msgid
from html import escape

from mlops.config import MailSettings
from mlops.notify.failures import Partly, Passing, slow
from mlops.notify.message import Link, Message
from mlops.result import Failure

_TIMEOUT = 10.0  # seconds for each answer of the server
_SECRET = "the Secret that global.notifications.mail.existingSecret names"  # noqa: S105


def send(settings: MailSettings, message: Message) -> None:
    """Hands the message to the mail server. Raises Failure where it takes it for nobody, and Partly for some alone."""
    recipients = addresses(settings.to)
    with _told(settings):
        sender = _sender(settings)
        if not recipients:
            raise Failure(f"nobody to send mail to: {_SECRET} has no key `to`")
        with _connected(settings) as server:
            refused = server.send_message(as_mail(message, sender, recipients))
    if refused:
        raise Partly(_refused(refused, len(recipients)))


def greet(settings: MailSettings) -> None:
    """Does all that comes before a mail. Raises Failure where there could be none."""
    with _told(settings), _connected(settings) as server:
        _sender(settings)
        server.noop()


@contextmanager
def _told(settings: MailSettings) -> Iterator[None]:
    """Whatever goes wrong with the server as Failure. What it says in words is left out: it may hold an address."""
    place = f"the mail server {settings.host}:{settings.port}"
    try:
        yield
    except smtplib.SMTPRecipientsRefused as error:
        raise Failure(_refused(error.recipients, len(error.recipients))) from None
    except smtplib.SMTPResponseException as error:
        raised = Passing if 400 <= error.smtp_code < 500 else Failure  # RFC 5321, 4.2.1
        what = "the login" if isinstance(error, smtplib.SMTPAuthenticationError) else "the mail"
        raise raised(f"{place} refused {what} ({error.smtp_code}): check {_SECRET}") from None
    except smtplib.SMTPNotSupportedError:
        raise Failure(f"{place} has no STARTTLS or no login: check global.notifications.mail.security") from None
    except ssl.SSLError as error:
        raise Failure(
            f"{place} cannot be trusted ({error.reason or 'certificate'}): check global.notifications.mail.security, "
            "and name a CA of your own in SSL_CERT_FILE"
        ) from None
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raised = Failure if isinstance(error, OSError) and slow(error) else Passing
        raise raised(
            f"{place} cannot be reached ({type(error).__name__}): "
            "check global.notifications.mail and global.networkPolicies"
        ) from None


def addresses(text: str) -> list[str]:
    """The addresses of a list with commas or semicolons between them."""
    return [address for _, address in getaddresses([text.replace(";", ",")]) if address]


def as_mail(message: Message, sender: str, recipients: list[str]) -> EmailMessage:
    """The message with a header for each address: no text can add another."""
    mail = EmailMessage()
    mail["Subject"] = message.subject
    mail["From"] = sender
    mail["To"] = ", ".join(recipients)
    mail["Date"] = formatdate(localtime=False)
    mail["Message-ID"] = make_msgid(domain="maestro.invalid")  # not the name of the pod
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence is answered to it
    mail.set_content(message.plain)
    mail.add_alternative(as_html(message), subtype="html")
    return mail


def as_html(message: Message) -> str:
    """The same for who reads HTML; nothing in it is loaded from anywhere."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(shown)}</td></tr>" for name, shown in message.rows)
    table = f"<table border='1' cellpadding='4' style='border-collapse:collapse'>{rows}</table>" if rows else ""
    links = "".join(f"<li>{_linked(link)}</li>" for link in message.links)
    return (
        "<!doctype html><html><body style='font-family:sans-serif'>"
        f"<h3>{escape(message.subject)}</h3>"
        + (f"<p style='white-space:pre-wrap'>{escape(message.more)}</p>" if message.more else "")
        + table
        + (f"<ul>{links}</ul>" if links else "")
        + "</body></html>"
    )


def _linked(link: Link) -> str:
    if link.opens:
        return f"<a href='{escape(link.place)}'>{escape(link.name)}</a>"
    return f"{escape(link.name)}: {escape(link.place)}"


def _connected(settings: MailSettings) -> smtplib.SMTP:
    """A connection that is encrypted before anybody logs in. Raises what smtplib does, and Failure."""
    if settings.username and settings.security == "none":
        raise Failure("a login would go to the mail server in the clear: set global.notifications.mail.security")
    host, port, context = settings.host or "", int(settings.port), ssl.create_default_context()
    if settings.security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=_TIMEOUT, context=context)
    else:
        server = smtplib.SMTP(host, port, timeout=_TIMEOUT)
    try:
        if settings.security == "starttls":
            server.starttls(context=context)
        if settings.username:
            server.login(settings.username, settings.password)
    except BaseException:
        server.close()
        raise
    return server


def _sender(settings: MailSettings) -> str:
    if not settings.sender:
        raise Failure(f"nobody to send mail from: {_SECRET} has no key `from`")
    return settings.sender


def _refused(refused: Mapping[str, object], of: int) -> str:
    return f"the mail server refused {len(refused)} of {of} addresses: check {_SECRET}"
