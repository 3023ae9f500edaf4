"""How a network is trained: a YAML file of which each key and each type is checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from mlops.result import Refused

DEFAULT = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Config:
    """The same config, seed and data give the same weights on a CPU.

    epochs: the most; patience: of epochs without a better AUC on the validation set, after which training ends.
    batch_rows: of one step; shuffle_rows: held in memory and shuffled at a time. embedding: numbers of a vector;
    hidden: the layers' widths. least_count: rows in which an identifier occurs that has a vector of its own; rarer ones
    share that of the unknown. hide: share of the texts that are shown as unknown in training, drawn anew each time: so
    the network learns to do without them, as it must for whoever comes later. refit: whether what is logged is trained
    anew on training and validation set, for as many epochs as were best. threads: of PyTorch, part of the config
    because sums depend on their order.
    """

    seed: int = 7
    epochs: int = 30
    patience: int = 3
    batch_rows: int = 2048
    shuffle_rows: int = 1 << 17
    learning_rate: float = 0.001
    weight_decay: float = 0.1
    embedding: int = 4
    hidden: tuple[int, ...] = (16,)
    dropout: float = 0.2
    least_count: int = 20
    hide: float = 0.5
    refit: bool = True
    threads: int = 1

    def with_epochs(self, epochs: int | None) -> Config:
        """The same with as many epochs at most; None leaves them."""
        if epochs is None:
            return self
        if not _RULES["epochs"].holds(epochs):
            raise Refused(f"epochs is {epochs}, it must be {_RULES['epochs'].words}")
        return replace(self, epochs=epochs)

    def yaml(self) -> str:
        """All of it, as `parse` reads it."""
        import yaml

        text: str = yaml.safe_dump({**asdict(self), "hidden": list(self.hidden)}, sort_keys=False)
        return text


class _Rule(NamedTuple):
    holds: Callable[[Any], bool]
    words: str


def _integer(low: int, high: int) -> _Rule:
    return _Rule(lambda value: type(value) is int and low <= value <= high, f"an integer from {low} to {high}")


def _number(low: float, below: float) -> _Rule:
    return _Rule(
        lambda value: type(value) in (int, float) and low <= value < below, f"a number from {low:g} to below {below:g}"
    )


_WIDTH = _integer(1, 4096)
_RULES: Mapping[str, _Rule] = {
    "seed": _integer(0, 2**31 - 1),
    "epochs": _integer(1, 1000),
    "patience": _integer(1, 1000),
    "batch_rows": _integer(1, 1 << 20),
    "shuffle_rows": _integer(1, 1 << 24),
    "learning_rate": _Rule(lambda value: type(value) in (int, float) and 0 < value < 1, "a number between 0 and 1"),
    "weight_decay": _number(0, 1),
    "embedding": _integer(1, 512),
    "hidden": _Rule(
        lambda value: isinstance(value, list) and 0 < len(value) <= 8 and all(map(_WIDTH.holds, value)),
        f"a list of one to eight widths, each {_WIDTH.words}",
    ),
    "dropout": _number(0, 1),
    "least_count": _integer(1, 1_000_000),
    "hide": _number(0, 1),
    "refit": _Rule(lambda value: isinstance(value, bool), "true or false"),
    "threads": _integer(1, 256),
}
_KINDS = {entry.name: str(entry.type) for entry in fields(Config)}


def parse(text: str, source: str) -> Config:
    """The config that a YAML text gives; source: where it is from, for who reads the error.

    Raises Refused that names every unknown key and every value that will not do.
    """
    import yaml

    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Refused(f"{source} is no YAML ({error}): correct it") from error
    if not isinstance(given, dict):
        raise Refused(f"{source} holds no mapping of keys to values: write it as mlops/models/{DEFAULT.name}")
    wrong = [f"{key!r} is no key" for key in given if key not in _RULES]
    wrong += [
        f"{key} is {given[key]!r}, it must be {rule.words}"
        for key, rule in _RULES.items()
        if key in given and not rule.holds(given[key])
    ]
    if wrong:
        raise Refused(f"{source}: {'; '.join(wrong)}. The keys are {', '.join(_RULES)}")
    return Config(**{key: _typed(key, value) for key, value in given.items()})


def read(text: str | None, source: str) -> Config:
    """The config of a text, or the default one where there is none. Raises Refused as `parse` does."""
    return parse(DEFAULT.read_text(encoding="utf-8"), DEFAULT.name) if text is None else parse(text, source)


def _typed(key: str, value: Any) -> Any:
    if key == "hidden":
        return tuple(value)
    return float(value) if _KINDS[key] == "float" else value
