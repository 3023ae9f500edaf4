"""Which files make a table, and what their folders say."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote

_BESIDE_DATA = re.compile(r"[._].*|.*\.toml|shift\.json").fullmatch
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def is_pattern(name: str) -> bool:
    return "*" in name or name.endswith("/")


def stem(pattern: str) -> str:
    """What each name begins with that a pattern fits."""
    return pattern.partition("*")[0]


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern of `Source.file` fits, sorted.

    One that begins with `.` or `_` is left behind by a tool, a declaration or a shift is not data: they fit none.
    """
    whole = f"{pattern}**" if pattern.endswith("/") else pattern
    places = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    expression = "".join(places.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*\*|\*)", whole))
    fits = re.compile(expression).fullmatch
    return sorted(name for name in names if fits(name) and not _BESIDE_DATA(PurePosixPath(name).name))


def partition(name: str) -> dict[str, str | None]:
    """The columns that a file's folders say: `day=2026-01-31/part.csv` is of that day."""
    pairs = (part.partition("=") for part in PurePosixPath(name).parts[:-1] if "=" in part)
    return {key: None if value == _NO_VALUE else unquote(value) for key, _, value in pairs if key}
