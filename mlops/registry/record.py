"""What an MLflow run says of its model: written by training, read where the model is registered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING, Any, Self

from mlops.result import Refused

if TYPE_CHECKING:
    from mlops.models.declaration import Model
    from mlops.stores.tracking import Tracking

DESCRIPTION = "maestro.description"  # what the model is, in the words of its family
RUN_KEY = "maestro.run_key"  # the task instance that trained; see RunIdentity
DAG_ID = "maestro.dag_id"
DAG_RUN_ID = "maestro.dag_run_id"
GATE = "maestro.gate"  # PASSED or REFUSED
GATE_REASONS = "maestro.gate.reasons"  # a JSON list
GATE_THRESHOLDS = "maestro.gate.thresholds"  # a JSON object
KIND = "maestro.kind"  # of the label: binary, multiclass, regression
METRIC = "maestro.metric"  # what decides
ADVANTAGE = "maestro.champion.advantage"  # over the champion, with its interval: a JSON object
CHAMPION = "maestro.champion"  # the version that the gate compared it with, NO_CHAMPION or NOT_ASKED
FEATURE_SERVICE = "maestro.feature_service"
FEATURE_SCHEMA = "maestro.feature_schema"  # a JSON object, {"view:feature": type}
SERVED_AGE = "maestro.served_age"  # how old the values were that it was trained and judged on, in words
EVENT_TIME_SHIFT = "maestro.event_time_shift_seconds"
DATASET = "maestro.dataset"
DATA_VERSION = "maestro.data_version"
CODE_VERSION = "maestro.code_version"

# Parameters of a run, which those of before 0.2 lack.
SPLIT = "split"  # how its rows were split, in words
FILL = "fill"  # IN_THE_MODEL; before, missing values were filled in before the model saw them
IN_THE_MODEL = "in the model"

# A file of the run: a sample of what the model says of the test set, a JSON list of probabilities of 1, of classes, or
# of numbers, for those to compare with who score later rows.
TEST_SCORES = "test_scores.json"

# Files of the run for its card: how its probabilities came true (mlops/training/calibration.py), and how it did on
# parts of the test set, {"name of the part": {"rows": number, "metric": number, ...}}.
CALIBRATION, SLICES = "calibration.json", "slices.json"
CALIBRATION_ERROR = "calibration_error"  # the metric

GATE_PASSED, GATE_REFUSED = "passed", "refused"
NO_CHAMPION, NOT_ASKED = "none", "not asked for"
TRAIN, TEST = "train", "test"  # prefixes of metrics and of the period's tag


@dataclass(frozen=True)
class Record:
    """A run's parameters, metrics and tags."""

    run_id: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @classmethod
    def read(cls, tracking: Tracking, run_id: str, model: Model | None = None) -> Self:
        """Raises Refused for a run of another model, where one is given."""
        run = tracking.run(run_id)
        params = dict(run.data.params)
        if model is not None:
            # A run of an earlier release names its data set and no model.
            of = params.get("model", model.name), params.get("dataset")
            if of != (model.name, model.dataset):
                raise Refused(
                    f"run {run_id} is of model {of[0]!r}, from {of[1]!r}, and not of {model.name!r}: give its own"
                )
        return cls(run_id, params, dict(run.data.metrics), dict(run.data.tags))

    @property
    def passed(self) -> bool:
        """Whether the gate let the run's model pass. Raises Refused where it was not asked."""
        verdict = self.tags.get(GATE)
        if verdict not in (GATE_PASSED, GATE_REFUSED):
            raise Refused(
                f"run {self.run_id} has not been through the gate: run 'python -m mlops training evaluate' on it first"
            )
        return verdict == GATE_PASSED

    @property
    def reasons(self) -> list[str]:
        """Why the gate did not let it pass."""
        return [str(reason) for reason in json.loads(self.tags.get(GATE_REASONS, "[]"))]

    @property
    def criteria(self) -> dict[str, Any]:
        """What the gate asked for: `metric`, `thresholds` by metric, `required_gain`, `confidence`; empty before that.

        A run of before 0.2 has the last two of them.
        """
        criteria: dict[str, Any] = json.loads(self.tags.get(GATE_THRESHOLDS, "{}"))
        return criteria

    @property
    def advantage(self) -> dict[str, float]:
        """By how much it was better than the champion, `advantage`, and with `_lower` and `_upper` between what."""
        return {name: float(value) for name, value in json.loads(self.tags.get(ADVANTAGE, "{}")).items()}

    @property
    def feature_schema(self) -> dict[str, str]:
        """Type by `view:feature`; empty where no feature service was used."""
        return {name: str(dtype) for name, dtype in json.loads(self.tags.get(FEATURE_SCHEMA, "{}")).items()}

    @property
    def evidence(self) -> dict[str, Any]:
        """What spoke for it: its run, the gate's verdict, the champion, and what it is judged by on the test set."""
        judged_by = [f"{TEST}_{self.tags[METRIC]}"] if METRIC in self.tags else []
        wanted = (*judged_by, *(f"{TEST}_gain{end}" for end in ("", "_lower", "_upper")))
        return {
            "run_id": self.run_id,
            **{name: self.tags[tag] for name, tag in (("gate", GATE), ("champion", CHAMPION)) if tag in self.tags},
            **{name: self.metrics[name] for name in wanted if isfinite(self.metrics.get(name, nan))},
        }

    @property
    def version_tags(self) -> dict[str, str]:
        """What the registered version is tagged with: its origin, its feature contract, its scores on the test set."""
        copied = (
            DAG_ID,
            DAG_RUN_ID,
            FEATURE_SERVICE,
            FEATURE_SCHEMA,
            SERVED_AGE,
            EVENT_TIME_SHIFT,
            KIND,
            METRIC,
            CHAMPION,
            ADVANTAGE,
        )
        params = {DATASET: "dataset", DATA_VERSION: "data_version", CODE_VERSION: "code_version"}
        return {
            **{tag: self.params[param] for tag, param in params.items() if param in self.params},
            **{tag: self.tags[tag] for tag in copied if tag in self.tags},
            **{
                f"maestro.{name}": repr(value)
                for name, value in sorted(self.metrics.items())
                if name.startswith(f"{TEST}_")
            },
        }


def period_tag(part: str) -> str:
    """The tag of the first and the last event of the training or test set, an ISO 8601 interval."""
    return f"maestro.{part}_period"
