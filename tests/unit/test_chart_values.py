"""charts/values.py: what it makes of comments and defaults, and what it refuses."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.conftest import load_module

CHARTS = Path(__file__).parents[2] / "charts"
UMBRELLA = """# Values of all.
global:
  # A port that all know.
  port: 1
# The first chart.
first:
  enabled: true
"""
FIRST = """global:
  port: 1
# How
# many.
# @schema {minimum: 2, maximum: 5}
count: 3
# @schema {map: quantity}
sizes: {}
# @schema {each: bucket}
buckets:
  # For all.
  data: data
names: [a]
existingSecret: ""
"""


@pytest.fixture
def tool(tmp_path: Path) -> ModuleType:
    """The module over two charts in a folder of its own."""
    module = load_module(CHARTS / "values.py")
    vars(module).update(CHARTS=tmp_path / "charts", DOCUMENT=tmp_path / "docs/values.md")
    for chart, values in (("maestro", UMBRELLA), ("first", FIRST)):
        (tmp_path / "charts" / chart).mkdir(parents=True)
        (tmp_path / "charts" / chart / "values.yaml").write_text(values)
    (tmp_path / "charts/maestro/Chart.yaml").write_text(yaml.safe_dump({"dependencies": [{"name": "first"}]}))
    return module


def ran(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["values.py", *arguments])
    code: int = tool.main()
    return code


def schema(tool: ModuleType, chart: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((tool.CHARTS / chart / "values.schema.json").read_text())
    return made


def test_a_schema_says_what_comments_and_defaults_say(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(tool, monkeypatch) == 0
    made = schema(tool, "first")
    properties = made["properties"]
    assert properties["count"] == {"description": "How many.", "type": "integer", "minimum": 2, "maximum": 5}
    assert properties["sizes"] == {
        "type": "object",
        "additionalProperties": {"allOf": [{"$ref": "#/definitions/quantity"}]},
    }
    assert properties["buckets"]["properties"]["data"]["description"] == "For all."
    assert properties["buckets"]["additionalProperties"] is False
    assert properties["names"] == {"type": "array", "items": {"type": "string", "minLength": 1}}
    assert properties["existingSecret"] == {"allOf": [{"$ref": "#/definitions/secretName"}]}
    assert properties["global"]["properties"] == schema(tool, "maestro")["properties"]["global"]["properties"]
    assert made["definitions"].keys() == {"bucket", "port", "quantity", "secretName"}
    assert made["additionalProperties"] is False


def test_the_umbrella_leaves_a_charts_values_to_its_schema(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(tool, monkeypatch)
    found = schema(tool, "maestro")["properties"]["first"]
    assert (found["additionalProperties"], found["required"]) == (True, ["enabled"])


def test_the_reference_has_a_row_for_each_value(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(tool, monkeypatch)
    text = tool.DOCUMENT.read_text()
    assert "| `count` | integer (2 to 5) | `3` | How many. |" in text
    assert '| `buckets.data` | bucket | `"data"` | For all. |' in text
    assert "| `global.port` | port | `1` | A port that all know. |" in text
    assert "## first, set below `first:`" in text


@pytest.mark.parametrize("change", ["schema", "document", "comment"])
def test_what_is_stale_fails_the_check_and_is_left_as_it_is(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    ran(tool, monkeypatch)
    assert ran(tool, monkeypatch, "--check") == 0
    values = tool.CHARTS / "first/values.yaml"
    changed: dict[str, Callable[[], object]] = {
        "schema": lambda: (tool.CHARTS / "first/values.schema.json").write_text("{}"),
        "document": lambda: tool.DOCUMENT.unlink(),
        "comment": lambda: values.write_text(values.read_text().replace("# How\n", "# So\n")),
    }
    changed[change]()
    assert ran(tool, monkeypatch, "--check") == 1
    assert "is stale: run 'make values'" in capsys.readouterr().err
    assert ran(tool, monkeypatch) == 0
    assert ran(tool, monkeypatch, "--check") == 0


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# @schema {map: quantity}\n", "", "first/values.yaml:7: sizes is empty: say by '# @schema' what it may hold"),
        ("{map: quantity}", "{map: quantum}", "'quantum' is none of charts/definitions.yaml: address, bucket"),
        ("  port: 1\n", "  port: 2\n", "global.port is 2, and in the umbrella's values 1"),
        ("  port: 1\n", "  prot: 1\n", "global.prot is 1, and in the umbrella's values not there"),
    ],
)
def test_what_it_cannot_read_is_named(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    fault: str,
) -> None:
    values = tool.CHARTS / "first/values.yaml"
    values.write_text(values.read_text().replace(old, new))
    assert ran(tool, monkeypatch) == 1
    assert fault in capsys.readouterr().err
