"""The registered models and their versions, as one asks for them by name: all of MLflow's, whoever trained them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlops import models
from mlops.config import RunIdentity
from mlops.registry.aliases import PREVIOUS, PRODUCTION, STAGING
from mlops.registry.learned import keep_training_data
from mlops.registry.promotion import APPLIED, NOTE, Reason, adopt, changing, evidence, faults
from mlops.registry.record import Record
from mlops.registry.registration import stage as registered
from mlops.result import Refused, Result
from mlops.stores.ledger import Entry, Ledger
from mlops.stores.object_store import ObjectStore, data_bucket
from mlops.stores.tracking import Tracking

STAGES = (PRODUCTION, PREVIOUS, STAGING)
TIMEOUT = 600.0  # seconds; a pod of the model server is ready in about 20
_EXPORTS, _CURRENT = "exports", "current"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compared:
    """A metric, a parameter or a tag of two versions, of which one may lack it."""

    kind: str
    name: str
    first: str | float | None
    second: str | float | None

    @property
    def difference(self) -> float | None:
        """By how much the second one is larger; None of what are not two numbers."""
        if isinstance(self.first, float) and isinstance(self.second, float):
            return self.second - self.first
        return None


class ModelRegistry:
    """Each method raises Failure where MLflow or the ledger is away, Refused for a model or version that nobody has."""

    def __init__(self, tracking: Tracking | None = None, ledger: Ledger | None = None) -> None:
        """Of what is not given that which the environment names, when it is first asked for."""
        self._given = tracking, ledger

    @cached_property
    def _tracking(self) -> Tracking:
        return self._given[0] or Tracking.from_environment()

    @cached_property
    def _ledger(self) -> Ledger:
        return self._given[1] or Ledger.from_environment()

    def list_models(self, stage: str | None = None) -> dict[str, list[str]]:
        """The versions of each model, the oldest first; of those models that have one in the stage, that one."""
        found = self._tracking.models()
        if stage is None:
            return {each.name: each.versions for each in found}
        return {each.name: [str(each.aliases[stage])] for each in found if stage in each.aliases}

    def aliases(self) -> dict[str, Mapping[str, str]]:
        """The version of each alias of each model."""
        return {each.name: each.aliases for each in self._tracking.models()}

    def get_latest_version(self, name: str, stage: str | None = None) -> str | None:
        """The newest version of the model, or the one in the stage; None where there is none."""
        found = self._tracking.model(name)
        if stage is not None:
            return None if stage not in found.aliases else str(found.aliases[stage])
        return found.versions[-1] if found.versions else None

    def register(self, name: str, run_id: str) -> str:
        """The version of a run's model that passed the gate, with its card and the alias `staging`.

        Raises Refused for one that did not pass. To repeat it registers nothing twice.
        """
        declared = models.get(name)
        record = Record.read(self._tracking, run_id, declared)
        if not record.passed:
            raise Refused(f"run {run_id} did not pass the gate: {'; '.join(record.reasons)}: train a better model")
        return registered(self._tracking, declared, record)

    def promote_to_production(
        self,
        name: str,
        version: str,
        *,
        why: str,
        who: str | None = None,
        request: str | None = None,
        timeout: float = TIMEOUT,
    ) -> Result:
        """Has the version served, and puts it into production in place of the one that is; says which that was.

        why, who: for the ledger; who is the task, where nobody else is named. request: names this promotion; a task's
        is the task instance. timeout: seconds for the model server. To repeat it changes nothing; one that is repeated
        after another change is refused.
        """
        from mlops.registry.rollout import ServedModel

        self._require(name, version)
        request = request or _task()
        reason = Reason(why, evidence(self._tracking, name, version), who, request)
        with changing(self._tracking, self._ledger, name) as production:
            production.done(request, version)  # refused where it was overtaken: before a server is rolled
            with ServedModel(self._tracking, name, production).rolled(version, timeout) as example:
                replaced = production.promote(version, reason)
        self._keep_training_data(name, version)
        log.info("version %s of %s is in production, after version %s", version, name, replaced)
        return {"model": name, "version": version, "previous": replaced, "example": example}

    def rollback(
        self, name: str, *, why: str, who: str | None = None, request: str | None = None, timeout: float = TIMEOUT
    ) -> Result:
        """Has the version before served again, and puts it into production; the one that it replaces is `previous`.

        Where the server was left at a version that is not in production, the way back is to the one that is: it is
        served again, and Refused raised.

        request: names this rollback; one that is repeated changes nothing. A task's is the task instance.
        """
        from mlops.registry.rollout import ServedModel

        request = request or _task()
        with changing(self._tracking, self._ledger, name) as production:
            done = production.done(request)
            version = str(done.to_version) if done else production.before()
            known = evidence(self._tracking, name, version)
            served = ServedModel(self._tracking, name, production)
            if (left := served.strayed()) not in (None, version):
                with served.rolled(str(production.version), timeout):
                    raise Refused(
                        f"the model server had been left at version {left}, which is not in production: it is back at "
                        f"version {production.version}, which is, and nothing else was changed; ask again to go further"
                    )
            with served.rolled(version, timeout) as example:
                entry = production.roll_back(Reason(why, known, who, request))
        self._keep_training_data(name, version)
        log.info("version %s of %s is in production again, after version %s", version, name, entry.from_version)
        return {"model": name, "version": version, "previous": entry.from_version, "example": example}

    def adopt(self, name: str, *, why: str, who: str | None = None) -> Entry | None:
        """Writes down which version has the alias `production`, where the ledger says another one."""
        self._tracking.model(name)
        return adopt(self._tracking, self._ledger, name, Reason(why, who=who))

    def history(self, name: str | None = None) -> list[Entry]:
        """What the ledger says of a model, or of all, the first change first."""
        return self._ledger.entries(name)

    def verify(self, name: str | None = None) -> list[str]:
        """In what the ledger, MLflow and the aliases contradict each other, of one model or of all.

        What looks so is looked at again while nobody changes the model: raises Busy where somebody goes on doing so.
        """
        entries = self._ledger.entries(name)
        registered = {each.name for each in self._tracking.models()} if name is None else {name}
        named = sorted(registered | {entry.model for entry in entries})
        return [
            fault
            for model in named
            if faults(self._tracking, [entry for entry in entries if entry.model == model], model)
            for fault in self._faults(model)
        ]

    def _faults(self, model: str) -> list[str]:
        with self._ledger.held(model) as book:
            return faults(self._tracking, book.entries(), model)

    def compare(self, name: str, first: str, second: str) -> list[Compared]:
        """What two versions' runs say differently: metrics of the test set, parameters and tags."""
        for version in (first, second):
            self._require(name, version)
        ours, theirs = (Record.read(self._tracking, self._tracking.made_by(name, each)) for each in (first, second))
        found = [
            Compared(kind, key, left.get(key), right.get(key))
            for kind, left, right in (
                ("metric", ours.metrics, theirs.metrics),
                ("parameter", ours.params, theirs.params),
                ("tag", ours.version_tags, theirs.version_tags),
            )
            for key in sorted({*left, *right})
            if not (kind == "tag" and key.removeprefix("maestro.") in {*ours.metrics, *theirs.metrics})
        ]
        return [each for each in found if each.kind == "metric" or each.first != each.second]

    def export(self, name: str, version: str, folder: Path) -> Path:
        """Writes a version below `production/<name>/v<N>` of the folder, or `staging` where it never was in production.

        There are `model/` with its files, each as its run was told of it, `config.yaml`, `metrics.json`,
        `metadata.json`, and the files of the run that are text; `current` beside it leads to the version that was
        exported last. Who reads sees all of a version or nothing: it is written elsewhere first.
        """
        import yaml

        self._require(name, version)
        run_id = self._tracking.made_by(name, version)
        record, tags = Record.read(self._tracking, run_id), self._tracking.version_tags(name, version)
        aliases = sorted(alias for alias, of in self._tracking.model(name).aliases.items() if str(of) == version)
        stage = PRODUCTION if {PRODUCTION, PREVIOUS} & set(aliases) or _was_promoted(tags) else STAGING
        place = folder / stage / name / f"v{version}"
        place.parent.mkdir(parents=True, exist_ok=True)
        metadata = {
            "model": name,
            "version": version,
            "run_id": run_id,
            "stage": stage,
            "aliases": aliases,
            "tags": dict(sorted(tags.items())),
        }
        with TemporaryDirectory(dir=place.parent, prefix=".") as scratch:
            new, files = Path(scratch, "new"), Path(scratch, "files")
            new.mkdir()
            files.mkdir()
            self._tracking.download_files(f"models:/{name}/{version}", files).rename(new / "model")
            for file, text in self._tracking.texts(run_id).items():
                (new / file).write_text(text)
            # After those of the run, which a family may call by the same names, with less in them.
            (new / "config.yaml").write_text(yaml.safe_dump(dict(record.params), allow_unicode=True))
            (new / "metrics.json").write_text(_as_json(record.metrics))
            (new / "metadata.json").write_text(_as_json(metadata))
            if place.exists():
                place.rename(Path(scratch, "old"))
            new.rename(place)
            Path(scratch, _CURRENT).symlink_to(place.name)
            Path(scratch, _CURRENT).replace(place.parent / _CURRENT)
        return place

    def export_to_store(self, name: str, version: str, store: ObjectStore) -> str:
        """The same below `exports/` of a bucket, which outlives the pod; hands back the prefix.

        `current` is an object with the name of the version's folder in it, and is written last.
        """
        with TemporaryDirectory() as scratch:
            place = self.export(name, version, Path(scratch))
            prefix = f"{_EXPORTS}/{place.relative_to(scratch)}"
            store.upload_folder(place, prefix)
        store.write_bytes(f"{prefix.rpartition('/')[0]}/{_CURRENT}", place.name.encode())
        return prefix

    def _require(self, name: str, version: str) -> None:
        known = self._tracking.model(name).versions
        if version not in known:
            raise Refused(f"model {name!r} has no version {version}: it has {', '.join(known[-10:]) or 'none'}")

    def _keep_training_data(self, name: str, version: str) -> None:
        """Of a model that is declared: the sensor trainer's learns from readings and no data set."""
        try:
            declared = models.get(name)
        except Refused:
            return
        keep_training_data(self._tracking, declared, version, data_bucket())


def _task() -> str | None:
    """The task instance, the same in each of its tries; None outside of a task."""
    task = RunIdentity.if_told()
    return task.run_key if task else None


def _was_promoted(tags: Mapping[str, str]) -> bool:
    return any(key.startswith(NOTE) and said == APPLIED for key, said in tags.items())


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(dict(content), indent=2, sort_keys=True)
