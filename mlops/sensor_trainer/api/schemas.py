"""What requests and answers hold. A body that does not fit is refused whole, with each fault's place."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from mlops.sensor_trainer.store.jobs import Job
from mlops.sensor_trainer.store.readings import NewReading

BATCH = 5_000  # readings that one request may send
PAGE = 1_000  # readings that one answer holds
QUESTIONS = 1_000  # readings that one request may ask about
MODEL_NAMES = ConfigDict(protected_namespaces=())  # "model_version" is our word, not one of pydantic's
_STRICT = ConfigDict(extra="forbid", strict=True)
_LARGEST_ID = 2**63 - 1  # of PostgreSQL's bigint
_AHEAD = timedelta(minutes=5)  # by which a sensor's clock may be wrong
# RFC 3339. Pydantic by itself also takes a number, in digits too, for seconds since 1970.
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
VISIBLE = r"^[\x21-\x7E]{1,255}$"  # ASCII that can be seen, as a header may have it
_YEARS = range(1970, 9999)  # which any zone can be told in


def _is_rfc_3339(value: object) -> object:
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError("write a time with its zone, such as 2026-01-31T12:00:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    if value.year not in _YEARS:
        raise ValueError(f"its year is not between {_YEARS[0]} and {_YEARS[-1]}")
    return value.astimezone(UTC)


def _not_in_the_future(value: datetime) -> datetime:
    if value > datetime.now(UTC) + _AHEAD:
        raise ValueError(f"is more than {_AHEAD.seconds // 60} minutes in the future")
    return value


Number = Annotated[float, Field(allow_inf_nan=False)]
Time = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_is_rfc_3339), AfterValidator(_in_utc)]
Key = Annotated[str, Field(pattern=VISIBLE, description="names the reading: sent again, it is not taken twice")]


class Reading(BaseModel):
    """One reading of a sensor's columns."""

    model_config = _STRICT
    key: Key
    sensor: str
    time: Annotated[
        Time, AfterValidator(_not_in_the_future), Field(description="with its zone; at most 5 minutes in the future")
    ]
    values: BaseModel
    failure: Annotated[bool | None, Field(description="whether the sensor was failing; null: not known")] = None


class Page(BaseModel):
    """Which readings are asked for, in the address."""

    model_config = ConfigDict(extra="forbid")
    after: Annotated[int, Field(ge=0, le=_LARGEST_ID, description="the id of the last one of the page before")] = 0


class Question(BaseModel):
    """A reading that is asked about."""

    model_config = _STRICT
    sensor: str
    values: BaseModel


class ReadingBatch(BaseModel):
    """Readings to take in, all or none."""

    model_config = _STRICT
    readings: Sequence[Reading]


class Questions(BaseModel):
    """Readings to score."""

    model_config = _STRICT
    readings: Sequence[Question]


class Bodies(NamedTuple):
    """The types of the bodies that hold readings."""

    batch: type[ReadingBatch]
    questions: type[Questions]


def bodies(columns: Sequence[str], sensors: Sequence[str]) -> Bodies:
    """The types for readings of these columns by these sensors, so that the OpenAPI document names them."""
    # A column may have any name, a Python attribute not.
    fields: dict[str, Any] = {f"value_{place}": (Number, Field(alias=name)) for place, name in enumerate(columns)}
    values: Any = create_model("Values", __config__=_STRICT, __doc__="A finite number a column.", **fields)
    sensor: Any = Literal[tuple(sensors)]
    reading: Any = create_model("Reading", __base__=Reading, __doc__=Reading.__doc__, sensor=sensor, values=values)
    question: Any = create_model("Question", __base__=Question, __doc__=Question.__doc__, sensor=sensor, values=values)
    many = Annotated[list[reading], Field(min_length=1, max_length=BATCH)]
    asked = Annotated[list[question], Field(min_length=1, max_length=QUESTIONS)]
    return Bodies(
        create_model("Batch", __base__=ReadingBatch, __doc__=ReadingBatch.__doc__, readings=many),
        create_model("Questions", __base__=Questions, __doc__=Questions.__doc__, readings=asked),
    )


def values_of(reading: Reading | Question) -> tuple[float, ...]:
    """A number for each column, in the order in which `bodies` was given the columns."""
    return tuple(vars(reading.values).values())


def new_readings(batch: ReadingBatch) -> list[NewReading]:
    return [NewReading(each.key, each.sensor, each.time, values_of(each), each.failure) for each in batch.readings]


def contradictions(readings: Sequence[NewReading]) -> list[dict[str, Any]]:
    """The faults of those whose key an earlier one has with another content; the same again is a mere duplicate."""
    first: dict[str, int] = {}
    faults = []
    for index, reading in enumerate(readings):
        earlier = first.setdefault(reading.key, index)
        if readings[earlier] != reading:
            reason = f"reading {earlier} has this key and another content"
            faults.append({"index": index, "field": "key", "reason": reason})
    return faults


class Ingested(BaseModel):
    """How many readings were new, and of how many the key was known."""

    accepted: int
    duplicates: int


class KeptReading(BaseModel):
    """A reading that was taken in. values: one a column, in the order of `columns`."""

    id: int
    sensor: str
    time: datetime
    values: Sequence[float]
    failure: bool | None


class KeptReadings(BaseModel):
    """A page of readings in the order in which they were stored. newest_id: of all readings; null: there is none."""

    dataset: str
    columns: Sequence[str]
    newest_id: int | None
    readings: Sequence[KeptReading]


class Prediction(BaseModel):
    """What the model makes of a reading."""

    cluster: Annotated[int, Field(description="the cluster that is nearest")]
    distance: Annotated[float, Field(description="to the middle of that cluster, in scaled units")]
    anomaly_score: Annotated[
        float, Field(description="distance to the nearest healthy cluster, in multiples of the threshold")
    ]
    failure: Annotated[bool, Field(description="whether it looks like one of a failing sensor")]


class Predictions(BaseModel):
    """A prediction a reading, in their order."""

    model_config = MODEL_NAMES
    model_version: str
    predictions: list[Prediction]


class Training(BaseModel):
    """What to train on; all of it may be left out."""

    model_config = _STRICT
    minimum_new_readings: Annotated[
        int | None,
        Field(ge=0, le=1_000_000_000, description="with fewer since the last training, the job ends as skipped"),
    ] = None
    until: Annotated[Time | None, Field(description="the end of the readings; else the newest is the last")] = None

    def as_request(self) -> Mapping[str, Any]:
        """What was asked for, which tells a repeated request from another one by the same key."""
        return self.model_dump(mode="json", exclude_none=True)


class JobStatus(BaseModel):
    """How far a training job is."""

    job_id: UUID
    model: str
    state: Literal["queued", "running", "succeeded", "skipped", "failed", "cancelled"]
    step: str
    progress: Annotated[float, Field(description="from 0 to 1")]
    attempt: Annotated[int, Field(description="how often a worker has begun it")]
    created: datetime
    started: datetime | None
    finished: datetime | None
    result: Annotated[dict[str, Any] | None, Field(description="metrics, model_version and more, once there are any")]
    error: Annotated[str | None, Field(description="why it failed")]

    @classmethod
    def of(cls, job: Job) -> "JobStatus":
        values = {name: getattr(job, name) for name in cls.model_fields if name != "job_id"}
        return cls(job_id=job.id, **values)


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Each server behind this one: "ok", or why it is away."""

    redis: str
    postgresql: str
    mlflow: str
