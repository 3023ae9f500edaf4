"""Score delivered files: each row once, by one version of a registered model."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mlops import models
from mlops.config import RunIdentity
from mlops.inference.batch import REASON, ROW, Batch, Partition
from mlops.inference.delivery import Delivery, move_marker
from mlops.registry.aliases import PRODUCTION
from mlops.registry.record import TEST_SCORES
from mlops.result import Failure, Refused, Result
from mlops.stores.object_store import ObjectStore, data_bucket, reports_bucket
from mlops.stores.tracking import Tracking

if TYPE_CHECKING:
    import polars as pl

    from mlops.inference.contract import Delivered

_PARTITION = 1 << 19  # rows that one pod scores: four row groups
_MOST = 64  # partitions, whose names are a result

log = logging.getLogger(__name__)


def deliver(*, dataset: str, marker: str, rows: int, files: int) -> Result:
    """Delivers rows of a data set's own files as a batch to be scored: for a demonstration and for tests.

    They are its first `rows` rows, in `files` files; the marker is written when all of them are there.
    """
    from mlops import datasets
    from mlops.stores.dataset_files import DatasetFiles

    declared, store = datasets.get(dataset), data_bucket()
    raw = store.scan(DatasetFiles(store).read(declared).key)
    folder, each = marker.rpartition("/")[0], -(-rows // files)
    columns = [column.name for column in declared.columns if column.name in raw.collect_schema()]
    for index in range(files):
        count = min(each, rows - index * each)
        store.write(f"{folder}/part-{index:03}.parquet", raw.select(columns).slice(index * each, count))
    store.write_bytes(marker, b"")
    return {"marker": marker, "files": files, "rows": rows}


def ingest(*, model: str, alias: str, marker: str, folder: str | None) -> Result:
    """Pins the version that has the alias, and reads the delivered files into one table.

    Refused, with the difference, where the files do not hold what the version reads. Whoever asks again for the same
    files, marker, model and alias is handed the batch that was begun.
    """
    store = data_bucket()
    delivery = Delivery.find(store, marker, folder)
    name = delivery.batch(model, alias)
    batch = Batch.find(store, name)
    if batch is None:
        batch = _begin(store, delivery, name, model, alias)
    rows = _fact(store, batch.raw, "rows")
    log.info("batch %s: %d rows of %d files, to be scored by %s", name, rows, len(batch.files), batch.uri)
    return {"batch": name, "rows": rows, "model": model, "version": batch.version}


def preprocess(*, batch: str, partition_rows: int) -> Result:
    """Puts the rows aside that cannot be scored, each with its reasons, and says how the others are shared out.

    The result has an entry for each partition: its name and its rows.
    """
    import polars as pl

    from mlops.inference.contract import reason, value

    store = data_bucket()
    begun = Batch.get(store, batch)
    if not store.exists(begun.clean):
        dataset, rows = _delivered(begun), store.scan(begun.raw)
        schema = rows.collect_schema()
        marked = rows.with_columns(reason(begun.inputs, schema, dataset).alias(REASON))
        read = [value(column, schema, dataset) for column in begun.inputs]
        aside = marked.filter(pl.col(REASON) != "")
        store.write(begun.quarantine, aside)
        quarantined = _count(store.scan(begun.quarantine))
        good = marked.filter(pl.col(REASON) == "").drop(REASON).with_columns(read)
        store.write(begun.clean, good, {"quarantined": quarantined})
    rows_in, clean = _fact(store, begun.raw, "rows"), _count(store.scan(begun.clean))
    quarantined = _fact(store, begun.clean, "quarantined")
    if rows_in != clean + quarantined:
        raise Failure(f"batch {batch}: {rows_in} rows came, {clean} can be scored and {quarantined} cannot")
    log.info("%d rows to be scored, %d put aside", clean, quarantined)
    return {part.name: part.rows(clean) for part in partitions(batch, clean, partition_rows)}


def score(*, partition: str) -> Result:
    """Scores the rows of a partition and writes them at once, as a whole; one that is written stays as it is."""
    from mlops.inference.score import scored, slices
    from mlops.training import families

    store, part = data_bucket(), Partition.parse(partition)
    batch = Batch.get(store, part.batch)
    key = batch.key(part.file)
    if store.exists(key):
        log.info("%s is there already: an earlier try has written it", key)
        return {"scores": key, **_scored(store, key)}
    family, started = families.get(batch.family), time.perf_counter()
    with TemporaryDirectory() as folder:
        path = Tracking.from_environment().download_model(batch.uri, Path(folder), family.LAYOUT)
        model = family.load(path)
    clean = store.scan(batch.clean)
    rows, began = part.rows(_count(clean)), time.perf_counter()
    answers = scored(slices(clean, part.start, rows), family, model, batch.inputs, _kept(batch, clean))
    facts = partial(_facts, batch, rows, began, started)
    if not store.write_new_table(key, answers, facts):
        log.info("%s is there already: another try has written it", key)
    return {"scores": key, **_scored(store, key)}


def evaluate(*, batch: str) -> Result:
    """Sees that each row came through, and judges the scores: by labels, and beside those of the test set."""
    from mlops.inference.evaluate import CONFIDENCE, EFFECT, drifted, histogram, judge

    # Before the store is read: MLflow's client changes the environment, which polars then reads again and again.
    store, tracking = data_bucket(), Tracking.from_environment()
    begun = Batch.get(store, batch)
    clean, parts = store.scan(begun.clean), _partitions(store, begun)
    delivered, rows = _fact(store, begun.raw, "rows"), _count(clean)
    scored = sum(part["rows"] for part in parts)
    if scored != rows:
        raise Failure(
            f"batch {batch}: {rows} rows were to be scored and {scored} were: clear run_inference, which leaves the "
            "partitions that are there as they are"
        )
    declared = models.get(begun.model).data
    kind, judged, drift, bins = declared.label.kind, None, None, None
    if scored:
        scores = store.scan_parts(begun.scores)
        judged = judge(clean, scores, declared, delivered)
        sample = tracking.find_text(begun.run_id, TEST_SCORES)
        drift = drifted(sample, scores, scored, kind)
        bins = histogram(scores, scored, kind) if drift is None else None
    found = {
        "rows": delivered,
        "scored": scored,
        "quarantined": _fact(store, begun.clean, "quarantined"),
        "quarantine": _reasons(store.scan(begun.quarantine)),
        "partitions": parts,
        "rows_per_second": scored / max(1e-9, sum(part["seconds"] for part in parts)) if parts else 0.0,
        "judged": judged
        and {
            "rows": judged.rows,
            "confidence": CONFIDENCE,
            "metrics": {name: _interval(one) for name, one in judged.metrics.items()},
            "baseline": {name: _finite(one) for name, one in judged.baseline.items()},
        },
        "drift": drift and drift.as_json(),
        "effect_threshold": EFFECT,
        "histogram": bins,
    }
    store.write_bytes(begun.evaluation, json.dumps(found, indent=2).encode())
    told = {name: one["value"] for name, one in found["judged"]["metrics"].items()} if found["judged"] else {}
    return {
        "report": begun.evaluation,
        **{name: found[name] for name in ("rows", "scored", "quarantined")},
        **told,
        "drifted": None if drift is None else drift.drifted,
    }


def report(*, batch: str) -> Result:
    """Writes the page of the batch, and moves its marker to where those of scored deliveries lie."""
    from mlops.inference.report import as_html

    store, reports, identity = data_bucket(), reports_bucket(), RunIdentity.from_environment()
    begun = Batch.get(store, batch)
    found = {
        "batch": batch,
        **{name: getattr(begun, name) for name in ("model", "alias", "version", "folder", "files", "marker")},
        "scores": f"s3://{store.bucket}/{begun.scores}",
        "dag_id": identity.dag_id,
        "run_id": identity.run_id,
        **json.loads(store.read_bytes(begun.evaluation)),
    }
    key = f"{identity.run_key}/index.html"
    reports.write_bytes(f"{identity.run_key}/report.json", json.dumps(found, indent=2).encode())
    reports.write_bytes(key, as_html(found).encode())
    move_marker(store, begun.marker)
    return {"report": key, **{name: found[name] for name in ("batch", "version", "rows", "scored", "quarantined")}}


def partitions(batch: str, rows: int, most: int) -> list[Partition]:
    """At most `most` rows each, in more where there would be more than _MOST partitions."""
    size = max(most, -(-rows // _MOST))
    return [Partition(batch, index, size) for index in range(-(-rows // size))]


def _begin(store: ObjectStore, delivery: Delivery, name: str, model: str, alias: str) -> Batch:
    from mlops.training import families

    tracking = Tracking.from_environment()
    version = tracking.aliased(model, alias)
    if version is None:
        raise Refused(f"no version of model {model!r} has the alias {alias!r}: give it to one, or name another alias")
    run_id = tracking.made_by(model, version)
    family, inputs = families.name_of(tracking.run(run_id).data.params), tracking.inputs(f"models:/{model}/{version}")
    batch = Batch(name, model, alias, version, run_id, family, delivery.marker, delivery.folder, delivery.names, inputs)
    _read(store, batch)
    return batch.begin(store)


def _read(store: ObjectStore, batch: Batch) -> None:
    """Writes the delivered rows as one table, in the order of the files' names."""
    from mlops.datasets.read import read_dataset
    from mlops.inference.contract import check

    dataset = _delivered(batch)
    with TemporaryDirectory(prefix="delivery-") as folder, TemporaryDirectory(prefix="scratch-") as scratch:
        for name in batch.files:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            store.download(f"{batch.folder}/{name}", path)
        rows = read_dataset(dataset, Path(folder), Path(scratch))
        check(rows, dataset, batch.inputs, batch.uri)
        store.write(batch.raw, rows.with_row_index(ROW), {"rows": _count(rows)})


def _delivered(batch: Batch) -> Delivered:
    from mlops.inference.contract import delivered

    return delivered(models.get(batch.model).data, batch.folder, batch.files, batch.inputs)


def _kept(batch: Batch, clean: pl.LazyFrame) -> list[str]:
    """What tells a scored row from others beside its number: the key of the data set, and its entity."""
    dataset = models.get(batch.model).data
    wanted = dict.fromkeys([*dataset.key, *([dataset.entity] if dataset.entity else [])])
    there = clean.collect_schema().names()
    return [name for name in wanted if name in there]


def _facts(batch: Batch, rows: int, began: float, started: float) -> Mapping[str, Any]:
    """What is known of a partition when it is scored. seconds: without those in which the model was loaded."""
    now = time.perf_counter()
    return {
        "model": batch.model,
        "version": batch.version,
        "rows": rows,
        "seconds": round(now - began, 4),
        "loading_seconds": round(began - started, 4),
    }


def _fact(store: ObjectStore, key: str, name: str) -> int:
    found: dict[str, Any] = store.facts(key)
    return int(found[name])


def _scored(store: ObjectStore, key: str) -> dict[str, Any]:
    facts: dict[str, Any] = store.facts(key)
    return {name: facts[name] for name in ("rows", "seconds", "version")}


def _partitions(store: ObjectStore, batch: Batch) -> list[dict[str, Any]]:
    return [
        {"file": key.rpartition("/")[2], **_scored(store, key)}
        for key in store.keys(batch.scores)
        if key.endswith(".parquet")
    ]


def _reasons(quarantine: pl.LazyFrame) -> list[dict[str, Any]]:
    import polars as pl

    counted = quarantine.group_by(REASON).agg(pl.len().alias("rows")).collect()
    found = counted.rename({REASON: "reason"}).sort("rows", "reason", descending=[True, False])
    listed: list[dict[str, Any]] = found.head(100).to_dicts()
    return listed


def _count(rows: pl.LazyFrame) -> int:
    import polars as pl

    return int(rows.select(pl.len()).collect(engine="streaming").item())


def _interval(found: Any) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in found._asdict().items()}


def _finite(value: float) -> float | None:
    return round(value, 6) if abs(value) < float("inf") else None


def _deliver_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="a declared dataset, whose files are in the data bucket")
    parser.add_argument("--marker", required=True, metavar="KEY", help="such as inbox/2026-01-31/_READY")
    parser.add_argument("--rows", type=_count_of, default=1000, help="how many rows (%(default)s)")
    parser.add_argument("--files", type=_count_of, default=1, help="in how many files (%(default)s)")


def _ingest_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a registered model")
    parser.add_argument("--alias", default=PRODUCTION, help="of the version that scores (%(default)s)")
    parser.add_argument("--marker", required=True, metavar="KEY", help="of the delivery in the data bucket, or a path")
    parser.add_argument(
        "--folder", type=_none_if_empty, metavar="PREFIX", help="where the files lie (that of the marker)"
    )


def _preprocess_options(parser: argparse.ArgumentParser) -> None:
    _batch_option(parser)
    parser.add_argument(
        "--partition-rows", type=_count_of, default=_PARTITION, help="that one pod scores at most (%(default)s)"
    )


def _score_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--partition", required=True, help="as 'inference preprocess' names it")


def _batch_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", required=True, help="as 'inference ingest' names it")


def _none_if_empty(text: str) -> str | None:
    return text or None


def _count_of(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


COMMANDS = {
    "deliver": (deliver, _deliver_options),
    "ingest": (ingest, _ingest_options),
    "preprocess": (preprocess, _preprocess_options),
    "score": (score, _score_options),
    "evaluate": (evaluate, _batch_option),
    "report": (report, _batch_option),
}
