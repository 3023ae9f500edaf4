"""What a check found: kept as JSON beside the other checks' findings of the run, where the report looks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from mlops.config import RunIdentity
from mlops.keys import slug

Kind = Literal["component", "dag-files", "failing", "pool", "late", "slow", "unseen"]

# Each check, with the task that makes it and the kinds of incidents that it looks for.
CHECKS: Mapping[str, tuple[str, tuple[Kind, ...]]] = {
    "runs": ("check_dag_runs", ("failing", "late", "slow")),
    "failures": ("check_task_failures", ("failing",)),
    "components": ("check_scheduler_health", ("component", "dag-files", "pool")),
}


@dataclass(frozen=True)
class Incident:
    """Something that is wrong.

    subject: of what, such as a DAG. since: ISO 8601, None where that is not known. version: the first that had it, and
    the last that had not. links: words, each with an address below Airflow's own.
    """

    kind: Kind
    subject: str
    text: str
    since: str | None = None
    version: str | None = None
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Findings:
    """What one check found.

    judged: the kinds of incidents that it looked for wherever there may be one. unseen: what it could not look at, and
    why. details: what the report shows of it.
    """

    check: str
    at: str
    incidents: tuple[Incident, ...]
    judged: tuple[str, ...]
    unseen: tuple[str, ...]
    details: Mapping[str, Any]

    def encode(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False).encode()

    @classmethod
    def decode(cls, content: bytes) -> Findings:
        fields = json.loads(content)
        return cls(
            **{
                **fields,
                "incidents": tuple(incident(each) for each in fields["incidents"]),
                "judged": tuple(fields["judged"]),
                "unseen": tuple(fields["unseen"]),
            }
        )


def incident(fields: Mapping[str, Any]) -> Incident:
    """An incident as JSON holds it."""
    return Incident(**{**fields, "links": tuple((text, place) for text, place in fields["links"])})


def folder(identity: RunIdentity) -> str:
    """Where the checks of a DAG run leave their findings, in the reports bucket."""
    return f"health/{slug(identity.dag_id)}/{slug(identity.run_id)}"


def moment(text: str | None) -> datetime | None:
    """A time as Airflow's API writes it."""
    return None if text is None else datetime.fromisoformat(text)


def span(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def minute(at: datetime) -> str:
    """A time as people read it."""
    return at.strftime("%Y-%m-%d %H:%M")
