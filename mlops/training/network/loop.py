"""Training an epoch at a time: early stopping, and a checkpoint after each epoch from which a later process goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mlops.models import metrics
from mlops.models.network import Config
from mlops.result import Failure
from mlops.training.measures import Answers, Rows, measure
from mlops.training.network import weights
from mlops.training.network.batches import Batch, in_order, shuffled
from mlops.training.network.encoding import UNKNOWN, Encoding
from mlops.training.network.weights import Network

BEST, LAST = "model_best.safetensors", "last.safetensors"
_SCORED_ROWS = 1 << 13  # at a time, without gradients

log = logging.getLogger(__name__)


class Folder(Protocol):
    """Where checkpoints lie; a file is there whole or as it was before."""

    def find(self, name: str) -> bytes | None: ...
    def write(self, name: str, content: bytes) -> None: ...


@dataclass(frozen=True)
class Data:
    """Parquet files with the columns of the encoding and `label`; identity: names their content.

    Without a validation set no epoch is judged: the last one counts as the best.
    """

    train: Path
    validation: Path | None
    identity: str


@dataclass
class Progress:
    """history: what each epoch gave, by name; best: the epoch with the highest AUC on the validation set, from 1 on,
    without one the last; best_digest: the SHA-256 of its weights as BEST has them.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best: int = 0
    best_digest: str = ""

    @property
    def epoch(self) -> int:
        """The last one that ended, 0 before the first."""
        return len(self.history)

    def add(self, gave: dict[str, float]) -> bool:
        """Takes the next epoch; whether it is the best so far."""
        self.history.append(gave)
        auc = gave.get("val_auc")
        better = auc is None or not self.best or auc > self.history[self.best - 1]["val_auc"]
        self.best = self.epoch if better else self.best
        return better

    def over(self, config: Config) -> bool:
        return self.epoch >= config.epochs or (self.best > 0 and self.epoch - self.best >= config.patience)


@dataclass(frozen=True)
class Trained:
    """network: of the best epoch; resumed_at: the epoch that this process began with, where an earlier one left off."""

    network: Network
    progress: Progress
    resumed_at: int | None


def train(
    data: Data,
    encoding: Encoding,
    config: Config,
    folder: Folder,
    told: Callable[[int, Mapping[str, float]], None],
    device: str = "cpu",
) -> Trained:
    """The network with the best weights that were found, which `folder` has as BEST, and the last ones as LAST.

    told: called with each epoch and what it gave, those of an earlier process among them. A process that is killed at
    any point is followed by one that goes on after the last epoch that ended, and finds the same weights as one that
    nobody killed. A checkpoint of another config, other data or another encoding is not gone on from. Raises Failure
    where BEST is not what this or an earlier process wrote there; to train again then begins anew.
    """
    with _reproducible(config):
        network = Network.of(encoding, config.embedding, config.hidden, config.dropout)
        network.model.to(device)
        parameters = network.model.parameters()
        optimizer = torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay)
        key, progress = _key(data, encoding, config), Progress()
        resumed = _resume(folder, key, config, network, optimizer, progress)
        for number, gave in enumerate(progress.history, 1):
            told(number, gave)
        while not progress.over(config):
            epoch = progress.epoch + 1
            gave = _epoch(network, optimizer, data, config, epoch, device)
            if progress.add(gave):
                content = weights.packed(network)
                progress.best_digest = hashlib.sha256(content).hexdigest()
                # Before LAST: a process that is killed between both repeats this epoch, which gives the same again.
                folder.write(BEST, content)
            folder.write(LAST, _checkpoint(key, network, optimizer, progress))
            _log(epoch, config.epochs, gave)
            told(epoch, gave)
    best = _best(folder, progress)
    if best is None:
        raise Failure(
            f"{BEST} is gone from the run's folder, or another process has written it: it has not the weights of epoch "
            f"{progress.best}, which {LAST} names; look who writes there, and clear the task to train anew"
        )
    return Trained(weights.unpacked(best, BEST), progress, resumed + 1 if resumed else None)


def scores(network: Network, batches: Iterator[Batch], device: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """(n,) of probabilities, and (n,) of labels."""
    network.model.eval()
    found, labels = [], []
    with torch.inference_mode():
        for batch in batches:
            logits = network.model(*_tensors(batch, device)[:2])
            found.append(torch.sigmoid(logits.double()).cpu().numpy())
            labels.append(batch.labels)
    return np.concatenate(found), np.concatenate(labels)


def _log(epoch: int, epochs: int, gave: Mapping[str, float]) -> None:
    if "val_auc" in gave:
        log.info("epoch %d/%d: train loss %.4f, val AUC %.4f", epoch, epochs, gave["loss"], gave["val_auc"])
    else:
        log.info("epoch %d of %d on all rows: train loss %.4f", epoch, epochs, gave["loss"])


def _epoch(
    network: Network, optimizer: torch.optim.Optimizer, data: Data, config: Config, epoch: int, device: str
) -> dict[str, float]:
    began, rows, total = time.perf_counter(), 0, 0.0
    network.model.train()
    seed = (config.seed, epoch)
    for batch in shuffled(data.train, network.encoding, config.batch_rows, config.shuffle_rows, seed):
        places, numbers, labels = _tensors(batch, device)
        places = _hidden(places, config.hide)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network.model(places, numbers), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rows, total = rows + len(batch), total + float(loss.detach()) * len(batch)
    seconds = time.perf_counter() - began
    gave = {"loss": total / rows, **_judged(network, data.validation, device)}
    if not np.isfinite(list(gave.values())).all():
        raise Failure(f"epoch {epoch} gave {gave}: lower learning_rate in the config, or look at the features' values")
    return {**gave, "rows_per_second": rows / seconds}


def _hidden(places: Tensor, share: float) -> Tensor:
    """The places, this share of them as those of the unknown."""
    return places.masked_fill(torch.rand(places.shape, device=places.device) < share, UNKNOWN) if share else places


def _judged(network: Network, validation: Path | None, device: str) -> dict[str, float]:
    if validation is None:
        return {}
    said, truth = scores(network, in_order(validation, network.encoding, _SCORED_ROWS), device)
    rows = Rows(truth.astype(int), (0, 1), np.arange(len(truth)))
    answers = Answers((said >= 0.5).astype(int), np.column_stack([1 - said, said]))
    return {f"val_{name}": measure(metrics.get(name))(rows, answers) for name in ("auc", "log_loss")}


def _tensors(batch: Batch, device: str) -> tuple[Tensor, Tensor, Tensor]:
    places, numbers, labels = (torch.from_numpy(array.copy()).to(device) for array in batch)
    return places, numbers, labels


@contextmanager
def _reproducible(config: Config) -> Iterator[None]:
    """torch as the config says, and afterwards as it was."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def _key(data: Data, encoding: Encoding, config: Config) -> str:
    """Names what a checkpoint belongs to. More epochs than before may be asked for: the first ones are the same."""
    asked = {name: value for name, value in asdict(config).items() if name not in ("epochs", "patience")}
    said = json.dumps([data.identity, encoding.as_json(), asked], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _checkpoint(key: str, network: Network, optimizer: torch.optim.Optimizer, progress: Progress) -> bytes:
    """Weights, the optimizer's numbers of each weight, and the random states."""
    tensors = {f"model.{name}": tensor for name, tensor in network.model.state_dict().items()}
    for place, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    return weights.pack(tensors, {"key": key, **asdict(progress)})


def _resume(
    folder: Folder,
    key: str,
    config: Config,
    network: Network,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> int:
    """Takes all over from LAST, and says how many epochs that are; 0 where there is none to go on from."""
    content = folder.find(LAST)
    if content is None:
        return 0
    tensors, said = weights.unpack(content, LAST)
    if said["key"] != key:
        log.warning("the checkpoint in the run's folder is of another config or other data: training begins anew")
        return 0
    found = Progress(best_digest=said["best_digest"])
    for gave in said["history"]:
        if found.over(config):
            log.warning("the checkpoint has gone on for longer than this config lets it: training begins anew")
            return 0
        found.add(gave)
    if found.over(config) and _best(folder, found) is None:
        log.warning("%s is not that of the checkpoint, which has all epochs: training begins anew", BEST)
        return 0
    network.model.load_state_dict(_below(tensors, "model."))
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in _below(tensors, "optimizer.").items():
        place, _, what = name.partition(".")
        state.setdefault(int(place), {})[what] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    progress.history, progress.best, progress.best_digest = found.history, found.best, found.best_digest
    log.info("going on after epoch %d", progress.epoch)
    return progress.epoch


def _best(folder: Folder, progress: Progress) -> bytes | None:
    """BEST, where it is there and has the weights of the best epoch."""
    content = folder.find(BEST)
    return content if content is not None and hashlib.sha256(content).hexdigest() == progress.best_digest else None


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
