"""Which folders of DAG runs in the data bucket are old, and which are kept for a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

RUNS = "runs/"
_FOLDER = re.compile(r"\bruns/[^/\s\"']+/[^/\s\"']+/")


def folder_of(key: str) -> str | None:
    """The folder of the DAG run that an object is of, as runs/<dag>/<run>/; None where it is of none."""
    found = _FOLDER.match(key)
    return found[0] if found else None


def kept_for(run_key: str | None, texts: Iterable[str]) -> set[str]:
    """The folders that a model's run was trained with: of its own DAG run, and those that its tags and params name.

    run_key: the task instance that trained it, as <dag>/<run>/<task>; None for one outside of Airflow.
    """
    named = {found for text in texts for found in _FOLDER.findall(text)}
    own = folder_of(f"{RUNS}{run_key}/") if run_key else None
    return named | ({own} if own else set())


def old(objects: Mapping[str, datetime], before: datetime, kept: Iterable[str]) -> dict[str, list[str]]:
    """The objects of each folder of which none was written since, without the folders that are kept.

    objects: when each was written, by its key.
    """
    folders: dict[str, list[str]] = {}
    newest: dict[str, datetime] = {}
    for key, written in objects.items():
        if folder := folder_of(key):
            folders.setdefault(folder, []).append(key)
            newest[folder] = max(written, newest.get(folder, written))
    there = set(kept)
    return {name: keys for name, keys in folders.items() if newest[name] < before and name not in there}
