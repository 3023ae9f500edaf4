"""A message to a Slack-compatible incoming webhook. Its URL is a secret: whoever knows it can post."""

import json
import urllib.error
import urllib.request

from mlops.result import Failure

WEBHOOK_URL = "MAESTRO_SLACK_WEBHOOK_URL"  # environment key, from the Secret global.notifications.slackWebhookSecret
_TIMEOUT = 10.0  # seconds


def post(url: str, text: str) -> None:
    """Posts the text. Raises Failure, which does not show the URL, unless the webhook takes it."""
    body = json.dumps({"text": text}).encode()
    remedy = "check the Secret that global.notifications.slackWebhookSecret names"
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        if request.type not in ("http", "https"):
            raise Failure(f"the webhook's URL is not one of http or https: {remedy}")
        with urllib.request.urlopen(request, timeout=_TIMEOUT):
            return
    except urllib.error.HTTPError as error:
        raise Failure(f"the webhook answered {error.code}: {remedy}") from None
    except (OSError, ValueError) as error:
        # The text of these may hold the URL, their type does not.
        raise Failure(f"the webhook cannot be reached ({type(error).__name__}): {remedy}") from None
