"""A first declaration out of a file, and declarations as text."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import cli, datasets, models
from mlops.datasets.declaration import (
    Clock,
    Column,
    Dataset,
    EpochMilliseconds,
    EpochSeconds,
    Label,
    Source,
    SplitByTime,
    Timestamp,
)
from mlops.datasets.propose import as_python, propose
from mlops.models.declaration import Model
from mlops.notation import from_toml, to_toml
from mlops.result import Refused
from tests.conftest import ROOT, raw_rows

NAMES = ("ID", "Time Stamp", "Price (€)", "Rooms", "City", "Remark", "Sold")
CITIES = ("Zürich", "Bonn", 'Say "hello"')


def rows(count=120, price="{:.1f}", time=lambda n: f"2026-01-01 {n // 60:02}:{n % 60:02}"):
    for n in range(count):
        remark = "" if n % 4 else f"seen {n} times"
        yield (
            f"{n:05}",
            time(n),
            price.format(100.5 + n),
            str(n % 7),
            CITIES[n % 3],
            remark,
            ("No", "Yes")[n % 5 == 0],
        )


def text(separator=",", **options):
    def cell(value):
        return '"' + value.replace('"', '""') + '"' if separator in value or '"' in value else value

    return "\n".join(separator.join(map(cell, row)) for row in (NAMES, *rows(**options))) + "\n"


SHAPES = {
    "plain": (lambda: text().encode(), {}),
    "semicolons": (
        lambda: text(";", price="{:,.2f}").replace(",", "_").replace(".", ",").replace("_", ".").encode(),
        {"separator": ";", "decimal": ","},
    ),
    "tabs of Windows": (lambda: text("\t").encode("cp1252"), {"format": "tsv", "encoding": "cp1252"}),
    "utf-16": (lambda: text().encode("utf-16"), {"encoding": "utf-16"}),
    "a preamble and a footer": (
        lambda: ("Export\nof today\n" + text() + "Total: 120\n").encode(), {"skip_rows": 2, "skip_last": 1}
    ),
    "separators at the end": (
        lambda: text().replace("No\n", "No,\n").replace("Yes\n", "Yes,\n").encode(), {"trailing_separator": True}
    ),
    "other words for missing": (
        lambda: text().replace(",3,", ",n/a,").encode(), {"missing": ("n/a",)}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "source"), SHAPES.values(), ids=SHAPES)
def test_what_is_proposed_reads_the_file(tmp_path, content, source):
    (tmp_path / "houses.csv").write_bytes(content())
    made = propose(tmp_path / "houses.csv").dataset
    expected = {
        "file": "houses.csv",
        "format": "csv",
        "rename": dict(zip(NAMES[1:3], ("time_stamp", "price"), strict=True)),
    }
    assert {name: getattr(made.source, name) for name in source} == source
    assert made.source.rename | expected["rename"] == made.source.rename
    assert {column.name: column.kind for column in made.columns} == {
        "id": "identifier",
        "time_stamp": "identifier",
        "price": "number",
        "rooms": "integer",
        "city": "category",
        "remark": "category",
        "sold": "category",
    }
    assert set(made["city"].values) == set(CITIES)
    assert (made["rooms"].low, made["rooms"].high, made["rooms"].nullable) == (0, 6, "missing" in source)
    assert made["remark"].nullable and not made["price"].nullable
    assert (made.label, made.event_time) == (Label("sold", equals="Yes"), Timestamp("time_stamp", zone="UTC"))
    assert isinstance(made.split, SplitByTime)
    table = raw_rows(made, tmp_path)
    assert table.height == 120 and table["price"].dtype == pl.Float64 and table["price"][1] == 101.5
    assert table["event_time"][61] == datetime(2026, 1, 1, 1, 1, tzinfo=UTC)


def test_what_is_proposed_is_a_module_that_ruff_would_not_change(tmp_path):
    (tmp_path / "houses.csv").write_text(text())
    code = "\n".join(as_python(propose(tmp_path / "houses.csv"))) + "\n"
    (tmp_path / "houses.py").write_text(code)
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml")]
        done = subprocess.run([*ruff, str(tmp_path / "houses.py")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + code
    found: dict = {}
    exec(code, found)  # noqa: S102 - it is what was just proposed
    assert found["DATASET"] == propose(tmp_path / "houses.csv").dataset


def test_the_command_prints_the_declaration_alone_and_its_doubts_apart(tmp_path, capsys):
    (tmp_path / "houses.csv").write_text(text())
    with pytest.raises(SystemExit) as ended:
        cli.main(["datasets", "propose", "--toml", "--name", "homes", str(tmp_path / "houses.csv")])
    shown = capsys.readouterr()
    assert ended.value.code == 0
    assert from_toml(shown.out, Dataset) == propose(tmp_path / "houses.csv", "homes").dataset
    assert "# label: sold = Yes is taken" in shown.err and "zone; UTC is a guess" in shown.err


@pytest.mark.parametrize(
    ("values", "column", "event_time"),
    [
        ([2**53 + n for n in range(200)], ("x", "identifier"), None),
        ([1_782_907_200 + n for n in range(200)], ("created_at", "integer"), EpochSeconds("created_at")),
        ([1_782_907_200_000 + n for n in range(200)], ("x", "integer"), EpochMilliseconds("x")),
        (list(range(200)), ("user_id", "identifier"), None),
        ([None] * 200, ("x", "number"), None),
        ([f"text {n}" for n in range(200)], ("x", "identifier"), None),
        ([n / 3 for n in range(200)], ("prediction", "number"), None),
    ],
)
def test_kinds_that_no_model_should_see_as_numbers_are_seen(tmp_path, values, column, event_time):
    name, kind = column
    pl.DataFrame({name: values, "y": [n % 2 for n in range(200)]}).write_parquet(tmp_path / "some.parquet")
    made = propose(tmp_path / "some.parquet")
    assert (made.dataset[name].kind, made.dataset[name].feature) == (kind, False)
    assert made.dataset.event_time == event_time
    assert any(doubt.startswith(name) for doubt in made.doubts) or kind == "identifier"
    assert made.dataset.label == Label("y", equals=1)
    assert raw_rows(made.dataset, tmp_path).height == 200


NUMBERS = [n % 9 for n in range(200)]
LABELS = {
    "a named category": ({"species": list("abca") * 50, "size": NUMBERS}, Label("species", kind="multiclass")),
    "before two values of no such name": (
        {"Class": list("abca") * 50, "sex": list("fm") * 100}, Label("class", kind="multiclass")
    ),
    "after two values of such a name": ({"class": list("abca") * 50, "y": [0, 1] * 100}, Label("y", equals=1)),
    "the last number": (
        {"size": NUMBERS, "price": [n / 3 for n in range(200)], "same": [7] * 200, "score": NUMBERS,
         "created_at": [1_782_907_200 + n for n in range(200)], "user_id": list(range(200)), "none": [None] * 200},
        Label("price", kind="regression"),
    ),
    "a number of such a name": ({"target": NUMBERS, "size": NUMBERS}, Label("target", kind="regression")),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "label"), LABELS.values(), ids=LABELS)
def test_a_label_of_each_kind_is_proposed_and_hidden_from_models(tmp_path, columns, label):
    pl.DataFrame(columns).write_parquet(tmp_path / "some.parquet")
    made = propose(tmp_path / "some.parquet")
    assert made.dataset.label == label
    assert not made.dataset[label.column].feature
    assert any(doubt.startswith(f"label: {label.column}") for doubt in made.doubts)
    assert from_toml(to_toml(made.dataset), Dataset) == made.dataset


def test_a_file_without_any_label_is_refused(tmp_path):
    pl.DataFrame({"name": [f"person {n}" for n in range(200)]}).write_parquet(tmp_path / "some.parquet")
    with pytest.raises(Refused, match="no column that could be a label"):
        propose(tmp_path / "some.parquet")


def test_names_that_the_platform_gives_are_not_taken(tmp_path):
    pl.DataFrame({"split_group": NUMBERS, "event_time": NUMBERS, "y": [0, 1] * 100}).write_parquet(
        tmp_path / "s.parquet"
    )
    made = propose(tmp_path / "s.parquet")
    assert made.dataset.source.rename == {"split_group": "split_group_", "event_time": "event_time_"}
    assert any(doubt.startswith("label, event_time, split_group are names") for doubt in made.doubts)


@pytest.mark.parametrize("kind", ["seconds", "milliseconds", "text"])
@pytest.mark.parametrize("hours", [47, 49])
def test_a_set_that_was_not_added_to_of_late_is_taken_for_one_that_is_not(tmp_path, kind, hours):
    newest = datetime.now(UTC) - timedelta(hours=hours)
    times = [newest - timedelta(minutes=n) for n in range(200)]
    written = {
        "seconds": [int(time.timestamp()) for time in times],
        "milliseconds": [int(time.timestamp() * 1000) for time in times],
        "text": [time.isoformat() for time in times],
    }
    pl.DataFrame({"created_at": written[kind], "y": [0, 1] * 100}).write_parquet(tmp_path / "some.parquet")
    made = propose(tmp_path / "some.parquet")
    assert made.dataset.cadence == (None if hours > 48 else timedelta(days=1))
    doubts = [doubt for doubt in made.doubts if doubt.startswith("cadence: ")]
    assert len(doubts) == (hours > 48)
    assert all(f"the newest event is of {newest:%Y-%m-%d};" in doubt for doubt in doubts)


@pytest.mark.parametrize("equals", [2, "yes"])
def test_a_label_that_equals_none_of_its_values_is_refused_where_it_is_declared(equals):
    columns = (Column("x", "number"), Column("churn", "category", values=("0", "1"), feature=False))
    shuttle = replace(
        datasets.get("shuttle"), columns=columns, label=Label("churn", equals=1), event_time=None, entity=None,
        split=datasets.get("adult").split,
    )  # fmt: skip
    with pytest.raises(ValueError, match="the label churn never equals"):
        replace(shuttle, label=Label("churn", equals=equals))


def test_a_file_that_is_no_table_is_refused(tmp_path):
    for content in (b"", b"just words\nand more\n", b"a,b\n"):
        (tmp_path / "x.csv").write_bytes(content)
        with pytest.raises(Refused):
            propose(tmp_path / "x.csv")


@pytest.mark.parametrize("name", datasets.names())
def test_each_declared_set_is_the_same_as_toml(name):
    assert from_toml(to_toml(datasets.get(name)), Dataset) == datasets.get(name)


@pytest.mark.parametrize("name", models.names())
def test_each_declared_model_is_the_same_as_toml(name):
    assert from_toml(to_toml(models.get(name)), Model) == models.get(name)


words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@given(
    st.lists(words, min_size=1, max_size=4, unique=True).map(tuple),
    st.dictionaries(words, words, max_size=3),
    st.one_of(
        st.none(),
        st.just(EpochSeconds("x")),
        st.builds(Timestamp, st.just("x"), zone=st.none() | words),
        st.builds(Clock, st.datetimes(timezones=st.just(UTC)), st.timedeltas(timedelta(seconds=1), timedelta(days=99))),
    ),
    st.none() | st.floats(0, 1),
    st.none() | st.timedeltas(timedelta(seconds=1), timedelta(days=99)).map(lambda d: timedelta(seconds=d.seconds + 1)),
)
def test_any_declaration_is_the_same_as_toml(values, renames, event_time, duplicates, cadence):
    shuttle = datasets.get("shuttle")
    columns = Column("x", "category", values=values), Column("y", "integer", feature=False)
    source = Source(file=values[:2], format="csv", rename=renames)
    if isinstance(event_time, Clock):
        event_time = replace(event_time, every=timedelta(seconds=event_time.every // timedelta(seconds=1)))
    made = replace(
        shuttle, columns=columns, source=source, label=Label("y", equals=1), event_time=event_time, entity=None,
        split=shuttle.split if event_time else datasets.get("adult").split, duplicates=duplicates, cadence=cadence,
    )  # fmt: skip
    assert from_toml(to_toml(made), Dataset) == made


SHUTTLE = to_toml(datasets.get("shuttle"))
WRONG = {
    "no TOML": ("name = ", "is no TOML"),
    "an unknown word": (SHUTTLE + "\nx = 1\n", "in event_time has x, which nobody knows: a Clock has start, every"),
    "a missing word": (SHUTTLE.replace('name = "shuttle"\n', "", 1), "lacks name: a Dataset has name, description"),
    "another type": (SHUTTLE.replace("high = 200", 'high = "200"', 1), r"has '200' as columns\[1\].high: a number"),
    "a word that is none": (
        SHUTTLE.replace('"integer"', '"int"', 1),
        r"has 'int' as columns\[1\].kind: one of 'integer'",
    ),
    "another class": (SHUTTLE.replace('"Clock"', '"Path"'), "has 'Path' as event_time.type: one of Clock, EpochM"),
    "a class of Python": (SHUTTLE.replace('"Clock"', '"os.system"'), "has 'os.system' as event_time.type"),
    "a contradiction": (SHUTTLE.replace('column = "anomaly"', 'column = "f0"'), "contradicts itself: dataset shuttle"),
    "a number for a list": (SHUTTLE.replace("rows = [1000, 10000000]", "rows = 5"), "has 5 as rows: a list"),
    "a list of another length": (SHUTTLE.replace("rows = [1000, 10000000]", "rows = [5]"), "a list of 2"),
    "true for a number": (SHUTTLE.replace("low = 0", "low = true", 1), "has True as"),
}


@pytest.mark.parametrize(("content", "cause"), WRONG.values(), ids=WRONG)
def test_toml_that_declares_something_else_is_refused_with_the_place(content, cause):
    with pytest.raises(Refused, match=cause):
        from_toml(content, Dataset)
