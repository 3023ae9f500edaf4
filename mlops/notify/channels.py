"""The one way to tell people something: by each channel that is set up, and always in the log.

What one channel does not take is no failure of who sends it: it is said in the log, in what is handed back, and by the
channels that work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from mlops.config import NotificationSettings
from mlops.notify.failures import Partly, Passing
from mlops.notify.message import Message
from mlops.result import JSON, Failure

CHANNELS = ("slack", "mail")
PAUSES = (1.0, 4.0)  # seconds before each further try of a channel that may come back at once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """sent: by which channels somebody got the message. lost: why a channel did not take it, for all or for some."""

    sent: tuple[str, ...]
    lost: Mapping[str, str]

    @property
    def told(self) -> bool:
        """Whether it reached anybody; where no channel is set up people read the log."""
        return bool(self.sent) or not self.lost

    def as_result(self) -> dict[str, JSON]:
        """Of a task."""
        return {"sent": list(self.sent), "lost": dict(self.lost)}


def deliver(message: Message, settings: NotificationSettings, by: Collection[str] = CHANNELS) -> Delivery:
    """Sends the message by those of the channels that are set up. Raises nothing for one that does not take it."""
    senders = {name: send for name, send in _senders(settings).items() if name in by}
    if not senders:
        log.info("no channel is set up for this message:\n%s", message.plain)
    sent, lost = [], {}
    for name, send in senders.items():
        try:
            _patiently(send, message)
        except Failure as failure:
            lost[name] = str(failure)
            log.error("the message was not sent by %s: %s", name, failure)
            if not isinstance(failure, Partly):
                continue
        sent.append(name)
        log.info("sent by %s:\n%s", name, message.plain)
    for name, why in lost.items():
        notice = Message(f"A message was not sent by {name}: {message.subject}\n{why}")
        for other in sent:
            if other not in lost:
                _say(senders[other], notice, other)
    return Delivery(tuple(sent), lost)


def _senders(settings: NotificationSettings) -> Mapping[str, Callable[[Message], None]]:
    """By each channel that is set up. What talks to servers is imported where there is one."""
    found: dict[str, Callable[[Message], None]] = {}
    if (url := settings.slack_webhook_url) is not None:
        from mlops.notify import slack

        found["slack"] = lambda message: slack.post(url, message)
    if settings.mail.host is not None:
        from mlops.notify import mail

        found["mail"] = lambda message: mail.send(settings.mail, message)
    return found


def _patiently(send: Callable[[Message], None], message: Message) -> None:
    """Tries again what may be over in a moment. Raises the last Failure."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_chain, wait_fixed

    retrying = Retrying(
        retry=retry_if_exception_type(Passing),
        wait=wait_chain(*map(wait_fixed, PAUSES)),
        stop=stop_after_attempt(1 + len(PAUSES)),
        reraise=True,
    )
    retrying(send, message)


def _say(send: Callable[[Message], None], notice: Message, name: str) -> None:
    try:
        send(notice)
    except Failure as failure:
        log.error("nor was it told by %s: %s", name, failure)
