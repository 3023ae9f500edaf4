"""What the steps of a run found, taken together: how each ended, what people are told, whether the run is good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mlops.data_quality.findings import ALL_COLUMNS, STEPS, Alert, Findings

State = Literal["passed", "failed", "alert", "not run", "broke"]

_CHECKS = ("schema", "quality")  # a step behind these is not run where one of them fails


def current(found: Mapping[str, Findings | None]) -> dict[str, Findings | None]:
    """The findings in the order of STEPS, without those of an earlier try that judged other data.

    A run that is cleared after the data was corrected has findings of both until its last step is done.
    """
    first = next((found[step] for step in STEPS if found.get(step)), None)
    kept: dict[str, Findings | None] = {}
    for step in STEPS:
        findings = found.get(step)
        same = findings and first and (findings.window, findings.dataset) == (first.window, first.dataset)
        kept[step] = findings if same else None
    return kept


def states(found: Mapping[str, Findings | None]) -> dict[str, State]:
    """How each step ended. One without findings was not run, or it broke where nothing kept it from running."""
    ended: dict[str, State] = {}
    for step in STEPS:
        findings = found[step]
        if findings is None:
            stopped = any(ended.get(check) in ("failed", "broke", "not run") for check in _CHECKS)
            ended[step] = "not run" if stopped else "broke"
        elif findings.passed:
            ended[step] = "passed"
        else:
            ended[step] = "failed" if step in _CHECKS else "alert"
    return ended


def alerts(found: Mapping[str, Findings | None]) -> list[Alert]:
    """All that people should know: what the steps found, and that one broke."""
    listed = [alert for findings in found.values() if findings for alert in findings.alerts]
    broken = [STEPS[step] for step, state in states(found).items() if state == "broke"]
    if broken:
        text = f"{' and '.join(broken)} left no findings: see the task's log"
        listed.append(Alert("missing", ALL_COLUMNS, float(len(broken)), 0.0, text))
    return listed


def judged(found: Mapping[str, Findings | None]) -> set[str]:
    """The kinds of alerts that this run looked for: of the steps that left findings, and whether a step left none."""
    return {"missing", *(step for step in STEPS if found[step])}


def causes(found: Mapping[str, Findings | None]) -> list[str]:
    """Why the run is not good, one line for each cause; empty where it is."""
    ended = states(found)
    lines = [alert.text for check in _CHECKS if (findings := found[check]) for alert in findings.alerts]
    lines += [f"{STEPS[step]} left no findings: see its log" for step, state in ended.items() if state == "broke"]
    lines += [f"{STEPS[step]} was not run" for step, state in ended.items() if state == "not run"]
    return lines
