"""Feast's feature server, made to say what is wrong: stock Feast answers an unknown entity with nulls marked PRESENT.

Of its addresses only those that read are kept. What it could write, by /push and /materialize, would go round the
compare-and-set of `features materialize`.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from feast import FeatureStore, FeatureView
from feast import metrics as feast_metrics
from feast.errors import FeastObjectNotFoundException
from feast.feature_server import GetOnlineFeaturesRequest, get_app
from starlette.responses import JSONResponse

from mlops.config import CertificateSettings
from mlops.features.build_record import find_build_record
from mlops.features.repository import datasets_with_features
from mlops.result import Failure
from mlops.stores.dataset_files import SHIFT_FIELD
from mlops.stores.feature_store import FeatureStoreConfig, feast_bucket, open_configured

_ONLINE_FEATURES = "/get-online-features"
_KEPT = {"/health", "/openapi.json", "/docs"}
_EVERY = 60.0  # seconds after which a change of the registry or of a shift shows
_NEVER = "1970-01-01T00:00:00Z"  # Feast's time of what is not in the online store
_SHOWN = 10  # entities in a message
_SHOWN_CHARACTERS = 40  # of a value in one
# What a join key is in JSON; MaterializedView lets no other kind be served.
_KEY_TYPES: dict[str, tuple[type, str]] = {
    "STRING": (str, "a text"),
    "BYTES": (str, "a text"),
    "INT32": (int, "a whole number"),
    "INT64": (int, "a whole number"),
}

log = logging.getLogger(__name__)


def run(port: int, metrics_port: int | None) -> None:
    """Serves until it is told to stop. Raises Failure where the registry is away."""
    store = open_configured(replace(FeatureStoreConfig.from_environment(), registry_cache=0))
    refresh = Refresh(store)
    if metrics_port is not None:
        feast_metrics.start_metrics_server(store, port=metrics_port)
    refresh.start()
    tls = CertificateSettings.from_environment()
    uvicorn.run(
        application(store, refresh.shifts),
        host="0.0.0.0",  # noqa: S104
        port=port,
        ssl_certfile=tls.certificate,
        ssl_keyfile=tls.key,
        access_log=False,
        log_level="warning",
    )


def application(store: FeatureStore, shifts: Mapping[str, int]) -> FastAPI:
    """Feast's application with POST /get-online-features checked before and after.

    shifts: by how many seconds the event times of a dataset are shifted; it may change while the server runs.
    """
    app: FastAPI = get_app(store, registry_ttl_sec=0)  # its timer ends for good when PostgreSQL is away once
    routes = {getattr(route, "path", ""): route for route in app.routes}
    stock = routes[_ONLINE_FEATURES].endpoint  # type: ignore[attr-defined]
    app.router.routes[:] = [route for path, route in routes.items() if path in _KEPT]

    @app.post(_ONLINE_FEATURES)
    async def get_online_features(request: GetOnlineFeaturesRequest) -> JSONResponse:
        columns = requested(store, request)
        check_entities(request, columns.values())
        response: JSONResponse = await stock(request)
        answer = json.loads(bytes(response.body))
        absent = missing(request, columns, answer)
        if absent:
            more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
            raise HTTPException(
                404,
                f"not in the online store: {'; '.join(absent[:_SHOWN])}{more}: check the identifiers, or run the DAG "
                "feature_materialization for a window that has events of theirs",
            )
        answer["metadata"] |= freshness(store, request, columns, answer, datetime.now(UTC))
        shifted = {view.tags.get("dataset", ""): view.name for view in columns.values()}
        note = {name: shifts[name] for name in sorted(shifted) if shifts.get(name)}
        if note:
            answer["metadata"][SHIFT_FIELD] = note
        return JSONResponse(answer)

    return app


def requested(store: FeatureStore, request: GetOnlineFeaturesRequest) -> dict[str, FeatureView]:
    """The view of each column that is asked for. Raises HTTPException for what there is not, naming what there is."""
    if bool(request.feature_service) == bool(request.features):
        raise HTTPException(422, "give either 'feature_service', or 'features' as a list of 'view:feature'")
    if request.feature_service:
        references = list(_of_service(store, request.feature_service))
    else:
        references = [reference.partition(":")[::2] for reference in request.features]
    columns, problems = {}, []
    views = {view.name: view for view in store.list_feature_views(allow_cache=True)}
    for name, feature in references:
        known = [field.name for field in views[name].features] if name in views else []
        if not feature:
            raise HTTPException(422, f"feature {name!r} is not of the form 'view:feature'")
        if feature not in known:
            there_is = f"view {name!r} has {', '.join(known)}" if known else f"there are the views {', '.join(views)}"
            problems.append(f"feature '{name}:{feature}' is unknown: {there_is}")
        else:
            column = f"{name}__{feature}" if request.full_feature_names else feature
            if column in columns:
                raise HTTPException(
                    422,
                    f"feature '{name}:{feature}' is asked for twice, or two views have it: then say full_feature_names",
                )
            columns[column] = views[name]
    if problems:
        raise HTTPException(404, "; ".join(problems))
    return columns


def check_entities(request: GetOnlineFeaturesRequest, views: Iterable[FeatureView]) -> None:
    """Raises HTTPException unless each join key has a value of its type for each row, and there is no other key."""
    views = list(views)
    needed = {column.name: view.name for view in views for column in view.entity_columns}
    for key, view in needed.items():
        if key not in request.entities:
            raise HTTPException(422, f"entity {key!r}, which view {view!r} is read by, is not in 'entities'")
    unknown = sorted(set(request.entities) - set(needed))
    if unknown:
        raise HTTPException(
            422, f"entity {unknown[0]!r} is unknown to these features: they are read by {', '.join(needed)}"
        )
    lengths = {key: len(values) for key, values in request.entities.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise HTTPException(422, f"'entities' needs as many values, at least one, for each key: it has {lengths}")
    for column in (column for view in views for column in view.entity_columns):
        kind, name = _KEY_TYPES[column.dtype.to_value_type().name]
        for place, value in enumerate(request.entities[column.name]):
            if not isinstance(value, kind) or isinstance(value, bool):
                shown = json.dumps(value, default=str)[:_SHOWN_CHARACTERS]
                raise HTTPException(422, f"entity {column.name!r}, value {place}: {shown} is not {name}")


def missing(
    request: GetOnlineFeaturesRequest, columns: Mapping[str, FeatureView], answer: Mapping[str, Any]
) -> list[str]:
    """The entities without a row in the online store, each once for each view that lacks it.

    A row that is there has the time of its event, whatever of its values are missing.
    """
    found: dict[str, None] = {}
    for column, result in zip(answer["metadata"]["feature_names"], answer["results"], strict=True):
        view = columns.get(column)
        if view is None:
            continue
        for row, known_at in enumerate(result["event_timestamps"]):
            if known_at == _NEVER:
                keys = ", ".join(f"{key.name} {request.entities[key.name][row]!r}" for key in view.entity_columns)
                found[f"{keys} (view {view.name})"] = None
    return list(found)


def freshness(
    store: FeatureStore,
    request: GetOnlineFeaturesRequest,
    columns: Mapping[str, FeatureView],
    answer: Mapping[str, Any],
    now: datetime,
) -> dict[str, Any]:
    """How old the oldest event behind the answer is, in seconds and by view, and how old values of the service may be.

    Feast itself tells the time of each value, which nobody looks at.
    """
    ages: dict[str, int] = {}
    for column, result in zip(answer["metadata"]["feature_names"], answer["results"], strict=True):
        if view := columns.get(column):
            oldest = min(map(datetime.fromisoformat, result["event_timestamps"]))
            ages[view.name] = max(ages.get(view.name, 0), round((now - oldest).total_seconds()))
    said: dict[str, Any] = {"age_seconds": ages}
    if request.feature_service:
        service = store.get_feature_service(request.feature_service, allow_cache=True)
        said["served_age"] = service.tags.get("served_age")
    return said


class Refresh:
    """Reads the registry anew, and how far each dataset is shifted, now and then and beside the requests.

    Where PostgreSQL or the bucket is away, what was read before stays: features are served from Redis alone.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.shifts: dict[str, int] = {}
        self._store, self._built = store, feast_bucket()

    def start(self) -> None:
        threading.Thread(target=self._keep, name="refresh", daemon=True).start()

    def read(self) -> None:
        self._store.refresh_registry()  # type: ignore[no-untyped-call]  # Feast keeps its copy where this fails
        try:
            for dataset in datasets_with_features():
                built = find_build_record(self._built, dataset)
                self.shifts[dataset] = 0 if built is None else built.shift_seconds
        except Failure as failure:
            log.warning("the shifts of event times stay as they were read before: %s", failure)

    def _keep(self) -> None:
        while True:
            self.read()
            time.sleep(_EVERY)


def _of_service(store: FeatureStore, name: str) -> Iterator[tuple[str, str]]:
    try:
        service = store.get_feature_service(name, allow_cache=True)
    except FeastObjectNotFoundException as error:
        known = ", ".join(service.name for service in store.list_feature_services())
        raise HTTPException(404, f"feature service {name!r} is unknown: there are {known}") from error
    for view in service.feature_view_projections:
        for field in view.features:
            yield view.name, field.name
