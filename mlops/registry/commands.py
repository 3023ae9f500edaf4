"""Register models that passed the gate; promote, roll back, compare and export versions; verify the ledger."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from mlops.registry.aliases import STAGING
from mlops.registry.card import FILE
from mlops.registry.model_registry import STAGES, TIMEOUT, ModelRegistry
from mlops.registry.record import FEATURE_SERVICE, Record
from mlops.registry.registration import keep_card
from mlops.result import JSON, Refused, Result
from mlops.stores.deployments import NotServed, Overtaken
from mlops.stores.ledger import Busy, Entry
from mlops.stores.object_store import data_bucket
from mlops.stores.tracking import Tracking

log = logging.getLogger(__name__)


def register(*, model: str, run_id: str) -> Result:
    """Registers a run's model with its card, tags it with what it was made of, and gives it the alias `staging`."""
    tracking = Tracking.from_environment()
    version = ModelRegistry(tracking).register(model, run_id)
    keep_card(tracking, model, version)
    log.info("version %s of %s has the alias %s", version, model, STAGING)
    return {
        "registered": True,
        "model": model,
        "version": version,
        "model_version": version,
        "registered_path": f"models:/{model}/{version}",
        "alias": STAGING,
        "feature_service": Record.read(tracking, run_id).tags.get(FEATURE_SERVICE),
        "card": f"runs:/{run_id}/{FILE}",
    }


def skip(*, run_id: str) -> Result:
    """Says why a run's model is not registered; the gate wrote the reasons into the run's tags."""
    record = Record.read(Tracking.from_environment(), run_id)
    if record.passed:
        raise Refused(f"run {run_id} passed the gate: register it with 'python -m mlops registry register'")
    for reason in record.reasons:
        log.warning("not registered: %s", reason)
    return {"registered": False, "run_id": run_id, "reasons": record.reasons}


def list_models(*, stage: str | None, as_json: bool) -> Result:
    """Writes the registered models with their versions and aliases; those of a stage, where one is named."""
    registry = ModelRegistry()
    found = registry.list_models(stage)
    if as_json:
        return _write_json(found)
    aliases = registry.aliases()
    rows = [
        (name, versions[-1] if versions else "", len(versions), *(aliases[name].get(each, "") for each in STAGES))
        for name, versions in found.items()
    ]
    return _write_table(("model", "newest", "versions", *STAGES), rows)


def promote(*, model: str, version: str, why: str, who: str | None, request: str | None, timeout: float) -> Result:
    """Puts a version into production: the model server, where it serves the model, the ledger, and the aliases.

    A task, or a request of one name, that is tried again after another change is refused: it would undo that.
    """
    with _told_at_once():
        return ModelRegistry().promote_to_production(model, version, why=why, who=who, request=request, timeout=timeout)


def rollback(*, model: str, why: str, who: str | None, request: str | None, timeout: float) -> Result:
    """Puts the version before into production again: the model server, the ledger, and the aliases.

    A task, or a request of one name, that is tried again goes back once.
    """
    with _told_at_once():
        return ModelRegistry().rollback(model, why=why, who=who, request=request, timeout=timeout)


def adopt(*, model: str, why: str, who: str | None) -> Result:
    """Has the ledger say what the alias `production` says, after somebody moved it past the registry's commands."""
    entry = ModelRegistry().adopt(model, why=why, who=who)
    return {"model": model, "adopted": entry is not None, "version": entry.to_version if entry else None}


def history(*, model: str | None, as_json: bool) -> Result:
    """Writes each promotion and rollback: when, of which version to which, who asked for it, and why."""
    entries = ModelRegistry().history(model)
    if as_json:
        return _write_json([_plain(entry) for entry in entries])
    rows = [
        (
            entry.model,
            entry.number,
            f"{entry.at:%Y-%m-%d %H:%M:%S}",
            entry.verb,
            f"{entry.from_version or '-'} -> {entry.to_version or '-'}",
            entry.who,
            entry.why,
        )
        for entry in entries
    ]
    return _write_table(("model", "entry", "when (UTC)", "what", "version", "who", "why"), rows)


def compare(*, model: str, versions: Sequence[str], as_json: bool) -> Result:
    """Writes what is different in two versions: metrics, parameters, and what they were made of."""
    first, second = versions
    found = ModelRegistry().compare(model, first, second)
    if as_json:
        return _write_json([{**asdict(each), "difference": each.difference} for each in found])
    rows = [(each.kind, each.name, _shown(each.first), _shown(each.second), _shown(each.difference)) for each in found]
    return _write_table(("", "", f"version {first}", f"version {second}", "difference"), rows)


def export(*, model: str, version: str, folder: Path | None) -> Result:
    """Writes a version's weights, config.yaml, metrics.json and metadata.json, by stage and name.

    Into the data bucket, or below a folder: that of a pod is gone when the pod is.
    """
    if folder is not None:
        place = str(ModelRegistry().export(model, version, folder))
    else:
        store = data_bucket()
        place = f"s3://{store.bucket}/{ModelRegistry().export_to_store(model, version, store)}"
    log.info("version %s of %s is in %s", version, model, place)
    return {"model": model, "version": version, "folder": place}


def verify(*, model: str | None, as_json: bool) -> Result:
    """Compares the ledger with MLflow and the aliases; refused where they contradict each other."""
    found = ModelRegistry().verify(model)
    if as_json:
        _write_json(found)
    if found:
        raise Refused(f"the ledger and MLflow contradict each other: {'; '.join(found)}")
    log.info("the ledger, MLflow's tags and the aliases agree")
    return {}


@contextmanager
def _told_at_once() -> Iterator[None]:
    """What is not tried again: of two at once the second, which would undo what the first one did, unseen by both; and
    a version that does not come up, which every try would roll out and take back."""
    try:
        yield
    except (Busy, NotServed, Overtaken) as failure:
        raise Refused(str(failure)) from failure


def _plain(entry: Entry) -> dict[str, JSON]:
    return {**asdict(entry), "at": entry.at.isoformat(), "digest": entry.digest}


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:60]


def _write_json(content: JSON) -> Result:
    print(json.dumps(content, indent=2, ensure_ascii=False))  # noqa: T201
    return {}


def _write_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> Result:
    texts = [list(titles), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())  # noqa: T201
    return {}


def _register_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a declared model")
    _skip_options(parser)


def _skip_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-id", required=True, help="the MLflow run that the gate judged")


def _list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", choices=STAGES, help="those models only that have a version in it, and that version")
    _json_option(parser)


def _promote_options(parser: argparse.ArgumentParser) -> None:
    _version_options(parser)
    _change_options(parser)


def rollback_options(parser: argparse.ArgumentParser) -> None:
    """Of `serving rollback` too, which is the same command."""
    _model_option(parser)
    _change_options(parser)


def _adopt_options(parser: argparse.ArgumentParser) -> None:
    _model_option(parser)
    _reason_options(parser, "the alias was moved by hand")


def _history_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="a registered model (all)")
    _json_option(parser)


def _compare_options(parser: argparse.ArgumentParser) -> None:
    _model_option(parser)
    parser.add_argument("--versions", nargs=2, required=True, metavar=("A", "B"), help="two of its versions")
    _json_option(parser)


def _export_options(parser: argparse.ArgumentParser) -> None:
    _version_options(parser)
    parser.add_argument("--folder", type=Path, help="where to write it (exports/ of the data bucket)")


def _version_options(parser: argparse.ArgumentParser) -> None:
    _model_option(parser)
    parser.add_argument("--version", required=True, help="one of its versions")


def _model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a registered model")


def _reason_options(parser: argparse.ArgumentParser, why: str) -> None:
    parser.add_argument("--why", default=why, help="for the ledger (%(default)s)")
    parser.add_argument("--who", help="for the ledger (the task)")


def _change_options(parser: argparse.ArgumentParser) -> None:
    _reason_options(parser, "asked for by a person")
    parser.add_argument("--request", help="names this change, which is made once (the task; else each is another)")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for the rollout (%(default)s)")


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", dest="as_json", action="store_true", help="one JSON document in place of a table")


COMMANDS = {
    "register": (register, _register_options),
    "skip": (skip, _skip_options),
    "list": (list_models, _list_options),
    "promote": (promote, _promote_options),
    "rollback": (rollback, rollback_options),
    "adopt": (adopt, _adopt_options),
    "history": (history, _history_options),
    "compare": (compare, _compare_options),
    "export": (export, _export_options),
    "verify": (verify, _history_options),
}
