"""The one way to tell people something: by the webhook where there is one, and always in the log."""

from __future__ import annotations

import logging
from typing import Literal

from mlops.config import NotificationSettings

log = logging.getLogger(__name__)


def tell(text: str) -> Literal["webhook", "log"]:
    """Says where the text went. Raises Failure where a webhook is configured and does not take it."""
    url = NotificationSettings.from_environment().slack_webhook_url
    if url is None:
        log.info("no webhook is configured; the message:\n%s", text)
        return "log"
    from mlops.notify.webhook import post

    post(url, text)
    log.info("sent to the webhook:\n%s", text)
    return "webhook"
