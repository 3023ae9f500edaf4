"""Predictions asked for by ids alone: the server joins the features of the model's feature service itself.

What is missing or older than the service declares is said of each row; the model answers all the same, as it learned.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mlops.result import Failure, Refused
from mlops.stores.online_features import Known, OnlineFeatures, View

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from starlette.requests import Request
    from starlette.responses import Response

    from mlops.features.repository import FeatureServiceSpec
    from mlops.serving.answers import ServedModel
    from mlops.serving.prediction_log import PredictionLog
    from mlops.training.families import Prediction

PATH = "/predict"
MOST_ROWS = 1_000
MOST_BYTES = 1 << 20  # of a request: a thousand rows of long ids
MOST_CHARACTERS = 500  # of an id
_EVERY = 10.0  # seconds for which it is not asked anew when a materialization was last there
_SHOWN = 60  # characters of a value in a message


class Joined(NamedTuple):
    """What is known of a row. values: by feature and key; missing, stale: names of features; ages: seconds, by view."""

    values: dict[str, Any]
    missing: list[str]
    stale: list[str]
    ages: dict[str, float]


@dataclass(frozen=True)
class Service:
    """A feature service as it is read: its views, and the columns of the ids that name its entities."""

    spec: FeatureServiceSpec

    @property
    def views(self) -> list[View]:
        return [View(view.name, view.key.column, list(view.features)) for view in self.spec.views]

    @property
    def keys(self) -> list[str]:
        return list(dict.fromkeys(view.key.column for view in self.spec.views))

    def join(
        self, row: Mapping[str, str], known: Mapping[str, Known], materialized: Mapping[str, float], now: float
    ) -> Joined:
        """The features of a row beside its keys. now, materialized: seconds since 1970, the latter by view."""
        values, missing, stale, ages = dict[str, Any](row), list[str](), list[str](), dict[str, float]()
        for view in self.spec.views:
            found = known.get(view.name)
            names = list(view.features)
            values |= found.values if found else dict.fromkeys(names)
            missing += [name for name in names if values[name] is None]
            if found is None:
                continue
            as_of = self.spec.served_age.known_at(found.event, materialized.get(view.name))
            ages[view.name] = round(max(0.0, now - as_of), 3)
            if ages[view.name] > self.spec.served_age.longest.total_seconds():
                stale += [name for name in names if values[name] is not None]
        return Joined(values, missing, stale, ages)

    def table(self, rows: Sequence[Joined]) -> pd.DataFrame:
        """(n, features and keys), numbers as float64 and all else as text or None: as the model was trained."""
        import numpy as np
        import pandas as pd

        types = {**dict.fromkeys(self.keys, "String"), **self.spec.features}
        columns = {
            name: np.array([row.values[name] for row in rows], object if dtype == "String" else float)
            for name, dtype in types.items()
        }
        return pd.DataFrame(columns)


def rows_of(body: bytes, keys: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a request, one object or a list of them, their keys as text: a whole number is taken by its digits.

    Raises Refused that says what is wrong, and where.
    """
    if len(body) > MOST_BYTES:
        raise Refused(f"the request has more than {MOST_BYTES} bytes: send fewer rows at a time")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the request is no JSON: {str(error)[:200]}") from error
    rows = content if isinstance(content, list) else [content]
    if not rows:
        raise Refused(f"the list is empty: give at least one row with {_named(keys)}")
    if len(rows) > MOST_ROWS:
        raise Refused(f"there are {len(rows)} rows: send at most {MOST_ROWS} at a time")
    taken = [_digits_as_text(row) for row in rows]
    for place, row in enumerate(taken):
        if fault := _fault(row, keys):
            raise Refused(f"row {place}: {fault}")
    return taken


def _digits_as_text(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    # type(), since true and false are int as well
    return {key: str(value) if type(value) is int else value for key, value in row.items()}


def _fault(row: object, keys: Sequence[str]) -> str | None:
    if not isinstance(row, dict):
        return f"{_shown(row)} is no object with {_named(keys)}"
    absent, strange = [key for key in keys if key not in row], sorted(set(row) - set(keys))
    if absent:
        return f"{_named(absent)} is missing: the model is asked by {_named(keys)}"
    if strange:
        return f"{_named(strange[:3])[: 3 * _SHOWN]} is unknown: the model is asked by {_named(keys)} and nothing else"
    for key in keys:
        if not isinstance(row[key], str):
            return f"{key!r} is {_shown(row[key])}: give a text or a whole number"
        if not 0 < len(row[key]) <= MOST_CHARACTERS:
            return f"{key!r} has {len(row[key])} characters: give 1 to {MOST_CHARACTERS}"
        if not row[key].isprintable():
            return f"{key!r} holds what is no text: {_shown(row[key])}"
    return None


def _named(keys: Sequence[str]) -> str:
    return ", ".join(repr(key) for key in keys)


def _shown(value: object) -> str:
    return json.dumps(value, default=str)[:_SHOWN]


def scores(prediction: Prediction) -> np.ndarray:
    """(n,) of one number a row: the probability of 1, or of the class that is predicted, or the number itself."""
    import numpy as np

    if prediction.classes is None or prediction.probabilities is None:
        return np.asarray(prediction.values, dtype=float)
    if list(prediction.classes) == [0, 1]:
        return np.asarray(prediction.probabilities[:, 1], dtype=float)
    return np.asarray(prediction.probabilities.max(axis=1), dtype=float)


class ByIds:
    """Answers POST /predict. online: None where values have this server not read features."""

    def __init__(
        self,
        model: ServedModel,
        service: Service | None,
        online: OnlineFeatures | None,
        log: PredictionLog | None = None,
    ) -> None:
        self._model, self._service, self._online, self._log = model, service, online, log
        self._materialized: dict[str, float] = {}
        self._asked = float("-inf")

    async def __call__(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                break
        status, answer = await run_in_threadpool(self.answer, body)
        return JSONResponse(answer, status)

    def answer(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of the answer."""
        name = self._model.name
        if self._service is None:
            why = f"model {name!r} was trained on no feature service: send its columns to /invocations"
            return 404, _error("RESOURCE_DOES_NOT_EXIST", why)
        if self._online is None:
            why = f"this server of model {name!r} reads no features: set onlineFeatures of its values to true"
            return 404, _error("RESOURCE_DOES_NOT_EXIST", why)
        try:
            rows = rows_of(body, self._service.keys)
        except Refused as refused:
            return 400, _error("BAD_REQUEST", str(refused))
        try:
            joined = self._joined(self._service, self._online, rows)
        except Failure as failure:
            return 503, _error("TEMPORARILY_UNAVAILABLE", str(failure))
        return 200, self._predicted(self._service, rows, joined)

    def _joined(self, service: Service, online: OnlineFeatures, rows: Sequence[dict[str, str]]) -> list[Joined]:
        now = time.time()
        if now > self._asked + _EVERY:
            self._materialized, self._asked = online.materialized(), now
        known = online.read(rows)
        return [service.join(row, of, self._materialized, now) for row, of in zip(rows, known, strict=True)]

    def _predicted(self, service: Service, rows: Sequence[dict[str, str]], joined: Sequence[Joined]) -> dict[str, Any]:
        found = self._model.answer(service.table(joined))
        ids = [uuid.uuid4().hex for _ in rows]
        values, scored = found.values.tolist(), scores(found).tolist()
        if self._log is not None:
            self._log.add(ids, rows, values, scored, joined)
        predictions = [
            {
                "id": id_,
                "prediction": value,
                "score": score,
                "missing": of.missing,
                "stale": of.stale,
                "age_seconds": of.ages,
            }
            for id_, value, score, of in zip(ids, values, scored, joined, strict=True)
        ]
        return {
            "model": self._model.name,
            "version": self._model.version,
            "feature_service": service.spec.name,
            "predictions": predictions,
        }


def _error(code: str, message: str) -> dict[str, str]:
    """As MLflow's scoring server words its errors."""
    return {"error_code": code, "message": message}
