"""Known secrets, looked for where none may be."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from urllib.parse import quote

SHORTEST = 8  # characters: what is shorter stands everywhere by chance


def known(secrets: list[dict[str, object]]) -> dict[str, str]:
    """`Secret/key` -> value of all values long enough, of Secrets as Kubernetes' API has them.

    Helm's are no secrets of their own: they hold what was rendered, and who may read them may read Secrets.
    """
    found: dict[str, str] = {}
    for secret in secrets:
        metadata, data = secret["metadata"], secret.get("data") or {}
        assert isinstance(metadata, dict)
        assert isinstance(data, dict)
        if str(secret.get("type", "")).startswith(("helm.sh/", "kubernetes.io/")):
            continue
        for key, value in data.items():
            text = base64.b64decode(value).decode(errors="replace")
            if len(text) >= SHORTEST and "\n" not in text:
                found[f"{metadata['name']}/{key}"] = text
    return found


def spellings(value: str) -> set[bytes]:
    """The value as it is, in base64 at each offset, percent-encoded, in hexadecimal and backwards."""
    raw = value.encode()
    in_base64 = set()
    for offset in range(3):
        coded = base64.b64encode(b"\0" * offset + raw)
        # Without the characters that depend on what stands before and behind.
        in_base64.add(coded[(0, 2, 3)[offset] : (offset + len(raw)) * 8 // 6])
    return {raw, quote(value, safe="").encode(), raw.hex().encode(), raw[::-1], *in_base64}


def leaks(content: bytes, canaries: Mapping[str, str]) -> Iterator[str]:
    """The names of the secrets that are in the content, in any spelling."""
    for name, value in canaries.items():
        if any(spelling in content for spelling in spellings(value)):
            yield name
