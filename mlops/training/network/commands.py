"""Train a network on the parts of a table."""

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mlops import measure, models
from mlops.config import RunIdentity
from mlops.datasets.declaration import EVENT_TIME, LABEL
from mlops.models import network
from mlops.registry.record import RUN_KEY, TRAIN
from mlops.registry.runs import finished_run
from mlops.result import JSON, Refused, Result
from mlops.stores.object_store import ObjectStore, data_bucket
from mlops.stores.tracking import Tracking
from mlops.training import run
from mlops.training.provenance import feature_contract, period

if TYPE_CHECKING:
    import pandas as pd

    from mlops.datasets.declaration import Dataset
    from mlops.models.declaration import Model
    from mlops.training.network.encoding import Encoding
    from mlops.training.network.loop import Data, Progress
    from mlops.training.network.weights import Network

_EXAMPLE_ROWS = 5
_SCORED_ROWS = 1 << 13
REFIT = "refit"  # the folder of its checkpoints, within that of the run
CURVES, CONFIG, METRICS = "curves.html", "config.yaml", "metrics.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """The checkpoints of a task instance in the object store, which has an object whole or as it was before."""

    store: ObjectStore
    prefix: str

    def find(self, name: str) -> bytes | None:
        return self.store.find_bytes(f"{self.prefix}/{name}")

    def below(self, name: str) -> "RunFolder":
        return RunFolder(self.store, f"{self.prefix}/{name}")

    def write(self, name: str, content: bytes) -> None:
        self.store.write_bytes(f"{self.prefix}/{name}", content)


def train(*, model: str, features: str, config: str, data_version: str, gpu: bool) -> Result:
    """Trains a network on parts that `features parts` made, an epoch at a time, and logs it as one MLflow run.

    After each epoch the run's folder in the data bucket has the best and the last checkpoint, and MLflow the curves. A
    try that follows one that was killed goes on in its epoch, and ends with the weights that the other would have had;
    one that follows a finished one hands its run back. Where the config says `refit`, the network that is logged was
    trained anew on training and validation set, with checkpoints of its own in `refit/`.
    """
    declared, identity, store = models.get(model), RunIdentity.from_environment(), data_bucket()
    asked, key = network.read(store.read_bytes(config).decode(), config), f"{features}/{TRAIN}.parquet"
    device, tracking = _device(gpu), Tracking.from_environment()
    with TemporaryDirectory() as folder:
        data = _downloaded(store, features, Path(folder))
        head = _head(data, store.facts(key))
        contract = feature_contract(head, key, declared.feature_service)
        columns = len(head.columns) - len({EVENT_TIME, LABEL} & {*head})
        params = run.params(declared, data_version, key, columns, {**asdict(asked), "device": device})
        replaced = f"replaced by try {identity.try_number}"
        finished = finished_run(tracking, declared.dataset, RUN_KEY, identity.run_key, replaced, params)
        if finished is not None:
            log.info("run %s was finished by an earlier try", finished.info.run_id)
            return _result(finished.info.run_id, identity.folder, finished.data.metrics)
        learned = _all_rows(data) if asked.refit else data.train
        tags = {**run.tags(declared, identity, _described(asked)), **contract, **period(_times(learned), TRAIN)}
        with tracking.new_run(declared.dataset, f"{model} {identity.run_id}", tags) as run_id:
            tracking.log(run_id, params=params)
            tracking.log_text(run_id, CONFIG, asked.yaml())
            run_folder = RunFolder(store, identity.folder)
            metrics = _trained(declared, data, learned, asked, run_folder, tracking, run_id, head, device)
    return _result(run_id, identity.folder, metrics)


def _trained(
    declared: "Model",
    data: "Data",
    learned: Path,
    asked: network.Config,
    folder: RunFolder,
    tracking: Tracking,
    run_id: str,
    head: "pd.DataFrame",
    device: str,
) -> dict[str, float]:
    """Trains, and logs the model with its curves and scores, which it hands back.

    learned: the rows that the model which is logged has learned from.
    """
    from mlops.training import families
    from mlops.training.columns import features_of, signature_of
    from mlops.training.network import loop

    family, example = families.get(declared.family), features_of(head, declared.data)

    def told(epoch: int, gave: Mapping[str, float]) -> None:
        tracking.log(run_id, metrics=gave, step=epoch)

    def refitted(epoch: int, gave: Mapping[str, float]) -> None:
        tracking.log(run_id, metrics={f"refit_{name}": value for name, value in gave.items()}, step=epoch)

    trained = loop.train(data, _encoding(data.train, example, declared.data, asked), asked, folder, told, device)
    final = trained.network
    if asked.refit:
        best = trained.progress.best
        # More or fewer epochs would be other weights: their checkpoints are not gone on from.
        whole = loop.Data(learned, None, f"{data.identity}, {best} epochs on all rows")
        encoding = _encoding(learned, example, declared.data, asked)
        final = loop.train(whole, encoding, replace(asked, epochs=best), folder.below(REFIT), refitted, device).network
    metrics = _scores(final, learned, trained.progress, declared.data)
    page = _curves(trained.progress, f"{declared.name}: how it was trained")
    summary = json.dumps({**metrics, "history": trained.progress.history}, indent=2)
    for name, text in ((CURVES, page), (METRICS, summary), (CONFIG, asked.yaml())):
        tracking.log_text(run_id, name, text)
        folder.write(name, text.encode())
    tracking.log(run_id, metrics=metrics)
    signature = signature_of(example, declared.data)
    tracking.log_model(
        family.save(final), example[[column.name for column in signature.inputs]], signature, family.PACKAGES
    )
    measure.count_records(int(metrics[f"{TRAIN}_rows"]))
    return metrics


def _downloaded(store: ObjectStore, features: str, folder: Path) -> "Data":
    from mlops.training.network.loop import Data

    paths = {name: folder / f"{name}.parquet" for name in (TRAIN, "validation")}
    digests = [store.download(f"{features}/{path.name}", path) for path in paths.values()]
    return Data(paths[TRAIN], paths["validation"], hashlib.sha256("".join(digests).encode()).hexdigest())


def _all_rows(data: "Data") -> Path:
    """Training and validation set in one file beside them."""
    from mlops.training.network.batches import concatenate

    target = data.train.with_name("all.parquet")
    concatenate([path for path in (data.train, data.validation) if path], target)
    return target


def _head(data: "Data", facts: Mapping[str, JSON]) -> "pd.DataFrame":
    """The first rows of the training set, by which its columns are known, and what it says of itself."""
    import polars as pl

    found = pl.scan_parquet(data.train).head(_EXAMPLE_ROWS).collect().to_pandas()
    found.attrs.update(facts)
    return found


def _times(path: Path) -> "pd.DataFrame":
    """The first and the last event of a file."""
    import polars as pl

    time = pl.col(EVENT_TIME)
    ends = pl.scan_parquet(path).select(pl.concat_list(time.min(), time.max()).explode())
    return ends.collect(engine="streaming").to_pandas()


def _encoding(path: Path, example: "pd.DataFrame", dataset: "Dataset", asked: network.Config) -> "Encoding":
    from mlops.training.columns import columns_of
    from mlops.training.network.encoding import Encoding

    return Encoding.learned(path, columns_of(example, dataset), asked.least_count)


def _scores(final: "Network", learned: Path, progress: "Progress", dataset: "Dataset") -> dict[str, float]:
    """All metrics on the rows that were learned from, as other families have them, and the best epoch's own."""
    import numpy as np

    from mlops.training.measures import Answers, Rows, classes_of
    from mlops.training.network.batches import in_order
    from mlops.training.network.loop import scores
    from mlops.training.score import score

    said, truth = scores(final, in_order(learned, final.encoding, _SCORED_ROWS))
    rows = Rows(truth.astype(int), classes_of(dataset), np.arange(len(truth)))
    answers = Answers((said >= 0.5).astype(int), np.column_stack([1 - said, said]))
    best = progress.history[progress.best - 1]
    of_best = {f"best_{name}": value for name, value in best.items() if name.startswith("val_")}
    return {**score(rows, answers, dataset.label.kind).logged(TRAIN), **of_best, "best_epoch": progress.best}


def _curves(progress: "Progress", title: str) -> str:
    from mlops.page import page
    from mlops.plots import lines

    epochs = [str(number + 1) for number in range(progress.epoch)]
    drawn = "".join(
        f"<h2>{name}</h2>"
        + lines(epochs, {name: [each[name] for each in progress.history]}, name, lambda value: f"{value:.4f}")
        for name in progress.history[0]
    )
    return page(title, f"<p>The best of {progress.epoch} epochs was {progress.best}.</p>{drawn}")


def _described(asked: network.Config) -> str:
    from mlops.training.families import torch

    return torch.describe(asked)


def _device(gpu: bool) -> str:
    """Raises Refused where a GPU is asked for and PyTorch sees none."""
    if not gpu:
        return "cpu"
    # With this alone cuBLAS sums in one order whatever runs beside it; some releases of PyTorch refuse to multiply
    # without it where determinism is asked for.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    if not torch.cuda.is_available():
        built = f"PyTorch {torch.__version__} is built for CPUs" if torch.version.cuda is None else "the pod has none"
        raise Refused(
            f"a GPU was asked for and {built}: build the image with TORCH=gpu, let taskSizes.gpu ask for one that a "
            "node has, or train with gpu=false"
        )
    return "cuda"


def _result(run_id: str, folder: str, metrics: Mapping[str, float]) -> Result:
    shown = {name: value for name, value in metrics.items() if name.startswith((f"{TRAIN}_", "best_"))}
    return {"run_id": run_id, "run_dir": folder, **shown}


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a declared model of the family torch")
    parser.add_argument("--features", required=True, metavar="PREFIX", help="where `features parts` wrote the parts")
    parser.add_argument("--config", required=True, metavar="KEY", help="the config that `features parts` wrote")
    parser.add_argument("--data-version", required=True, metavar="SHA256", help="digest of the files it was made of")
    parser.add_argument("--gpu", type=_boolean, default=False, metavar="true|false", help="(%(default)s)")


COMMANDS = {"train": (train, _train_options)}
