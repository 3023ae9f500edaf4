"""Runs in a pod, with Python's own library alone: tries each way of the list on standard input without credentials.

    python probe.py < attempts.json > outcomes.json

Attempts are tests.security.access.Attempt as JSON; an outcome is one of `no way`, `refused`, `yes`, `odd`, `error`,
with what was said.
"""

import json
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection

SECONDS = 4
SWITCHED_OFF = "admin APIs disabled"  # what Prometheus says with 500


def outcome(attempt):
    try:
        with socket.create_connection((attempt["host"], attempt["port"]), SECONDS):
            pass
    except OSError as error:
        return "no way", str(error)
    try:
        return {"http": http, "https": http, "redis": redis, "postgresql": postgresql}[attempt["protocol"]](attempt)
    except (OSError, HTTPException) as error:
        return "refused", f"{type(error).__name__}: {error}"


def http(attempt):
    if attempt["protocol"] == "https":
        context = ssl._create_unverified_context()  # noqa: S323 - nothing is trusted with anything
        connection = HTTPSConnection(attempt["host"], attempt["port"], timeout=SECONDS, context=context)
    else:
        connection = HTTPConnection(attempt["host"], attempt["port"], timeout=SECONDS)
    body = attempt.get("body")
    connection.request(attempt["method"], attempt["path"], body, attempt.get("headers") or {})
    answer = connection.getresponse()
    said = f"{answer.status} {answer.read(200).decode(errors='replace')}"
    return "refused" if SWITCHED_OFF in said else judged(answer.status), said


def judged(status):
    """What a status means: let in, asked who one is, broken, or neither, as of an address that is none."""
    if 200 <= status < 300:
        return "yes"
    if status in (401, 403) or 300 <= status < 400:  # a redirect leads to a login
        return "refused"
    return "error" if status >= 500 else "odd"


def redis(attempt):
    with socket.create_connection((attempt["host"], attempt["port"]), SECONDS) as connection:
        connection.sendall(attempt["body"].encode() + b"\r\n")
        said = connection.recv(200).decode(errors="replace")
    return "refused" if said.startswith("-NOAUTH") else "yes" if said[:1] in "+:$*" else "odd", said


def postgresql(attempt):
    user = attempt["body"].encode()
    message = (3 << 16).to_bytes(4, "big") + b"user\0" + user + b"\0database\0" + user + b"\0\0"
    with socket.create_connection((attempt["host"], attempt["port"]), SECONDS) as connection:
        connection.sendall((len(message) + 4).to_bytes(4, "big") + message)
        said = connection.recv(200)
    # R and the kind of authentication: 0 is none.
    let_in = said[:1] == b"R" and int.from_bytes(said[5:9], "big") == 0
    return "yes" if let_in else "refused", said[:40].decode(errors="replace")


if __name__ == "__main__":
    attempts = json.load(sys.stdin)
    with ThreadPoolExecutor(16) as pool:
        json.dump(list(pool.map(outcome, attempts)), sys.stdout)
