"""Files as people have them: each is read right, or refused with what to declare."""

import bz2
import gzip
import lzma
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from mlops.datasets.declaration import (
    Clock,
    Column,
    Dataset,
    EpochMilliseconds,
    EpochSeconds,
    Join,
    Label,
    Source,
    SplitByKey,
    Timestamp,
)
from mlops.datasets.parsing.columns import number
from mlops.datasets.parsing.parts import matching, partition
from mlops.datasets.read import data_version
from mlops.result import Refused
from tests.conftest import raw_rows

HOUSES = (
    Column("id", "identifier"),
    Column("price", "number"),
    Column("rooms", "integer"),
    Column("city", "category", values=("Zürich", "Bonn")),
    Column("sold", "integer", feature=False),
)
SOLD = HOUSES[-1]
ROWS = [(f"{n:03}", 100.5 + n, n, ("Zürich", "Bonn")[n % 2], n % 2) for n in range(6)]
NAMES = tuple(column.name for column in HOUSES)


def houses(columns=HOUSES, event_time=None, file="houses.csv", form="csv", **source):
    return Dataset(
        name="houses",
        description="",
        source=Source(file=file, format=form, **source),
        columns=columns,
        label=Label("sold", equals=1),
        split=SplitByKey(),
        rows=(1, 100),
        event_time=event_time,
    )


def lines(separator=",", decimal=".", header=True, end=""):
    named = [separator.join(NAMES)] if header else []
    rows = [[str(value).replace(".", decimal) if i == 1 else str(value) for i, value in enumerate(row)] for row in ROWS]
    return "\n".join([*named, *(separator.join(row) + end for row in rows)]) + "\n"


def read(folder: Path, content: str | bytes, dataset: Dataset) -> pl.DataFrame:
    text = content.encode() if isinstance(content, str) else content
    (folder / str(dataset.source.file)).write_bytes(text)
    return raw_rows(dataset, folder)


def zipped(content: bytes, *more: str) -> bytes:
    import io

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("__MACOSX/._houses.csv", b"x")
        archive.writestr("houses.csv", content)
        for name in more:
            archive.writestr(name, b"")
    return packed.getvalue()


GOOD = lines().encode()
READ_RIGHT = {
    "plain": (GOOD, {}),
    "gzip": (gzip.compress(GOOD), {}),
    "gzip of two parts": (gzip.compress(GOOD[:40]) + gzip.compress(GOOD[40:]), {}),
    "bzip2": (bz2.compress(GOOD), {}),
    "xz": (lzma.compress(GOOD), {}),
    "zstd": (pa.Codec("zstd").compress(GOOD, asbytes=True), {}),
    "zip": (zipped(GOOD), {}),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, {}),
    "byte order mark before a quote": (b'\xef\xbb\xbf"id"' + GOOD[2:], {}),
    "lines of Windows": (GOOD.replace(b"\n", b"\r\n"), {}),
    "no line end at the end": (GOOD.rstrip(), {}),
    "blank lines": (GOOD.replace(b"\n", b"\n\n"), {}),
    "cp1252": (lines().encode("cp1252"), {"encoding": "cp1252"}),
    "utf-16": (lines().encode("utf-16"), {"encoding": "utf-16"}),
    "semicolons and decimal commas": (lines(";", ","), {"separator": ";", "decimal": ","}),
    "tabs": (lines("\t"), {"separator": "\t"}),
    "a line that names the separator": ("sep=;\n" + lines(";"), {"skip_rows": 1, "separator": ";"}),
    "a preamble": ('Export, of "today\n\n' + lines(), {"skip_rows": 2}),
    "a footer": (lines() + "Total: 6\n2026-01-01\n\n", {"skip_last": 2}),
    "no header": (lines(header=False), {"names": NAMES}),
    "separators at the end of rows": (lines(end=","), {"trailing_separator": True}),
    "separators at the end of all lines": (lines(end=",").replace("sold\n", "sold,\n"), {}),
    "blanks behind separators": (lines(", "), {"trim": True}),
    "names of one's own": (lines().replace("price", "Price in €"), {"rename": {"Price in €": "price"}}),
    "columns in another order, and more": (
        "sold,x,city,price,rooms,id\n" + "".join(f"{s},?,{c},{p},{r},{i}\n" for i, p, r, c, s in ROWS),
        {},
    ),
}


@pytest.mark.parametrize(("content", "source"), READ_RIGHT.values(), ids=READ_RIGHT)
def test_a_file_is_read_right_as_it_is_declared(tmp_path, content, source):
    table = read(tmp_path, content, houses(**source))
    assert table.rows() == ROWS
    assert table.schema == {
        "id": pl.String, "price": pl.Float64, "rooms": pl.Int64, "city": pl.String, "sold": pl.Int64
    }  # fmt: skip


REFUSED = {
    "empty": (b"", {}, "is empty: upload a whole file"),
    "only a header": ("id,price,rooms,city,sold\n", {}, "has no rows below its header"),
    "cut off": (gzip.compress(GOOD)[:-9], {}, "is damaged or cut off"),
    "cut off xz": (lzma.compress(GOOD)[:-9], {}, "is damaged or cut off"),
    "broken zip": (zipped(GOOD)[:-30], {}, "is damaged or cut off"),
    "zip of two": (zipped(GOOD, "more.csv"), {}, r"zip archive of 2 files \(houses.csv, more.csv\)"),
    "separators at the end of rows": (lines(end=","), {}, "declare trailing_separator=True"),
    "none at the end": (lines(), {"trailing_separator": True}, "take trailing_separator out"),
    "a value at the end": (
        lines(end=",").replace("Bonn,1,", "Bonn,1,x"), {"trailing_separator": True}, "row 2 has the value 'x' behind"
    ),
    "a row number without a name": (
        "\n".join(["id,price,rooms,city,sold", *(f"{n},{line}" for n, line in enumerate(lines(header=False).split()))]),
        {},
        r"begin with a column that has no name.* names=\(",
    ),
    "semicolons": (lines(";"), {}, "declare separator=';' in its source, which finds 5"),
    "semicolons and commas": (lines(";", ","), {"separator": ";"}, r"'price'.*'100,5' \(6 of 6\).*decimal=\",\""),
    "a header of semicolons only": (
        "id;price;rooms;city;sold\n1,1.5,2,Bonn,0\n", {"separator": ";"}, "or declare the right separator"
    ),
    "a line that names the separator": ("sep=,\n" + lines(), {}, "declare skip_rows=1 in its source"),
    "a preamble": ("Export\nof today\n" + lines(";"), {}, "declare skip_rows=2, separator=';' in its source"),
    "a footer": (lines() + "Total: 6\n2026-01-01\n", {}, r"row 8 \('Total: 6'\).*declare skip_last=2"),
    "blanks behind separators": (lines(", "), {}, "declare trim=True"),
    "latin-1": (lines().encode("latin-1"), {}, r"line 2 has the byte 0xfc.*encoding='cp1252' \(there.*Zürich"),
    "utf-16": (lines().encode("utf-16"), {}, "declare encoding='utf-16'"),
    "utf-16 without its mark": (lines().encode("utf-16-le"), {}, "NUL .* in line 1.*encoding='utf-16-le'"),
    "an encoding that is none": (GOOD, {"encoding": "utf-9"}, "which Python does not know"),
    "a NUL": (GOOD.replace(b"003", b"0\x003"), {}, "NUL .* in line 5"),
    "two columns of one name": (lines().replace("rooms", "price"), {}, "two columns for 'price', 'price' at 2 and"),
    "two columns renamed to one": (
        lines().replace("rooms", "cost"), {"rename": {"cost": "price"}}, "'price' at 2 and 'cost' at 3"
    ),
    "rows of unequal length": (GOOD + b"7,8\n" + GOOD[25:], {}, r"has 2 values in row 8 \('7,8'\) and 5 names"),
    "a value that holds the separator": (GOOD.replace(b"Bonn", b"Bonn, am Rhein"), {}, "has 6 values in row 3"),
    "a quote that is not closed": (GOOD.replace(b"005,", b'005,"'), {}, "opens a quote .*row 7"),
    "a quote at the end that is not closed": (GOOD[:-2] + b'"1\n', {}, "opens a quote"),
    "thousands": (GOOD.replace(b"100.5", b'"1,100.5"'), {}, "'1,100.5' .*thousands=\",\""),
    "other words for missing": (GOOD.replace(b"100.5", b"N/A"), {}, r"declare missing=\('N/A',\)"),
    "an infinite number": (GOOD.replace(b"100.5", b"inf"), {}, r"declare missing=\('inf',\)"),
    "words for the label": (
        GOOD.replace(b",0\n", b",No\n").replace(b",1\n", b",Yes\n"),
        {},
        r"declare Column\('sold', \"category\", values=\('No', 'Yes'\)",
    ),
    "another file": ("a,b\n1,2\n", {}, "none of the declared columns"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "source", "cause"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_not_as_declared_is_refused_with_its_name_and_the_remedy(tmp_path, content, source, cause):
    with pytest.raises(Refused, match=rf"(?s)^datasets/houses/houses.csv .*{cause}"):
        read(tmp_path, content, houses(**source))


@pytest.mark.parametrize("large", ["9007199254740993", "10124420001034504343", "1" * 26, "-9007199254740993"])
@pytest.mark.parametrize("kind", ["integer", "number"])
def test_ids_beyond_what_a_number_holds_are_refused_as_numbers_and_kept_as_identifiers(tmp_path, large, kind):
    content = f"account,sold\n{large},0\n,1\n12,1\n"
    columns = Column("account", kind, nullable=True), SOLD
    with pytest.raises(Refused, match=rf"has {large} in column 'account'.*Column\('account', \"identifier\"\)"):
        read(tmp_path, content, houses(columns))
    columns = Column("account", "identifier", nullable=True), SOLD
    assert read(tmp_path, content, houses(columns))["account"].to_list() == [large, None, "12"]


def test_the_largest_number_that_is_exact_is_read(tmp_path):
    columns = Column("account", "integer"), SOLD
    table = read(tmp_path, f"account,sold\n{2**53},0\n-{2**53},1\n", houses(columns))
    assert table["account"].to_list() == [2**53, -(2**53)]


def test_one_wrong_value_leaves_its_column_as_text_for_validation_to_show(tmp_path):
    content = "rooms,price,sold\n" + "1,1.5,0\n" * 200 + "1.5,abc,1\n,,1\n"
    columns = Column("rooms", "integer"), Column("price", "number"), SOLD
    table = read(tmp_path, content, houses(columns))
    assert table.schema == {"rooms": pl.String, "price": pl.String, "sold": pl.Int64}
    assert table.tail(2).rows() == [("1.5", "abc", 1), (None, None, 1)]


def test_whole_numbers_are_whole_however_they_are_written(tmp_path):
    columns = Column("rooms", "integer"), SOLD
    table = read(tmp_path, "rooms,sold\n1.0,0\n 2 ,1\n3e0,1\n+4,1\n,0\n", houses(columns))
    assert table["rooms"].to_list() == [1, 2, 3, 4, None]


def test_a_column_without_any_value_keeps_its_type(tmp_path):
    columns = Column("price", "number", nullable=True), Column("city", "identifier", nullable=True), SOLD
    table = read(tmp_path, "price,city,sold\n,,0\nNaN,,1\n", houses(columns))
    assert table.schema == {"price": pl.Float64, "city": pl.String, "sold": pl.Int64}
    assert table.rows() == [(None, None, 0), (None, None, 1)]


def test_a_declared_value_is_no_word_for_a_missing_one(tmp_path):
    columns = Column("country", "category", values=("DE", "NA")), Column("price", "number", nullable=True), SOLD
    table = read(tmp_path, "country,price,sold\nNA,NA,0\nDE,1.5,1\n", houses(columns, missing=("NA",)))
    assert table.rows() == [("NA", None, 0), ("DE", 1.5, 1)]


def test_quotes_mean_nothing_where_it_is_declared(tmp_path):
    columns = Column("city", "identifier"), SOLD
    table = read(tmp_path, 'city,sold\n"Bonn,0\n5" pipe,1\n', houses(columns, quote=""))
    assert table["city"].to_list() == ['"Bonn', '5" pipe']


def test_a_quoted_value_may_hold_separators_quotes_and_lines(tmp_path):
    columns = Column("city", "identifier"), SOLD
    table = read(tmp_path, 'city,sold\r\n"a\r\nb",0\r\n"say ""x"", y",1\r\n', houses(columns))
    assert table["city"].to_list() == ["a\r\nb", 'say "x", y']


@given(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([(".", ""), (",", "."), (".", ","), (",", " ")])
)
def test_a_number_is_the_same_whatever_its_signs(value, signs):
    decimal, thousands = signs
    places = str.maketrans({",": thousands, ".": decimal})
    written = f"{value:,.3f}".translate(places) if thousands else f"{value:.3f}".translate(places)
    found = pl.DataFrame({"v": [written]}).select(number(pl.col("v"), decimal, thousands)).item()
    assert found == float(f"{value:.3f}")


@pytest.mark.parametrize(
    "text", ["1.5", "1,5,5", "1.000", "inf", "nan", "0x1", "1_000", "one", "--1", "1 000", "12,34.5"]
)
def test_what_is_no_number_by_a_decimal_comma_is_none(text):
    assert pl.DataFrame({"v": [text]}).select(number(pl.col("v"), ",")).item() is None


@pytest.mark.parametrize("text", ["1,2,3", "1,00", "12,34", "1,0000", ",100"])
def test_a_sign_of_thousands_stands_before_three_digits(text):
    assert pl.DataFrame({"v": [text]}).select(number(pl.col("v"), ".", ",")).item() is None


NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
AT_NOON = {
    "seconds": (EpochSeconds("ts"), "1782907200"),
    "seconds with a fraction": (EpochSeconds("ts"), "1782907200.0"),
    "seconds with an exponent": (EpochSeconds("ts"), "1.7829072e9"),
    "milliseconds": (EpochMilliseconds("ts"), "1782907200000"),
    "a zone of its own": (Timestamp("ts"), "2026-07-01T14:00:00+02:00"),
    "a zone without a colon": (Timestamp("ts"), "2026-07-01 14:00:00.000+0200"),
    "UTC": (Timestamp("ts"), "2026-07-01T12:00:00Z"),
    "minutes": (Timestamp("ts"), "2026-07-01T12:00Z"),
    "a declared zone": (Timestamp("ts", zone="Europe/Berlin"), "2026-07-01 14:00:00"),
    "a zone of its own beside a declared one": (Timestamp("ts", zone="Europe/Berlin"), "2026-07-01T12:00:00+00:00"),
    "a form": (Timestamp("ts", zone="UTC", format="%d.%m.%Y %H:%M"), "01.07.2026 12:00"),
    "a form with a zone": (Timestamp("ts", format="%d/%b/%Y:%H:%M:%S %z"), "01/Jul/2026:14:00:00 +0200"),
}


@pytest.mark.parametrize(("event_time", "text"), AT_NOON.values(), ids=AT_NOON)
def test_event_times_are_utc_however_they_are_written(tmp_path, event_time, text):
    columns = Column("ts", "identifier", feature=False), Column("x", "integer"), SOLD
    table = read(tmp_path, f"ts,x,sold\n{text},1,0\n,2,1\n", houses(columns, event_time))
    assert table["event_time"].to_list() == [NOON, None]
    assert table.schema["event_time"] == pl.Datetime("us", "UTC")
    assert table["ts"].to_list() == [text, None]


OTHER_TIMES = {
    "milliseconds": (EpochSeconds("ts"), "1782907200000", r"no seconds since 1970: .*=EpochMilliseconds\("),
    "seconds": (EpochMilliseconds("ts"), "1782907200", r"no milliseconds since 1970: .*=EpochSeconds\("),
    "ISO": (EpochSeconds("ts"), "2026-07-01 12:00", r"no seconds since 1970: .*=Timestamp\("),
    "without a zone": (Timestamp("ts"), "2026-07-01 12:00", "which name no zone: declare zone='UTC'"),
    "a form without a zone": (Timestamp("ts", format="%d.%m.%Y"), "01.07.2026", "which name no zone"),
    "another form": (Timestamp("ts", zone="UTC"), "01.07.2026", r"no times as declared: .*format='%d"),
    "numbers": (Timestamp("ts", zone="UTC"), "1782907200", r"=EpochSeconds\("),
    "a zone that is none": (Timestamp("ts", zone="Europe/Bonn"), "2026-07-01", "which nobody knows"),
}


@pytest.mark.parametrize(("event_time", "text", "cause"), OTHER_TIMES.values(), ids=OTHER_TIMES)
def test_times_that_are_not_as_declared_are_refused_with_what_they_are(tmp_path, event_time, text, cause):
    columns = Column("ts", "identifier", feature=False), Column("x", "integer"), SOLD
    with pytest.raises(Refused, match=rf"houses.csv .*{cause}"):
        read(tmp_path, f"ts,x,sold\n{text},1,0\n", houses(columns, event_time))


def test_an_hour_that_daylight_saving_repeats_or_leaves_out_is_no_time(tmp_path):
    columns = Column("ts", "identifier", feature=False), SOLD
    content = "ts,sold\n2026-03-29 02:30,0\n2026-10-25 02:30,1\n2026-10-25 03:30,1\n2026-10-25 04:30,1\n"
    table = read(tmp_path, content, houses(columns, Timestamp("ts", zone="Europe/Berlin")))
    assert [time and time.hour for time in table["event_time"]] == [None, None, 2, 3]


def test_one_time_of_another_kind_is_left_for_validation(tmp_path):
    columns = Column("ts", "integer", feature=False), SOLD
    content = "ts,sold\n" + "1782907200,0\n" * 3 + "1782907200000,1\n99999999999999999,1\n"
    with pytest.raises(Refused, match="beyond 2\\^53"):
        read(tmp_path, content, houses(columns, EpochSeconds("ts")))
    table = read(tmp_path, content.rsplit("9" * 17)[0], houses(columns, EpochSeconds("ts")))
    assert table["event_time"].max().year > 9_999 - 1_000 or table["event_time"].null_count() == 1


def test_a_clock_gives_each_row_its_time(tmp_path):
    clock = Clock(NOON, timedelta(minutes=1))
    table = read(tmp_path, GOOD, houses(event_time=clock))
    assert table["event_time"].to_list() == [NOON + n * timedelta(minutes=1) for n in range(len(ROWS))]


def write(path: Path, columns: dict[str, pa.Array], **options) -> None:
    parquet.write_table(pa.table(columns), path, **options)


PARQUET = {
    "bool as a category": (pa.array([True, False, None]), ("true", "false"), ["true", "false", None]),
    "bool as a category of Python's words": (pa.array([True, False]), ("True", "False"), ["True", "False"]),
    "whole numbers as a category": (pa.array([1, 2, None]), ("1", "2"), ["1", "2", None]),
    "whole numbers that pandas made floats": (pa.array([1.0, 2.0, None]), ("1", "2"), ["1", "2", None]),
    "floats as a category": (pa.array([1.0, 2.5]), ("1.0", "2.5"), ["1.0", "2.5"]),
    "a dictionary": (pa.array(["a", "b", None]).dictionary_encode(), ("a", "b"), ["a", "b", None]),
    "large strings": (pa.array(["a", "b"], pa.large_string()), ("a", "b"), ["a", "b"]),
    "ids": (pa.array([13, 2**62, None], pa.int64()), (), ["13", str(2**62), None]),
    "unsigned ids": (pa.array([2**64 - 1], pa.uint64()), (), [str(2**64 - 1)]),
    "ids of a nullable column of pandas": (pa.array([13.0, None]), (), ["13", None]),
    "decimals": (pa.array([10**30], pa.decimal128(38)), (), [str(10**30)]),
    "nothing at all": (pa.nulls(2), (), [None, None]),
}


@pytest.mark.parametrize(("values", "known", "expected"), PARQUET.values(), ids=PARQUET)
def test_texts_of_parquet_are_those_that_are_declared(tmp_path, values, known, expected):
    kind = "category" if known else "identifier"
    write(tmp_path / "houses.parquet", {"x": values, "sold": pa.array([1] * len(values), pa.int8())})
    table = raw_rows(houses((Column("x", kind, values=known), SOLD), file="houses.parquet", form="parquet"), tmp_path)
    assert table["x"].to_list() == expected and table.schema["x"] == pl.String


NUMBERS = {
    "bool": (pa.array([True, False, None]), "integer", [1, 0, None]),
    "small": (pa.array([1, None], pa.int8()), "integer", [1, None]),
    "floats that are whole": (pa.array([1.0, None]), "integer", [1, None]),
    "whole numbers": (pa.array([1, None]), "number", [1.0, None]),
    "small floats": (pa.array([0.5, None], pa.float32()), "number", [0.5, None]),
    "decimals": (pa.array([10050, None], pa.decimal128(7, 2)).cast(pa.decimal128(9, 2)), "number", [10050.0, None]),
    "not a number": (pa.array([0.5, float("nan")]), "number", [0.5, None]),
    "texts": (pa.array(["0.5", ""]), "number", [0.5, None]),
    "floats that are not whole": (pa.array([1.0] * 200 + [1.5]), "integer", ["1"] * 200 + ["1.5"]),
}


@pytest.mark.parametrize(("values", "kind", "expected"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_parquet_are_of_the_declared_kind(tmp_path, values, kind, expected):
    write(tmp_path / "houses.parquet", {"x": values, "sold": pa.array([1] * len(values))})
    table = raw_rows(houses((Column("x", kind), SOLD), file="houses.parquet", form="parquet"), tmp_path)
    assert table["x"].to_list() == expected


ODD_PARQUET = {
    "nested": (pa.array([[1.0], [2.0]]), "price", r"column 'price' holds a List\(Float64\) in each row: write it flat"),
    "infinite": (pa.array([1.0, float("inf")]), "price", r"'inf' \(1 of 2\): declare missing=\('inf',\)"),
    "large": (pa.array([2**53 + 1, 1]), "price", "beyond 2\\^53"),
    "larger": (pa.array([2**64 - 1, 1], pa.uint64()), "price", "beyond 2\\^53"),
    "no rows": (pa.array([], pa.float64()), "price", "has no rows"),
}


@pytest.mark.parametrize(("values", "name", "cause"), ODD_PARQUET.values(), ids=ODD_PARQUET)
def test_parquet_that_cannot_be_read_right_is_refused(tmp_path, values, name, cause):
    write(tmp_path / "houses.parquet", {name: values, "sold": pa.array([1] * len(values), pa.int64())})
    dataset = houses((Column("price", "number"), SOLD), file="houses.parquet", form="parquet")
    with pytest.raises(Refused, match=rf"datasets/houses/houses.parquet .*{cause}"):
        raw_rows(dataset, tmp_path)


def test_infinities_of_parquet_can_be_declared_missing(tmp_path):
    write(tmp_path / "houses.parquet", {"price": pa.array([1.0, float("inf")]), "sold": pa.array([0, 1])})
    columns = Column("price", "number", nullable=True), SOLD
    table = raw_rows(houses(columns, file="houses.parquet", form="parquet", missing=("inf",)), tmp_path)
    assert table["price"].to_list() == [1.0, None]


def test_two_columns_of_one_name_in_parquet_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0]), pa.array([0])], names=["price", "price", "sold"])
    parquet.write_table(table, tmp_path / "houses.parquet")
    with pytest.raises(Refused, match="two columns for 'price'"):
        raw_rows(houses((Column("price", "number"), SOLD), file="houses.parquet", form="parquet"), tmp_path)


def test_an_index_of_pandas_is_a_column(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"id": ["a", "b"], "sold": [0, 1]}).set_index("id")
    frame.to_parquet(tmp_path / "houses.parquet")
    dataset = houses((Column("id", "identifier"), SOLD), file="houses.parquet", form="parquet")
    assert raw_rows(dataset, tmp_path).rows() == [("a", 0), ("b", 1)]


def test_times_and_dates_of_parquet_are_event_times(tmp_path):
    columns = Column("ts", "identifier", feature=False), SOLD
    for values, zone in (
        (pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ns")), "UTC"),
        (pa.array([NOON], pa.timestamp("us", "Europe/Berlin")), None),
        (pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ms")), "UTC"),
    ):
        write(tmp_path / "houses.parquet", {"ts": values, "sold": pa.array([1])})
        dataset = houses(columns, Timestamp("ts", zone=zone), file="houses.parquet", form="parquet")
        assert raw_rows(dataset, tmp_path)["event_time"].to_list() == [NOON]
    write(tmp_path / "houses.parquet", {"ts": pa.array([NOON.date()]), "sold": pa.array([1])})
    (time,) = raw_rows(houses(columns, Timestamp("ts", zone="UTC"), file="houses.parquet", form="parquet"), tmp_path)[
        "event_time"
    ]
    assert time == NOON.replace(hour=0)


USERS = (Column("user", "identifier"), Column("x", "integer"), Column("age", "integer"), SOLD)


def joined(folder, first, second, columns=USERS, **source):
    (folder / "users.csv").write_text(second)
    return read(folder, first, houses(columns, joins=(Join("users.csv", on="user"),), **source))


def test_a_key_that_each_file_names_differently_joins(tmp_path):
    first, second = "uid,x,sold\n007,1,0\n7,2,1\n", "USER_ID,age\n7,70\n007,7\n"
    table = joined(tmp_path, first, second, rename={"uid": "user", "USER_ID": "user"})
    assert table.rows() == [("007", 1, 7, 0), ("7", 2, 70, 1)]


def test_a_key_that_is_not_declared_joins_by_its_text(tmp_path):
    table = joined(tmp_path, "user,x,sold\n007,1,0\n7,2,1\n", "user,age\n7,70\n007,7\n", USERS[1:])
    assert table.rows() == [(1, 7, 0), (2, 70, 1)]


def test_a_number_joins_by_its_value(tmp_path):
    columns = Column("user", "integer"), *USERS[1:]
    assert joined(tmp_path, "user,x,sold\n07,1,0\n", "user,age\n7,70\n", columns)["age"].to_list() == [70]


def test_a_row_that_a_join_finds_nothing_for_stays_in_its_place(tmp_path):
    table = joined(tmp_path, "user,x,sold\nb,1,0\nnobody,2,1\na,3,1\n,4,1\n", "user,age\na,1\nb,2\n")
    assert table.rows() == [("b", 1, 2, 0), ("nobody", 2, None, 1), ("a", 3, 1, 1), (None, 4, None, 1)]


@pytest.mark.parametrize(
    ("first", "second", "cause"),
    [
        ("user,x,sold\na,1,0\n", "USER_ID,age\na,1\n", r"users.csv has no column 'user'.*rename=\{"),
        ("uid,x,sold\na,1,0\n", "user,age\na,1\n", "houses.csv has no column 'user'"),
        ("user,x,age,sold\na,1,2,0\n", "user,age\na,1\n", "each have a column 'age'"),
        ("user,x,sold\na,1,0\n", "user,age\na,1\na,2\n", "users.csv has two rows of one 'user'"),
    ],
)
def test_files_that_do_not_join_are_refused(tmp_path, first, second, cause):
    with pytest.raises(Refused, match=cause):
        joined(tmp_path, first, second)


def test_a_folder_of_partitions_is_one_table_in_the_order_of_its_names(tmp_path):
    columns = Column("day", "identifier", feature=False), Column("x", "integer"), SOLD
    for day, row in (("2026-01-02", "2,1"), ("2026-01-01", "1,0")):
        (tmp_path / f"day={day}").mkdir()
        (tmp_path / f"day={day}/part.csv").write_text(f"x,sold\n{row}\n")
    (tmp_path / "day=2026-01-02/_SUCCESS").touch()
    for pattern in ("day=*/*.csv", "**/*.csv"):
        table = raw_rows(houses(columns, Timestamp("day", zone="UTC"), file=pattern), tmp_path)
        assert table.select("day", "x", "sold").rows() == [("2026-01-01", 1, 0), ("2026-01-02", 2, 1)]
        assert table["event_time"].to_list() == [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]


def test_several_files_are_one_table_whatever_the_order_of_their_columns(tmp_path):
    (tmp_path / "a.csv").write_text("x,sold\n1,0\n")
    (tmp_path / "b.csv").write_text("sold,x\n1,2\n")
    dataset = houses((Column("x", "integer"), SOLD), file=("b.csv", "a.csv"))
    assert raw_rows(dataset, tmp_path).rows() == [(2, 1), (1, 0)]
    (tmp_path / "b.csv").write_text("sold\n1\n")
    with pytest.raises(Refused, match=r"a.csv and b.csv are not of the same columns \(x are|and b.csv .*x"):
        raw_rows(dataset, tmp_path)


def test_a_pattern_fits_names_and_not_what_tools_leave():
    names = ["a/b.csv", "a/c/d.csv", "a/_d.csv", "a/.e.csv", "b.csv", "a/b.csv.crc"]
    assert matching("a/*.csv", names) == ["a/b.csv"]
    assert matching("**/*.csv", names) == ["a/b.csv", "a/c/d.csv", "b.csv"]
    assert matching("a/", names) == ["a/b.csv", "a/b.csv.crc", "a/c/d.csv"]
    assert matching("[ab].csv", names) == []
    assert matching("*", ["dataset.toml", "shift.json", "a.csv", "shift.csv"]) == ["a.csv", "shift.csv"]


def test_folders_name_columns():
    assert partition("year=2026/city=Z%C3%BCrich/x=__HIVE_DEFAULT_PARTITION__/a=b.csv") == {
        "year": "2026",
        "city": "Zürich",
        "x": None,
    }


def test_the_data_version_of_several_files_changes_with_each_of_them():
    files = {"a": "1", "b": "2"}
    changes = (files, {**files, "a": "3"}, {**files, "b": "3"}, {"a": "2", "b": "1"})
    assert len({data_version(changed) for changed in changes}) == 4
    assert data_version(files) == data_version(dict(reversed(files.items())))
    assert data_version({"a": "1"}) == "1"
