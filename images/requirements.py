"""The part of pyproject.toml and constraints.txt that one extra uses: the rest may change without a new image."""

from __future__ import annotations

import json
import re
import tomllib
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==")
# What of [project] the package is built from.
_PROJECT_KEYS = ("name", "version", "requires-python", "dependencies", "scripts", "entry-points")
_VIA = re.compile(r"^\s+#(?:\s+via)?\s+(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)")


class RequirementsError(Exception):
    """pyproject.toml and constraints.txt do not fit together. The message says what is missing and what to do."""


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def used_project(text: str, extra: str) -> tuple[str, set[str]]:
    """A pyproject.toml with the package's own build and one extra; and the packages that these two ask for."""
    document = tomllib.loads(text)
    build, project = document["build-system"], document["project"]
    extras = project.get("optional-dependencies", {})
    if extra not in extras:
        raise RequirementsError(f"pyproject.toml has no extra {extra!r}: there are {', '.join(sorted(extras))}")
    used = {
        "build-system": build,
        "project": {key: project[key] for key in _PROJECT_KEYS if key in project}
        | {"optional-dependencies": {extra: extras[extra]}},
        "tool": {"setuptools": document.get("tool", {}).get("setuptools", {})},
    }
    asked = [*build["requires"], *project.get("dependencies", []), *extras[extra]]
    return _toml(used), {normal(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]) for requirement in asked}


def used_constraints(text: str, roots: Iterable[str]) -> str:
    """The pins of the packages that the roots bring in, by the notes `# via` that uv writes below each pin.

    uv notes a parent without its extras, so a pin too many is possible, and one too few is not.
    """
    pins: dict[str, str] = {}
    brings: dict[str, set[str]] = defaultdict(set)
    noted: set[str] = set()
    name = ""
    for line in text.splitlines():
        if pin := _PIN.match(line):
            name = normal(pin["name"])
            pins[name] = line.split("#")[0].strip()
        elif name and (via := _VIA.match(line)):
            noted.add(name)
            if via["name"] != "via":
                brings[normal(via["name"])].add(name)
    if silent := sorted(pins.keys() - noted):
        raise RequirementsError(
            f"constraints.txt does not say what brings in {', '.join(silent[:3])}: "
            "compile it with annotations ('make constraints')"
        )
    if missing := sorted(set(roots) - pins.keys()):
        raise RequirementsError(
            f"constraints.txt does not pin {', '.join(missing)}: compile it anew ('make constraints')"
        )
    used = set(roots)
    queue = deque(used)
    while queue:
        new = brings[queue.popleft()] - used
        used |= new
        queue.extend(new)
    return "".join(f"{pins[name]}\n" for name in sorted(used))


def _toml(document: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """Tables, strings, booleans and arrays of these as TOML, which writes such values as JSON does."""
    values = [
        f"{json.dumps(key)} = {json.dumps(value)}" for key, value in document.items() if not isinstance(value, dict)
    ]
    tables = [_toml(value, (*path, key)) for key, value in document.items() if isinstance(value, dict)]
    header = [f"[{'.'.join(json.dumps(key) for key in path)}]"] if path else []
    return "\n".join([*header, *values, *tables]) + ("" if tables else "\n")
