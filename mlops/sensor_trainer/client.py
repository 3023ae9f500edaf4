"""The sensor trainer as the pods of a DAG ask it: by its REST API, with the standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote

from mlops.config import SensorTrainerSettings
from mlops.result import JSON, Refused
from mlops.stores.http import Answer, HttpService, WrongAnswer, words

if TYPE_CHECKING:
    pass

_PARTS = ("postgresql", "redis", "mlflow")  # what the trainer stands on, by the names in its answer to /ready
_FAULTS = 5  # of refused readings that a message shows
_ENDED = frozenset({"succeeded", "skipped", "failed", "cancelled"})
_STATES = _ENDED | {"queued", "running"}


class JobReport(NamedTuple):
    """A training job as the trainer tells of it; progress: from 0 to 1."""

    id: str
    state: str
    step: str | None
    progress: float | None
    attempt: int
    result: Mapping[str, Any]
    error: str | None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        return cls(
            body["job_id"],
            body["state"],
            body.get("step"),
            body.get("progress"),
            body.get("attempt") or 0,
            body.get("result") or {},
            body.get("error"),
        )

    @property
    def ended(self) -> bool:
        return self.state in _ENDED

    @property
    def where(self) -> str:
        """How far it is, in words."""
        step = f", step {self.step}" if self.step else ""
        progress = f", {self.progress:.0%} done" if self.progress else ""
        attempt = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return f"{self.state}{step}{progress}{attempt}"


class Page(NamedTuple):
    """Readings that were taken in, in the order of their ids. dataset, columns: what their values are of."""

    dataset: str
    columns: Sequence[str]
    newest_id: int
    readings: Sequence[Mapping[str, Any]]


class Submitted(NamedTuple):
    """others: whether the job was asked for by somebody else, and ours was not taken since it is under way."""

    job: JobReport
    others: bool


class Trainer:
    """The trainer's API. Each method is one request (a conflict: two) and raises what `HttpService.ask` raises."""

    def __init__(self, settings: SensorTrainerSettings) -> None:
        self._service = HttpService(
            "the sensor trainer",
            settings.url,
            "global.services.sensorTrainer",
            token=settings.token,
            credential="global.sensorTrainer.existingSecret",
        )

    @classmethod
    def from_environment(cls) -> Self:
        return cls(SensorTrainerSettings.from_environment())

    def check(self) -> None:
        """Raises WrongAnswer that names what the trainer lacks, where it lacks something."""
        try:
            self._service.ask("GET", "/ready")
        except WrongAnswer as wrong:
            said = wrong.body if isinstance(wrong.body, dict) else {}
            missing = [f"{part}: {words(said[part])}" for part in _PARTS if said.get(part, "ok") != "ok"]
            if not missing:
                raise
            text = f"the sensor trainer runs and is not ready; {'; '.join(missing)}"
            raise WrongAnswer(text, wrong.status, wrong.body) from None

    def train(self, key: str, request: Mapping[str, JSON]) -> Submitted:
        """The job of the key: a new one, the one the key was given before, or another of the model that is under way.

        Raises Refused where the key was given before with another request.
        """
        try:
            answer = self._service.ask("POST", "/train", request, {"Idempotency-Key": key}, expected=202)
        except WrongAnswer as wrong:
            if wrong.status == 409 and isinstance(wrong.body, dict) and wrong.body.get("job_id"):
                return Submitted(self.job(str(wrong.body["job_id"])), others=True)
            if wrong.status == 422:
                raise Refused(
                    f"the sensor trainer does not take the request {dict(request)} with the key {key}: "
                    f"{words(wrong.body)}. Trigger a new run of the DAG with what it asks for"
                ) from None
            raise
        return Submitted(self._job(answer, "POST /train"), others=False)

    def job(self, job_id: str) -> JobReport:
        """Raises Refused where the trainer knows no such job."""
        path = f"/status/{quote(job_id, safe='')}"
        try:
            return self._job(self._service.ask("GET", path), f"GET {path}")
        except WrongAnswer as wrong:
            if wrong.status != 404:
                raise
            raise Refused(
                f"the sensor trainer knows no job {job_id}: {words(wrong.body)}. Its database is another than when the "
                "job was started: clear trigger_training, which starts one"
            ) from None

    def ingest(self, readings: Sequence[Mapping[str, JSON]]) -> tuple[int, int]:
        """How many of the readings were new, and how many were there already.

        Raises Refused with the first of what is wrong with them; none was taken then.
        """
        try:
            answer = self._service.ask("POST", "/readings", {"readings": list(readings)})
        except WrongAnswer as wrong:
            if wrong.status not in (413, 422):
                raise
            raise Refused(
                f"the sensor trainer does not take the readings: {words(wrong.body)}{_faults(wrong.body)}"
            ) from None
        try:
            return int(answer.body["accepted"]), int(answer.body["duplicates"])
        except (KeyError, TypeError, ValueError):
            raise self._service.wrong(answer, "POST /readings", f"without counts: {words(answer.body)}") from None

    def readings(self, after: int) -> Page:
        """The readings that were stored after the one of this id, a page of them."""
        path = f"/readings?after={after}"
        answer = self._service.ask("GET", path)
        try:
            body = answer.body
            return Page(str(body["dataset"]), body["columns"], int(body["newest_id"] or 0), list(body["readings"]))
        except (KeyError, TypeError, ValueError):
            raise self._service.wrong(answer, f"GET {path}", f"without readings: {words(answer.body)}") from None

    def _job(self, answer: Answer, request: str) -> JobReport:
        try:
            job = JobReport.of(answer.body)
        except (KeyError, TypeError):
            raise self._service.wrong(answer, request, f"not a job: {words(answer.body)}") from None
        if job.state not in _STATES:
            raise self._service.wrong(answer, request, f"the state {job.state!r} is not known here")
        return job


def _faults(body: Any) -> str:
    """The first of what a problem lists, a line each."""
    listed = body.get("errors") if isinstance(body, dict) else None
    faults = [fault for fault in listed if isinstance(fault, dict)] if isinstance(listed, list) else []
    return "".join(
        f"\n- reading {fault.get('index', '?')}, {fault.get('field')}: {fault.get('reason')}"
        for fault in faults[:_FAULTS]
    )
