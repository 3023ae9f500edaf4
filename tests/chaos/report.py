"""What became of each fault, as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

HELD, BROKE, LASTED, ABSENT = "held", "broke", "not recovered", "not here"


@dataclass(frozen=True)
class Outcome:
    """seconds: until all was as before. runs: those that went on meanwhile. again: tries beyond each task's first."""

    fault: str
    outcome: str
    seconds: float = 0
    runs: int = 0
    again: int = 0
    remark: str = ""
    findings: Sequence[str] = field(default_factory=tuple)


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each fault, with what was found below it."""
    width = max(len(name) for name in ("fault", *(outcome.fault for outcome in outcomes)))
    lines = [f"{'fault':<{width}} {'outcome':<13} {'back after':>10} {'runs':>5} {'tried again':>11}  remark"]
    for each in outcomes:
        numbers = f"{each.seconds:>8.0f} s {each.runs:>5} {each.again:>11}"
        lines.append(f"{each.fault:<{width}} {each.outcome:<13} {numbers}  {each.remark}".rstrip())
        lines += [f"    {finding}" for finding in each.findings]
    return "\n".join(lines)


def document(seed: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {"seed": seed, "faults": [{**asdict(each), "findings": list(each.findings)} for each in outcomes]}


def held(outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing was found, of faults that there was something to inflict on."""
    return {each.outcome for each in outcomes} <= {HELD, ABSENT} and any(each.outcome == HELD for each in outcomes)
