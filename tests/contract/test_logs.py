"""What docs/logs.md says of a line of a log, and what its collectors take out of one, is what a task writes."""

import json
import re
from typing import Any

import pytest
import yaml

from mlops.config import RunIdentity
from mlops.log_lines import as_json
from mlops.logs import about
from tests.conftest import ROOT

PAGE = (ROOT / "docs/logs.md").read_text()
OPTIONAL = {"map_index", "model", "exception"}


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """One with all that a line may have."""
    for key in RunIdentity.keys():  # noqa: SIM118 - a method of the record
        monkeypatch.setenv(key, "1")
    found: dict[str, Any] = json.loads(as_json("t", "INFO", "l", "m", about("model"), "e"))
    return found


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_table_has_each_field_and_no_other(line: dict[str, Any]) -> None:
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == line.keys()


def test_the_line_that_is_shown_is_one(line: dict[str, Any]) -> None:
    shown = json.loads(blocks("json")[0])
    assert line.keys() - OPTIONAL <= shown.keys() <= line.keys()
    assert list(shown) == [name for name in line if name in shown], "in the order in which they are written"
    assert [type(shown[name]) for name in shown] == [type(line[name]) for name in shown]


def test_values_and_the_configuration_of_fluent_bit_are_yaml_that_names_what_there_is(line: dict[str, Any]) -> None:
    values, fluent_bit = map(yaml.safe_load, blocks("yaml"))
    assert values == {"airflow": {"logs": {"format": "json"}}}
    (parser,) = fluent_bit["parsers"]
    assert parser["time_key"] in line
    filters = {entry["name"]: entry for entry in fluent_bit["pipeline"]["filters"]}
    assert filters["parser"]["parser"] == parser["name"]


def test_the_index_maps_each_field(line: dict[str, Any]) -> None:
    (command,) = blocks("sh")
    template = json.loads(re.findall(r"-d '(.*?)'", command, re.DOTALL)[0])
    properties = template["template"]["mappings"]["properties"]
    assert properties.keys() == line.keys()
    assert {name for name, it in properties.items() if it["type"] == "integer"} == {"try_number", "map_index"}


def test_alloy_takes_fields_out_that_a_line_has(line: dict[str, Any]) -> None:
    (alloy,) = blocks("alloy")
    stages = {
        name: set(re.findall(r"(\w+) = \"\"", body))
        for name, body in re.findall(r"stage\.(\w+) \{(.*?)\n  \}", alloy, re.DOTALL)
    }
    assert stages["json"] == line.keys() - {"message", "exception"}, "these stay in the line"
    assert stages["labels"] | stages["structured_metadata"] == stages["json"] - {"time"} | {"pod"}
