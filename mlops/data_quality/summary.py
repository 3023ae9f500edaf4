"""What the steps of a run found, taken together: how each ended, what people are told, whether the run is good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mlops.data_quality.findings import ALL_COLUMNS, STEPS, Alert, Findings

State = Literal["passed", "failed", "alert", "not run", "broke"]

_CHECKS = ("schema", "quality")  # what they find fails the run
_NEEDED = ("window", *_CHECKS)  # a step behind these is not run where one of them fails


@dataclass(frozen=True)
class Outcome:
    """What counts of what a run's steps left, and how their tasks ended.

    found: the findings of each of STEPS, None of a step that left none. ended: what Airflow says of each task, such as
    `failed`; empty where nobody asked it.
    """

    found: Mapping[str, Findings | None]
    ended: Mapping[str, str | None]

    @classmethod
    def of(cls, left: Mapping[str, Findings | None], begun: str | None, ended: Mapping[str, str | None]) -> Outcome:
        """Leaves out findings that are not of this clearing of the run, which `begun` names.

        A task that did not run in it, or that failed though it had found nothing wrong, has none either: what lies
        there is of a try before. A run that began under the release before has no such name, nor have its findings.
        """
        name = begun or ""
        found: dict[str, Findings | None] = {}
        for step, task in STEPS.items():
            findings = left.get(step)
            if findings is not None and (findings.begun != name or not _ended_so(step, findings, ended.get(task))):
                findings = None
            found[step] = findings
        return cls(found, ended)

    @property
    def states(self) -> dict[str, State]:
        """How each step ended. One without findings was not run, or it broke."""
        states: dict[str, State] = {}
        for step, findings in self.found.items():
            if findings is None:
                states[step] = "broke" if self._broke(step, states) else "not run"
            elif findings.passed:
                states[step] = "passed"
            else:
                states[step] = "failed" if step in _CHECKS else "alert"
        return states

    @property
    def alerts(self) -> list[Alert]:
        """All that people should know: what the steps found, and that one broke."""
        listed = [alert for findings in self.found.values() if findings for alert in findings.alerts]
        broken = [STEPS[step] for step, state in self.states.items() if state == "broke"]
        if broken:
            text = f"{' and '.join(broken)} left no findings: see the task's log"
            listed.append(Alert("missing", ALL_COLUMNS, float(len(broken)), 0.0, text))
        return listed

    @property
    def judged(self) -> set[str]:
        """The kinds of alerts that this run looked for: those of its steps, and whether a step left no findings."""
        return {"missing", *("future" if step == "window" else step for step, one in self.found.items() if one)}

    @property
    def causes(self) -> list[str]:
        """Why the run is not good, one line for each cause; empty where it is."""
        states = self.states
        lines = [alert.text for check in _CHECKS if (findings := self.found[check]) for alert in findings.alerts]
        lines += [f"{STEPS[step]} left no findings: see its log" for step, state in states.items() if state == "broke"]
        lines += [f"{STEPS[step]} was not run" for step, state in states.items() if state == "not run"]
        return lines

    def _broke(self, step: str, states: Mapping[str, State]) -> bool:
        if self.ended:
            return self.ended.get(STEPS[step]) in ("success", "failed")
        return not any(states.get(needed) in ("failed", "broke", "not run") for needed in _NEEDED)


def _ended_so(step: str, findings: Findings, state: str | None) -> bool:
    """Whether a task that left these findings ends so. state: None where nobody asked Airflow."""
    refused = step in _CHECKS and not findings.passed
    return state is None or state == ("failed" if refused else "success")
