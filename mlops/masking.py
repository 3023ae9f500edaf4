"""Secrets in a text: each of their forms becomes `***`, wherever the text is cut into pieces."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

SECRETS = "MAESTRO_SECRETS"  # environment key: names of entries of the environment, with commas between them
MASK = b"***"
_SHORTEST = 5  # characters; a shorter text would be found in every other word. Airflow's own masker has the same.


class Masks:
    """The secrets of a process: as they are, and as they look in addresses, in JSON, in `repr` and in base64."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in spellings(secret)}
        self._forms = sorted(forms, key=len, reverse=True)  # of two that begin alike the longer one is looked for first
        self._pattern = re.compile(b"|".join(map(re.escape, self._forms)))

    def __bool__(self) -> bool:
        return bool(self._forms)

    def masked(self, text: bytes) -> bytes:
        return self._pattern.sub(MASK, text) if self._forms else text

    def decided(self, text: bytes) -> tuple[bytes, bytes]:
        """Of a text that goes on: its beginning, masked, and the rest, of which what follows may make a secret."""
        out, at = [], 0
        while True:
            undecided = self._undecided(text, at)
            found = self._pattern.search(text, at) if self._forms else None
            if found is None or found.start() >= undecided:
                out.append(text[at:undecided])
                return b"".join(out), text[undecided:]
            out += [text[at : found.start()], MASK]
            at = found.end()

    def _undecided(self, text: bytes, at: int) -> int:
        """Where an end of the text begins, at the earliest there, that a secret begins with, or where the text ends."""
        longest = len(self._forms[0]) - 1 if self._forms else 0
        for start in range(max(at, len(text) - longest), len(text)):
            end = text[start:]
            if any(len(form) > len(end) and form.startswith(end) for form in self._forms):
                return start
        return len(text)


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """The values that are secret; the environment names them itself."""
    return [environment[name] for name in environment.get(SECRETS, "").split(",") if name in environment]


def spellings(secret: str) -> Iterator[bytes]:
    """All that is looked for because of a secret: nothing where it is too short."""
    if len(secret) < _SHORTEST:
        return
    raw = secret.encode(errors="surrogateescape")
    yield raw
    yield quote(raw, safe="").encode()
    yield json.dumps(secret)[1:-1].encode()
    yield repr(secret)[1:-1].encode(errors="backslashreplace")
    yield base64.b64encode(raw)
    for offset in range(3):  # in base64, what stands before it and behind it changes its first and last characters only
        coded = base64.b64encode(b"\0" * offset + raw)
        yield coded[(0, 2, 3)[offset] : (offset + len(raw)) * 8 // 6]
