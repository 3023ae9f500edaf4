"""The files of a stored model: which there may be, what `MLmodel` may say, and what each was when it was logged.

`MLmodel` tells a loader which module to import, which files to open, what to put on Python's path and whether the model
is a pickle. More people can write to where it lies than may decide that, so that it is held against a list of all that
it may say: a key that nobody has looked at is refused, whatever its value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlops.result import Failure

DECLARATION = "MLmodel"
_LARGEST = 1 << 18  # bytes of MLmodel; 1,000 columns take 60 kB
# Written beside a model where it is downloaded, by MLflow's client.
_OF_THE_CLIENT = "registered_model_meta"
_REQUIREMENTS = "requirements.txt"
_TYPES = {"any", "boolean", "integer", "long", "float", "double", "string", "datetime"}
_ARRAYS = tuple(
    f'[{{"type": "tensor", "tensor-spec": {{"dtype": "{name}", "shape": [-1]}}}}]'
    for name in ("bool", "int32", "int64", "float32", "float64")
)

Shape = Any  # a mapping of keys to shapes, a function that says whether a value will do, or the one value that does


class Layout(NamedTuple):
    """How a family's models lie. flavors: the shape of what MLmodel says of them; files: all that flavors name."""

    flavors: Mapping[str, Shape]
    files: frozenset[str]


class Optional(NamedTuple):
    """The shape of a key that may be missing or null."""

    shape: Shape


def text(value: object) -> bool:
    """Whether it is a short text that is no path to another folder."""
    return isinstance(value, str) and len(value) < 500 and ".." not in value


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file by its path in the folder. Raises Failure for what is neither a file nor a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Failure(f"{path.relative_to(folder)} of the model is no plain file: train it anew")
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = digest(path.read_bytes())
    return found


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def forget_client(folder: Path) -> None:
    """Removes what the client wrote when it downloaded a model, whatever was stored under its name."""
    (folder / _OF_THE_CLIENT).unlink(missing_ok=True)


def differences(recorded: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What was changed since the digests were recorded, a sentence a file."""
    return [
        *(f"{name} is gone" for name in sorted(recorded.keys() - found.keys())),
        *(f"{name} was added" for name in sorted(found.keys() - recorded.keys())),
        *(f"{name} was altered" for name in sorted(recorded) if found.get(name, recorded[name]) != recorded[name]),
    ]


def faults(folder: Path, layout: Layout) -> list[str]:
    """All that keeps the model of a folder from being one of the layout; none where it may be loaded."""
    path = folder / DECLARATION
    if not path.is_file() or path.stat().st_size > _LARGEST:
        return [f"{DECLARATION} is not there, or larger than {_LARGEST} bytes"]
    try:
        declared = _parsed(path.read_bytes())
    except ValueError as error:
        return [f"{DECLARATION} cannot be read: {error}"]
    wrong = list(_unlike(declared, {**_DECLARED, "flavors": layout.flavors}, DECLARATION))
    if wrong:
        return wrong
    expected = {DECLARATION, _REQUIREMENTS, *layout.files, *(_EXAMPLES if declared.get(_EXAMPLE) else ())}
    return differences(dict.fromkeys(expected, ""), dict.fromkeys(digests(folder), ""))


def _parsed(content: bytes) -> Any:
    """What the YAML says. Raises ValueError where readers of YAML could differ: tags, references, a key twice."""
    import yaml

    try:
        for event in yaml.parse(content, yaml.SafeLoader):
            if getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise ValueError("it has tags or references")
        _refuse_twice(yaml.compose(content, yaml.SafeLoader))
        return yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise ValueError(f"it is no YAML: {error}") from error


def _refuse_twice(node: Any) -> None:
    import yaml

    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value]
        if len(set(map(str, names))) < len(names) or "<<" in names:
            raise ValueError("it has a key twice")
        for _, value in node.value:
            _refuse_twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_twice(value)


def _unlike(value: object, shape: Shape, place: str) -> Iterator[str]:
    """Each way in which a value is not of the shape."""
    if isinstance(shape, Optional):
        if value is not None:
            yield from _unlike(value, shape.shape, place)
    elif isinstance(shape, Mapping):
        yield from _unlike_mapping(value, shape, place)
    elif callable(shape):
        if not shape(value):
            yield f"{place} is {_shown(value)}"
    elif type(value) is not type(shape) or value != shape:
        yield f"{place} is {_shown(value)} and not {_shown(shape)}"


def _unlike_mapping(value: object, shape: Mapping[str, Shape], place: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{place} is {_shown(value)} and no mapping"
        return
    for key in value:
        if key not in shape:
            yield f"{place} has the key {_shown(key)}, which nobody has looked at"
    for key, inner in shape.items():
        if key in value:
            yield from _unlike(value[key], inner, f"{place}.{key}")
        elif not isinstance(inner, Optional):
            yield f"{place} lacks {key}"


def _shown(value: object) -> str:
    return repr(value)[:100]


def _columns(value: object) -> bool:
    """Whether it is JSON of columns of plain types, as a signature has them."""
    if not isinstance(value, str):
        return False
    try:
        columns = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return isinstance(columns, list) and all(map(_is_column, columns))


def _is_column(column: object) -> bool:
    return (
        isinstance(column, dict)
        and column.keys() <= {"type", "name", "required"}
        and column.get("type") in _TYPES
        and isinstance(column.get("name", ""), str)
        and isinstance(column.get("required", True), bool)
    )


def _predictions(value: object) -> bool:
    """Whether it is JSON of such columns, or the one array that MLflow itself infers from predictions.

    It did for models that were logged by early releases, and these are served still.
    """
    return _columns(value) or value in _ARRAYS


def _size(value: object) -> bool:
    return type(value) is int and value >= 0


_EXAMPLE, _EXAMPLES = "saved_input_example_info", ("input_example.json", "serving_input_example.json")
_NOTHING = Optional(lambda value: False)  # a key that MLflow may write without a value
# What mlflow.models.Model writes, but for the flavors. Each of its keys that is not here is refused.
_DECLARED: Mapping[str, Shape] = {
    "artifact_path": Optional(text),
    "auth_policy": _NOTHING,
    "env_vars": _NOTHING,
    "is_signature_from_type_hint": Optional(False),
    "metadata": _NOTHING,
    "mlflow_version": Optional(text),
    "model_id": Optional(text),
    "model_size_bytes": Optional(_size),
    "model_uuid": Optional(text),
    "prompts": _NOTHING,
    "resources": _NOTHING,
    "run_id": Optional(text),
    _EXAMPLE: Optional(
        {
            "artifact_path": _EXAMPLES[0],
            "pandas_orient": "split",
            "serving_input_path": _EXAMPLES[1],
            "type": "dataframe",
        }
    ),
    "signature": {"inputs": _columns, "outputs": Optional(_predictions), "params": _NOTHING},
    "type_hint_from_example": Optional(False),
    "utc_time_created": text,
}
