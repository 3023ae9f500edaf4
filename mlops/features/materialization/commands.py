"""Put the newest feature values into the online store, and look whether they are there."""

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops import datasets, measure
from mlops.config import RedisSettings
from mlops.features.build_record import find_complete_until
from mlops.features.materialization.view import MaterializedView
from mlops.result import JSON, Failure, Refused, Result
from mlops.stores.dataset_files import DatasetFiles
from mlops.stores.feature_store import FeatureStoreConfig, explained, open_feature_store
from mlops.stores.object_store import ObjectStore, bucket, data_bucket
from mlops.stores.online_store import OnlineStore, Written

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

    from mlops.features.materialization.check import OnlineComparison
    from mlops.features.materialization.offline import Window

_EARLIEST = datetime(1678, 1, 1, tzinfo=UTC)  # nanoseconds since 1970 begin in the year before
_PASSES = 3  # over a view, while Redis restarts in the midst of each

log = logging.getLogger(__name__)


def materialize(*, days: float, end: datetime | None) -> Result:
    """Puts each entity's newest values of the last days into the online store, unless newer ones are there.

    The days are those before a view's newest event: where none has come of late, what was known before is still served.
    May be repeated, overlap with another run, or end half way: it never puts an older value over a newer one. `began`
    of the result is what `validate_online` takes as `written`.
    """
    from mlops.features.materialization.offline import Window, recent

    began = datetime.now(UTC)
    asked = Window.before(end or datetime.now(UTC), days)
    online = OnlineStore(RedisSettings.from_environment())
    views = {}
    for view in _views(open_feature_store()):
        begun, complete = time.monotonic(), _complete_until(view)
        rows, written = _materialize(view, recent(bucket(view.bucket), view, asked.end, days), online)
        if complete is not None:
            online.note_materialized(view.name, min(asked.end, complete).timestamp())
        seconds = time.monotonic() - begun
        log.info("%s: %d rows read, %s, %.1f s", view.name, rows, written, seconds)
        counted = {"rows_read": rows, "rows_written": written.written, "rows_not_newer": written.not_newer}
        measure.count_records(rows)
        for name, value in counted.items():
            measure.count(f"maestro_materialization_{name}_total", value, view=view.name)
        measure.gauge("maestro_materialization_seconds", seconds, view=view.name)
        views[view.name] = {**counted, "seconds": round(seconds, 3)}
    totals = {name: sum(view[name] for view in views.values()) for name in (*counted, "seconds")}
    totals["seconds"] = round(totals["seconds"], 3)
    moments = {"start": asked.start, "end": asked.end, "began": began}
    return {**{name: moment.isoformat() for name, moment in moments.items()}, **totals, "views": views}


def push(written: Mapping[str, Sequence[str]], now: datetime) -> dict[str, JSON]:
    """Puts the newest values of these files of views into the online store, unless newer ones are there.

    written: view -> keys of files. Hands back what was written of each view, and how old its newest event is.
    """
    from mlops.features.materialization.offline import Window, copies
    from mlops.features.materialization.write import write

    online = OnlineStore(RedisSettings.from_environment())
    always = Window(_EARLIEST, now)
    views: dict[str, JSON] = {}
    for view in _views(open_feature_store()):
        keys = written.get(view.name)
        if not keys:
            continue
        store = bucket(view.bucket)
        with copies(store, keys) as paths:
            _, done = write(paths, view, always, online)
        age = _age(store, view, now)
        measure.count_records(done.written)
        measure.count("maestro_push_rows_written_total", done.written, view=view.name)
        measure.gauge("maestro_push_age_seconds", age, view=view.name)
        log.info("%s: %s, the newest event is %.0f s old", view.name, done, age)
        views[view.name] = {"rows_written": done.written, "rows_not_newer": done.not_newer, "age_seconds": round(age)}
    return views


def _age(store: ObjectStore, view: MaterializedView, now: datetime) -> float:
    from mlops.features.materialization.offline import recent

    return (now - recent(store, view, now, 0).end).total_seconds()


def validate_online(
    *,
    days: float,
    end: datetime | None,
    written: datetime | None,
    sample: int,
    max_null_share: float,
    max_age_hours: float | None,
) -> Result:
    """Compares what is served of sampled entities with the offline store, and tells how old and how complete it is.

    written: rows that the offline store got later are not compared: whoever wrote them is about to bring them into the
    online store.
    """
    from mlops.features.materialization.offline import Window, recent

    asked = Window.before(end or datetime.now(UTC), days)
    store = open_feature_store()
    views: dict[str, dict[str, JSON]] = {}
    wrong: list[str] = []
    for view in _views(store):
        window = recent(bucket(view.bucket), view, asked.end, days)._replace(written=written)
        findings = _findings(store, view, window, sample)
        if findings is None:
            log.warning("%s has no event up to %s%s", view.name, asked.end, _written_by(written))
            views[view.name] = {"sampled": 0}
            continue
        age = (asked.end - findings.newest).total_seconds() if findings.newest else None
        if age is not None:
            measure.gauge("maestro_materialization_age_seconds", age, view=view.name)
        measure.gauge("maestro_materialization_null_share", findings.null_share, view=view.name)
        wrong += _faults(view, findings, age, max_null_share, max_age_hours)
        views[view.name] = {
            "sampled": sum(findings.counts.values()),
            **findings.counts,
            "null_share": round(findings.null_share, 4),
            "newest_event": findings.newest.isoformat() if findings.newest else None,
            "age_seconds": None if age is None else round(age),
            **_shift(view),
        }
    if wrong:
        raise Refused("the online store is not what it should be: " + " | ".join(wrong))
    if not any(view["sampled"] for view in views.values()):
        raise Refused(
            f"no feature view has an event up to {asked.end:%F %T}{_written_by(written)}, so nothing was materialized: "
            "load data ('make data') and build the features, or have the run end later"
        )
    return {"end": asked.end.isoformat(), "views": views}


def _written_by(moment: datetime | None) -> str:
    return f" that was written by {moment:%F %T}" if moment else ""


def _views(store: "FeatureStore") -> list[MaterializedView]:
    with explained(FeatureStoreConfig.from_environment()):
        found = [MaterializedView.of(store.project, view) for view in store.list_feature_views() if view.online]
    if not found:
        raise Failure("Feast's registry holds no feature view: run 'python -m mlops features apply'")
    return found


def _materialize(view: MaterializedView, window: "Window", online: OnlineStore) -> tuple[int, Written]:
    """Rows read, and entities set. Begins anew where Redis was restarted meanwhile, and may have lost what it had
    acknowledged: of that it writes at most the last second to the disk later, or all where it keeps nothing.
    """
    from mlops.features.materialization.offline import files
    from mlops.features.materialization.write import write

    rows, total = 0, Written(0, 0)
    with files(bucket(view.bucket), view, window) as paths:
        for _ in range(_PASSES):
            server = online.run_id()
            read, written = write(paths, view, window, online)
            rows, total = rows + read, Written(*(sum(pair) for pair in zip(total, written, strict=True)))
            if online.run_id() == server:
                return rows, total
            log.warning("%s: Redis was restarted meanwhile; writing the view again", view.name)
    raise Failure(
        f"feature view {view.name}: Redis was restarted during each of {_PASSES} passes: look why with "
        "'kubectl describe pod', then clear this task"
    )


def _complete_until(view: MaterializedView) -> datetime | None:
    """Up to when the offline store has a view's events: later ones no materialization can have found."""
    return None if view.dataset is None else find_complete_until(bucket(view.bucket), view.dataset)


def _findings(store: "FeatureStore", view: MaterializedView, window: "Window", size: int) -> "OnlineComparison | None":
    """None where the window has no row."""
    from mlops.features.materialization.check import compare, expected, sample
    from mlops.features.materialization.offline import files, read

    with files(bucket(view.bucket), view, window) as paths:
        seed = int(window.end.timestamp())  # other entities each day
        entities = sample(read(paths, view, window, view.keys), view, size, seed)
        if entities.empty:
            return None
        offline = expected(read(paths, view, window), view, entities)
    with explained(FeatureStoreConfig.from_environment()):
        values, moments = _served(store, view, entities)
    return compare(view, offline, values, moments)


def _served(
    store: "FeatureStore", view: MaterializedView, entities: "pd.DataFrame"
) -> tuple[dict[str, list[Any]], list[int]]:
    """What Feast's own client gets of the entities: values by feature, and event times in nanoseconds."""
    response = store.get_online_features(
        features=[f"{view.name}:{feature.name}" for feature in view.features],
        entity_rows={name: entities[name].tolist() for name in view.keys},
    )
    values = response.to_dict()
    first = view.features[0].name
    place = list(response.proto.metadata.feature_names.val).index(first)
    moments = [stamp.seconds * 10**9 + stamp.nanos for stamp in response.proto.results[place].event_timestamps]
    return {feature.name: values[feature.name] for feature in view.features}, moments


def _shift(view: MaterializedView) -> Mapping[str, int]:
    """What a result that shows times of the view's set says of their shift."""
    return (
        DatasetFiles(data_bucket()).shift(datasets.get(view.dataset)).note if view.dataset in datasets.names() else {}
    )


def _faults(
    view: MaterializedView,
    findings: "OnlineComparison",
    age: float | None,
    max_null_share: float,
    max_age_hours: float | None,
) -> list[str]:
    faults = []
    if findings.wrong:
        faults.append(f"{view.name}, {findings.summary}; clear materialize_features")
    if findings.null_share > max_null_share:
        faults.append(
            f"{view.name}, {findings.null_share:.0%} of the values are null, {max_null_share:.0%} are allowed: look at "
            "the set that the features are built from"
        )
    if age is not None and max_age_hours is not None and age > max_age_hours * 3600:
        faults.append(
            f"{view.name}, the newest event served is {age / 3600:.1f} h old, {max_age_hours:g} are allowed: load "
            "newer data and build the features"
        )
    return faults


def _moment(text: str) -> datetime | None:
    """An ISO time, UTC where it says no zone; None for an empty text, which a template gives a run without a date."""
    if not text or text == "None":
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _window_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=float, required=True, help="events of so many days before the end")
    parser.add_argument("--end", type=_moment, metavar="TIME", help="where the window ends (now)")


def _validate_options(parser: argparse.ArgumentParser) -> None:
    _window_options(parser)
    parser.add_argument("--written", type=_moment, metavar="TIME", help="leave out rows that were written later (none)")
    parser.add_argument("--sample", type=int, default=200, help="entities a view (%(default)s)")
    parser.add_argument("--max-null-share", type=float, default=0.5, help="of a view's values (%(default)s)")
    parser.add_argument("--max-age-hours", type=float, help="of a view's newest event (no limit)")


COMMANDS = {
    "materialize": (materialize, _window_options),
    "validate-online": (validate_online, _validate_options),
}
