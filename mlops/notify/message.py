"""What people are told, whatever it goes by: a text, numbers, and where to look further. Channels show it their way."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import quote

Number: TypeAlias = "bool | int | float | str | None"

_SUBJECT = 150  # characters: the longest header of a Slack message, and enough of a mail's subject


@dataclass(frozen=True)
class Link:
    """place: an address that a browser opens; its path, where nobody has said at which address people open the page."""

    name: str
    place: str

    @property
    def opens(self) -> bool:
        return self.place.startswith(("http://", "https://"))


def run_link(airflow: str, dag_id: str, run_id: str) -> Link:
    """airflow: the address at which people open Airflow's pages, where somebody has said it."""
    return Link("Run in Airflow", f"{airflow.rstrip('/')}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}")


@dataclass(frozen=True)
class Message:
    """text: the summary, of which the first line says what it is about. metrics: values by the names to be shown."""

    text: str
    metrics: Mapping[str, Number] = field(default_factory=dict)
    links: tuple[Link, ...] = ()

    @property
    def subject(self) -> str:
        """The first line, or as much of it as a subject holds."""
        return textwrap.shorten(self.text.strip().partition("\n")[0], _SUBJECT, placeholder=" ...")

    @property
    def more(self) -> str:
        """What the subject leaves out of the text: all after the first line, or, where that was cut, the whole."""
        first, _, rest = self.text.strip().partition("\n")
        return rest.strip() if " ".join(first.split()) == self.subject else self.text.strip()

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The metrics as they are shown, numbers to four digits."""
        return [(name, f"{it:.4g}" if isinstance(it, float) else str(it)) for name, it in self.metrics.items()]

    @property
    def table(self) -> str:
        """The metrics as lines, their values below each other."""
        width = max((len(name) for name, _ in self.rows), default=0)
        return "\n".join(f"{name:<{width}}  {shown}" for name, shown in self.rows)

    @property
    def plain(self) -> str:
        """All of it as a text."""
        links = "\n".join(f"{link.name}: {link.place}" for link in self.links)
        return "\n\n".join(part for part in (self.text.strip(), self.table, links) if part)
