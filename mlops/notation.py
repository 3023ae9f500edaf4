"""Declarations as TOML and as Python: the words are those of the dataclasses, and reading them runs nothing.

A table has the fields of its class. Where a field may be of one of several classes, `type` names which. A duration is a
number of seconds. `"none"` is None, where that is possible and not the default.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime, timedelta
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mlops.result import Refused

T = TypeVar("T")
_TYPE, _NONE = "type", "none"
_WIDTH = 120
_INDENT = "    "
_BARE = {"column", "kind", "name"}


def from_toml(text: str, kind: type[T]) -> T:
    """The declaration that a file holds. Raises Refused that names the place, for anything that is not of its class."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"is no TOML: {error}") from error
    made: T = _read(document, kind, "")
    return made


def to_toml(declaration: Any) -> str:
    """What `from_toml` reads as the same; fields that have their default are left out."""
    return "\n".join(_toml_lines(declaration, "", None)).strip() + "\n"


def to_python(declaration: Any, prefix: str = "") -> str:
    """An expression that makes it, as ruff formats it behind `prefix`; fields that have their default are left out."""
    return _python(declaration, 0, len(prefix))


def classes(declaration: Any) -> set[str]:
    """The names that `to_python` uses."""
    if is_dataclass(declaration):
        return {type(declaration).__name__}.union(*(classes(value) for _, value in _said(declaration)))
    if isinstance(declaration, tuple | list):
        return set().union(*(classes(value) for value in declaration))
    return {type(declaration).__name__} if isinstance(declaration, datetime | timedelta) else set()


def _read(value: Any, kind: Any, place: str) -> Any:
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _read_one_of(value, options, place)
    if is_dataclass(kind):
        return _read_fields(value, kind, place)
    if origin is Literal:
        if value not in options:
            raise _wrong(value, f"one of {', '.join(map(repr, options))}", place)
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(value, "a list", place)
        every = [options[0]] * len(value) if options[-1] is Ellipsis else list(options)
        if len(every) != len(value):
            raise _wrong(value, f"a list of {len(every)}", place)
        return tuple(
            _read(one, each, f"{place}[{at}]") for at, (one, each) in enumerate(zip(value, every, strict=True))
        )
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _wrong(value, "a table", place)
        return {name: _read(one, options[1], f"{place}.{name}") for name, one in value.items()}
    return _read_plain(value, kind, place)


def _read_plain(value: Any, kind: Any, place: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
        return value
    if kind is timedelta and number:
        return timedelta(seconds=value)
    if type(value) is not kind:
        named = {"str": "a text", "bool": "true or false", "int": "a whole number", "float": "a number"}
        raise _wrong(value, named.get(kind.__name__, "seconds" if kind is timedelta else f"a {kind.__name__}"), place)
    return value


def _read_one_of(value: Any, union: tuple[Any, ...], place: str) -> Any:
    if value == _NONE and NoneType in union and str not in union:
        return None
    options = [option for option in union if option is not NoneType]
    named = {str(getattr(option, "__name__", option)): option for option in options if is_dataclass(option)}
    if named and isinstance(value, dict) and len(named) > 1:
        if value.get(_TYPE) not in named:
            raise _wrong(value.get(_TYPE), f"one of {', '.join(sorted(named))}", f"{place}.{_TYPE}")
        return _read_fields({name: one for name, one in value.items() if name != _TYPE}, named[value[_TYPE]], place)
    refused: Refused | None = None
    for option in options:
        try:
            return _read(value, option, place)
        except Refused as error:
            refused = error
    assert refused is not None  # noqa: S101 - a union has members
    raise refused


def _read_fields(value: Any, kind: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(value, f"a table, a {kind.__name__}", place)
    known = {entry.name: entry for entry in fields(kind)}
    unknown = sorted(set(value) - set(known))
    missing = sorted(name for name, entry in known.items() if _needed(entry) and name not in value)
    where = f"in {place.lstrip('.')} " if place else ""
    if unknown or missing:
        lacks = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}, which nobody knows"
        raise Refused(f"{where}{lacks}: a {kind.__name__} has {', '.join(known)}")
    hints = get_type_hints(kind)
    given = {name: _read(one, hints[name], f"{place}.{name}") for name, one in value.items()}
    try:
        return kind(**given)
    except ValueError as error:
        raise Refused(f"{where}contradicts itself: {error}") from error


def _needed(entry: Field[Any]) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def _wrong(value: Any, wanted: str, place: str) -> Refused:
    return Refused(f"has {value!r} as {place.lstrip('.') or 'its content'}: {wanted} is expected")


def _said(declaration: Any) -> Iterator[tuple[str, Any]]:
    """The fields that have not their default."""
    for entry in fields(declaration):
        value = getattr(declaration, entry.name)
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        if value != default:
            yield entry.name, value


def _toml_lines(declaration: Any, place: str, union: str | None) -> Iterator[str]:
    """Plain values first, since a table's header takes all that follows it."""
    if union:
        yield f"{_TYPE} = {json.dumps(union)}"
    hints, tables = get_type_hints(type(declaration)), []
    for name, value in _said(declaration):
        several = isinstance(value, tuple) and value and is_dataclass(value[0])
        if is_dataclass(value) or several or isinstance(value, Mapping):
            tables.append((name, value))
        else:
            yield f"{name} = {_toml_value(value)}"
    for name, value in tables:
        inner = f"{place}.{name}" if place else name
        if isinstance(value, Mapping):
            yield from ("", f"[{inner}]", *(f"{_toml_value(k)} = {_toml_value(v)}" for k, v in value.items()))
            continue
        for one in value if isinstance(value, tuple) else (value,):
            yield from ("", f"[[{inner}]]" if isinstance(value, tuple) else f"[{inner}]")
            yield from _toml_lines(one, inner, _named_in_union(hints[name], one))


def _named_in_union(hint: Any, value: Any) -> str | None:
    named = [option for option in get_args(hint) if is_dataclass(option)]
    return type(value).__name__ if get_origin(hint) in (Union, UnionType) and len(named) > 1 else None


def _toml_value(value: Any) -> str:
    match value:
        case None:
            return f'"{_NONE}"'
        case bool():
            return str(value).lower()
        case str():
            # JSON escapes as TOML does, but for DEL and for signs beyond the basic plane.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case timedelta():
            return _seconds(value)
        case datetime():
            return value.isoformat()
        case tuple():
            return f"[{', '.join(map(_toml_value, value))}]"
        case _:
            return repr(value)


def _seconds(duration: timedelta) -> str:
    whole = duration // timedelta(seconds=1)
    return str(whole) if duration == timedelta(seconds=whole) else repr(duration.total_seconds())


def _python(value: Any, depth: int, used: int) -> str:
    """One line where it fits behind `used` columns, and one for each part of it where it does not."""
    opening, parts, closing = _parts(value)
    if parts is None:
        return opening
    comma = "," if isinstance(value, tuple) and len(parts) == 1 else ""
    flat = opening + ", ".join(name + _python(part, 0, -(10**6)) for name, part in parts) + comma + closing
    if used + len(flat) <= _WIDTH or not parts:
        return flat
    inner = _INDENT * (depth + 1)
    lines = [f"{inner}{name}{_python(part, depth + 1, len(inner) + len(name) + 1)},\n" for name, part in parts]
    return f"{opening}\n{''.join(lines)}{_INDENT * depth}{closing}"


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]] | None, str]:
    """What opens a value, its parts with what names them, and what closes it; None for one without parts."""
    if is_dataclass(value):
        return f"{type(value).__name__}(", list(_positional(value)), ")"
    match value:
        case tuple():
            return "(", [("", part) for part in value], ")"
        case Mapping():
            return "{", [(f"{_python(name, 0, 0)}: ", part) for name, part in value.items()], "}"
        case str():
            return _quoted(value), None, ""
        case timedelta():
            return f"timedelta(seconds={_seconds(value)})", None, ""
        case datetime():
            return f"datetime.fromisoformat({value.isoformat()!r})".replace("'", '"'), None, ""
        case bool() | None:
            return repr(value), None, ""
        case int() if abs(value) >= 1_000:
            return f"{value:_}", None, ""
        case _:
            return repr(value), None, ""


def _positional(declaration: Any) -> Iterator[tuple[str, Any]]:
    """The fields; what names a small thing stands without the field's name."""
    needed = [entry.name for entry in fields(declaration) if _needed(entry)]
    for name, value in _said(declaration):
        yield "" if name in _BARE and name in needed and len(needed) <= 2 else f"{name}=", value


def _quoted(text: str) -> str:
    """In double quotes, unless that takes more escapes: as ruff has it."""
    if '"' in text and "'" not in text:
        return "'" + json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"') + "'"
    return json.dumps(text, ensure_ascii=False)
