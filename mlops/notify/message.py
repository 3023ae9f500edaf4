"""The one way to tell people something: by the webhook where there is one, and always in the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from mlops.notify.webhook import post

if TYPE_CHECKING:
    from mlops.config import Settings

log = logging.getLogger(__name__)


def tell(settings: Settings, text: str) -> Literal["webhook", "log"]:
    """Says where the text went. Raises Failure where a webhook is configured and does not take it."""
    if settings.slack_webhook_url is None:
        log.info("no webhook is configured; the message:\n%s", text)
        return "log"
    post(settings.slack_webhook_url, text)
    log.info("sent to the webhook:\n%s", text)
    return "webhook"
