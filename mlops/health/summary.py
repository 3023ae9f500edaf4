"""What the checks of a run found, taken together: what is wrong, the worst first, and what nobody could look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mlops.health.findings import CHECKS, Findings, Incident, Kind

State = Literal["complete", "partial", "broke"]

# The worst first: what stops everything, what fails, what waits, what is slow.
ORDER: tuple[Kind, ...] = ("component", "dag-files", "failing", "pool", "late", "slow", "unseen")


@dataclass(frozen=True)
class Outcome:
    """found: the findings of each of CHECKS, None of a check that left none."""

    found: Mapping[str, Findings | None]

    @classmethod
    def of(cls, left: Mapping[str, Findings | None], ended: Mapping[str, str | None]) -> Outcome:
        """Leaves out what a check left in a try before that did not succeed in this one.

        ended: what Airflow says of each task, such as `success`; empty where nobody asked it.
        """
        return cls(
            {
                check: left.get(check) if ended.get(task, "success") == "success" else None
                for check, (task, _) in CHECKS.items()
            }
        )

    @property
    def states(self) -> dict[str, State]:
        """How much each check could look at."""
        return {
            check: "broke" if findings is None else "partial" if findings.unseen else "complete"
            for check, findings in self.found.items()
        }

    @property
    def incidents(self) -> list[Incident]:
        """All that is wrong, the worst first; what several checks found of one subject is one incident."""
        together = defaultdict[tuple[Kind, str], list[Incident]](list)
        for findings in self.found.values():
            for incident in findings.incidents if findings else ():
                together[incident.kind, incident.subject].append(incident)
        listed = [*map(_joined, together.values()), *self._unseen()]
        return sorted(listed, key=lambda each: (ORDER.index(each.kind), each.since or "9", each.subject))

    @property
    def judged(self) -> set[str]:
        """The kinds of incidents that this run looked for wherever there may be one; the others may go on unseen."""
        of_kind = {kind: [check for check, (_, kinds) in CHECKS.items() if kind in kinds] for kind in ORDER}
        return {
            kind
            for kind, checks in of_kind.items()
            if all((findings := self.found[check]) is not None and kind in findings.judged for check in checks)
        }

    def _unseen(self) -> list[Incident]:
        incidents = []
        for check, findings in self.found.items():
            task = CHECKS[check][0]
            if findings is None:
                incidents.append(Incident("unseen", task, f"{task} left no findings: see its log"))
            elif findings.unseen:
                more = f", and {len(findings.unseen) - 1} things more" if len(findings.unseen) > 1 else ""
                incidents.append(
                    Incident("unseen", task, f"{task} could not look at all of it: {findings.unseen[0]}{more}")
                )
        return incidents


def _joined(incidents: list[Incident]) -> Incident:
    first = incidents[0]
    return replace(
        first,
        text="; ".join(each.text for each in incidents),
        since=min((each.since for each in incidents if each.since), default=None),
        version=next((each.version for each in reversed(incidents) if each.version), None),
        # Of a log more is to be learnt than of a run.
        links=tuple(link for each in reversed(incidents) for link in each.links),
    )
