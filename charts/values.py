"""Makes the schema of each chart's values, and docs/values.md, from the comments in its values.yaml.

    python charts/values.py            write them
    python charts/values.py --check    fail where one is stale

The comment right above a key describes it. What a value may be follows from its default: a text, a number, a list of
such, a map of these very keys. Where that is not all, a line of the comment says more:

    # @schema {minimum: 1, maximum: 65535}     words of JSON schema, beside what the default says
    # @schema secretName                       one of charts/definitions.yaml
    # @schema {map: quantity}                  a map of any keys to such values
    # @schema {each: bucket}                   a map of these very keys, each to such a value

A key whose name is in charts/definitions.yaml under `keys` is one of those everywhere. `global` is described in the
umbrella's values alone: the other charts repeat what they read of it, with the same defaults.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHARTS = Path(__file__).resolve().parent
UMBRELLA = "maestro"
DOCUMENT = CHARTS.parent / "docs/values.md"
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_MARK = "@schema "
_LONGEST_DEFAULT = 60  # characters in docs/values.md

Schema = dict[str, Any]


class Fault(Exception):
    """What is wrong with a values.yaml, and where."""


@dataclass(frozen=True)
class Definitions:
    """definitions: schemas by name; keys: the definition of each key that means the same everywhere."""

    schemas: Mapping[str, Schema]
    keys: Mapping[str, str]

    @classmethod
    def read(cls, path: Path = CHARTS / "definitions.yaml") -> Definitions:
        content = yaml.safe_load(path.read_text())
        return cls(content["definitions"], {key: name for name, keys in content["keys"].items() for key in keys})

    def used(self, schema: Any) -> Iterator[str]:
        """The names of the definitions that a schema refers to, and that those refer to."""
        if isinstance(schema, list):
            for item in schema:
                yield from self.used(item)
        if isinstance(schema, dict):
            for key, value in schema.items():
                if key == "$ref":
                    name = value.rpartition("/")[2]
                    if name not in self.schemas:
                        raise Fault(f"{name!r} is none of charts/definitions.yaml: {', '.join(self.schemas)}")
                    yield name
                    yield from self.used(self.schemas[name])
                else:
                    yield from self.used(value)


class Values:
    """The values.yaml of a chart, with its comments."""

    def __init__(self, text: str, definitions: Definitions, where: str) -> None:
        self._lines, self._definitions, self._where = text.splitlines(), definitions, where
        root = yaml.compose(text, yaml.SafeLoader)
        assert isinstance(root, yaml.MappingNode), f"{where} holds no map"  # noqa: S101
        self.root = root

    @classmethod
    def read(cls, chart: str, definitions: Definitions) -> Values:
        return cls((CHARTS / chart / "values.yaml").read_text(), definitions, f"charts/{chart}/values.yaml")

    def schema(self, node: yaml.Node, key: str = "", line: int | None = None) -> Schema:
        """What the value of a key may be. line: where the key stands, whose comment is above it."""
        prose, said = self.comment(line) if line is not None else ("", {})
        described = {"description": prose} if prose else {}
        if isinstance(said, str):
            return {**described, **_reference(said)}
        if key in self._definitions.keys and not said:
            return {**described, **_reference(self._definitions.keys[key])}
        if "map" in said:
            inner = said.pop("map")
            inner = _reference(inner) if isinstance(inner, str) else inner
            return {**described, "type": "object", "additionalProperties": inner, **said}
        if "each" in said:
            keys = {entry.value: self.comment(entry.start_mark.line)[0] for entry, _ in node.value}
            each = _reference(said.pop("each"))
            properties = {name: {**({"description": text} if text else {}), **each} for name, text in keys.items()}
            return {**described, "type": "object", "additionalProperties": False, "properties": properties, **said}
        if "items" in said:
            return {**described, "type": "array", **said}
        return {**described, **self._of_default(node, key), **said}

    def _of_default(self, node: yaml.Node, key: str) -> Schema:
        value = yaml.constructor.SafeConstructor().construct_document(node)
        if isinstance(node, yaml.MappingNode) and node.value:
            return {"type": "object", "additionalProperties": False, "properties": self.properties(node)}
        if isinstance(node, yaml.SequenceNode) and node.value:
            item = self.schema(node.value[0])
            return {"type": "array", "items": {**item, **({"minLength": 1} if item == {"type": "string"} else {})}}
        if type(value) in _TYPES:
            return {"type": _TYPES[type(value)]}
        number = node.start_mark.line + 1
        raise Fault(f"{self._where}:{number}: {key or 'an item'} is empty: say by '# @schema' what it may hold")

    def properties(self, node: yaml.MappingNode, but: str = "") -> Schema:
        return {
            key.value: self.schema(value, key.value, key.start_mark.line if not node.flow_style else None)
            for key, value in node.value
            if key.value != but
        }

    def comment(self, line: int) -> tuple[str, Any]:
        """The prose right above a line, and what `@schema` says in it."""
        block: list[str] = []
        while line > 0 and (text := self._lines[line - 1].strip()).startswith("#"):
            block.insert(0, text.lstrip("#").strip())
            line -= 1
        said: Any = {}
        prose = []
        for text in block:
            if text.startswith(_MARK):
                said = yaml.safe_load(text.removeprefix(_MARK))
            else:
                prose.append(text)
        return " ".join(prose), said


def _reference(name: str) -> Schema:
    # Within allOf a description may stand beside it: draft 7 passes over all that stands beside a reference.
    return {"allOf": [{"$ref": f"#/definitions/{name}"}]}


def chart_schema(chart: str, shared: Schema, definitions: Definitions) -> Schema:
    """The schema of a chart's values, the umbrella's or that of one beside it. shared: that of `global`."""
    values = Values.read(chart, definitions)
    properties = values.properties(values.root, but="global")
    if chart == UMBRELLA:
        properties = {"global": shared, **properties}
        for name in subcharts():
            properties[name] = {**properties[name], "additionalProperties": True, "required": ["enabled"]}
    else:
        check_global(chart)
        properties["global"] = {**shared, "additionalProperties": True}
        properties["enabled"] = {"type": "boolean", "description": "The umbrella's condition for this chart."}
        properties["common"] = {"type": "object", "description": "Helm's place for values of the library chart: none."}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"Values of the chart {chart}",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }
    used = sorted(set(definitions.used(schema)))
    return {**schema, "definitions": {name: definitions.schemas[name] for name in used}}


def check_global(chart: str) -> None:
    """Raises Fault where a chart's own `global` has another default, or another key, than the umbrella's."""
    theirs, ours = (yaml.safe_load((CHARTS / name / "values.yaml").read_text())["global"] for name in (chart, UMBRELLA))
    for path, value in _leaves(theirs):
        home = ours
        for key in path:
            home = home.get(key, Fault) if isinstance(home, dict) else Fault
        if home != value:
            raise Fault(
                f"charts/{chart}/values.yaml: global.{'.'.join(path)} is {value!r}, and in the umbrella's values "
                f"{'not there' if home is Fault else repr(home)}: the umbrella's are the home of `global`"
            )


def _leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, values


def document(schemas: Mapping[str, Schema], definitions: Definitions) -> str:
    """docs/values.md: a table of the values of each chart, and what the words in its second column mean."""
    keys = {chart: key for key, chart in subcharts().items()}
    parts = [
        "# Values\n\n<!-- Made by charts/values.py out of the comments in charts/*/values.yaml: change those. -->\n",
        "Each chart's values, as its values.yaml has them. Under the umbrella they are set below the key that stands",
        "beside the chart's name; `global` is the same for all.\n",
    ]
    for chart, schema in schemas.items():
        set_below = f", set below `{keys[chart]}:`" if chart in keys else ""
        parts.append(f"## {chart}{set_below}\n\n| value | type | default | meaning |\n|---|---|---|---|")
        defaults = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
        shown = {key: value for key, value in schema["properties"].items() if key in defaults}
        if chart != UMBRELLA:
            del shown["global"]
        parts += [*_rows(shown, defaults, ""), ""]
    parts.append("## Types\n\n| type | what it takes |\n|---|---|")
    for name, definition in definitions.schemas.items():
        words = definition.get("description", "")
        parts.append(f"| {name} | {_cell(' '.join(filter(None, (words, _constraints(definition)))))} |")
    return "\n".join(parts) + "\n"


def _rows(properties: Schema, defaults: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, schema in properties.items():
        name, default = f"{path}{key}", defaults[key]
        inner = schema.get("properties", {})
        if not inner or "description" in schema:
            text = json.dumps(default, ensure_ascii=False)
            shown = "" if inner else f"`{text}`" if len(text) <= _LONGEST_DEFAULT else "see values.yaml"
            yield f"| `{name}` | {_type(schema)} | {_cell(shown)} | {_cell(schema.get('description', ''))} |"
        yield from _rows(inner, default, f"{name}.")


def _type(schema: Schema) -> str:
    if "allOf" in schema:
        return str(schema["allOf"][0]["$ref"].rpartition("/")[2])
    kind, inner = schema["type"], schema.get("additionalProperties")
    if isinstance(inner, dict):
        kind = f"map of {_type(inner)}" if "allOf" in inner else "map"
    kind = kind if isinstance(kind, str) else " or ".join(kind)
    return " ".join(filter(None, (kind, _constraints(schema))))


def _constraints(schema: Schema) -> str:
    if "enum" in schema:
        return f"(one of {', '.join(map(str, schema['enum']))})"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None:
        return f"({low} to {high})" if high is not None else f"(from {low})"
    return f"(`{schema['pattern']}`)" if "pattern" in schema else ""


def _cell(text: str) -> str:
    """Text in a cell; names in angle brackets are no HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def subcharts() -> dict[str, str]:
    """The chart behind each key of the umbrella's values."""
    declared = yaml.safe_load((CHARTS / UMBRELLA / "Chart.yaml").read_text())["dependencies"]
    return {entry.get("alias", entry["name"]): entry["name"] for entry in declared}


def with_values() -> list[str]:
    """The charts that have values, the umbrella first."""
    return sorted(
        (path.parent.name for path in CHARTS.glob("*/values.yaml")), key=lambda name: (name != UMBRELLA, name)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where something is stale")
    check = parser.parse_args().check
    definitions = Definitions.read()
    try:
        umbrella = Values.read(UMBRELLA, definitions)
        shared = umbrella.properties(umbrella.root)["global"]
        schemas = {chart: chart_schema(chart, shared, definitions) for chart in with_values()}
    except Fault as fault:
        print(fault, file=sys.stderr)
        return 1
    made = {
        CHARTS / chart / "values.schema.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        for chart, schema in schemas.items()
    }
    made[DOCUMENT] = document(schemas, definitions)
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(CHARTS.parent)} is stale: run 'make values'", file=sys.stderr)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
