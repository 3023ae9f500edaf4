"""A file of separated values as a Parquet table of texts, each value as it stands there; only its shape is judged."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from mlops.datasets.declaration import Source
from mlops.datasets.parsing.plain import head, unpack
from mlops.result import Refused

_BLOCK = 1 << 22  # bytes of text that are parsed at a time; no row is longer
_ODD_ROWS = 1_000  # so many of another length, and the rest is not looked at
_FOOTER = 20  # lines at the end of a file, at most, that may be a footer
_PREAMBLE = 30  # lines above the header, at most, that are looked at
_SHOWN = 80  # characters of a line in a message
SEPARATORS = (",", ";", "\t", "|")
_NO_ROWS = "has no rows below its header: upload a whole file"


def texts(file: Path, source: Source, wanted: Sequence[str], scratch: Path) -> Path:
    """The wanted columns of a file, by their declared names, as a Parquet file of texts in `scratch`.

    Columns that the file does not have are left out. Memory does not grow with the rows. Raises Refused, with what is
    to be declared, where the file is not as `source` says.
    """
    plain, table = scratch / f"{file.name}.text", scratch / f"{file.name}.parquet"
    unpack(file, source.encoding, source.skip_last, plain)
    start = head(plain)
    header = read_header(start, source)
    places = _places(header, source, wanted)
    if len(places) < len(set(wanted)):
        _refuse_another_dialect(start, source, wanted, header, places)
    _parse(plain, table, header, places, source, start)
    plain.unlink()
    return table


@dataclass(frozen=True)
class Header:
    """names: as the file has them; lines: how many lines of the file end with the header's."""

    names: tuple[str, ...]
    lines: int


def read_header(start: str, source: Source) -> Header:
    """The names in the line that `source` says, or those it gives for a file without a header."""
    if source.names:
        return Header(source.names, source.skip_rows)
    lines = start.splitlines(keepends=True)[source.skip_rows :]
    row, used = _first_row("".join(lines), source)
    names = tuple(name.strip() for name in row) if source.trim else tuple(row)
    return Header(names, source.skip_rows + used)


def _first_row(text: str, source: Source) -> tuple[list[str], int]:
    quoting: Any = {"quotechar": source.quote} if source.quote else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(io.StringIO(text), delimiter=source.delimiter, **quoting)
    try:
        row = next((row for row in reader if row), [])
    except csv.Error as error:
        raise Refused(f"has a header that is none ({error}): declare its dialect in its source") from error
    return row, reader.line_num


def _places(header: Header, source: Source, wanted: Sequence[str]) -> dict[str, int]:
    """Declared name -> place in the row. Raises Refused where two columns would bear it."""
    places: dict[str, int] = {}
    for place, raw in enumerate(header.names):
        name = source.rename.get(raw, raw)
        if name not in wanted:
            continue
        if name in places:
            other = header.names[places[name]]
            raise Refused(
                f"has two columns for {name!r}, {other!r} at {places[name] + 1} and {raw!r} at {place + 1}: give them "
                f"two names in the file, or declare rename, or skip_rows={header.lines} and names=(...) in its source"
            )
        places[name] = place
    return places


def _parse(plain: Path, table: Path, header: Header, places: Mapping[str, int], source: Source, start: str) -> None:
    width = len(header.names) + source.trailing_separator
    if not places:
        raise Refused(f"has none of the declared columns, its first line is {_shown(start)}: upload the right file")
    read = dict(places)
    odd = _OddRows(width)
    if source.trailing_separator:
        read[""] = width - 1
    names = [str(place) for place in range(width)]
    columns = [str(place) for place in read.values()]
    try:
        reader = arrow_csv.open_csv(
            plain,
            arrow_csv.ReadOptions(
                column_names=names, skip_rows=header.lines, use_threads=False, block_size=_BLOCK, encoding="utf8"
            ),
            arrow_csv.ParseOptions(
                delimiter=source.delimiter,
                quote_char=source.quote or False,
                newlines_in_values=bool(source.quote),
                invalid_row_handler=odd,
            ),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pyarrow.string()),
                include_columns=columns,
                strings_can_be_null=False,
                check_utf8=False,  # it was written as UTF-8
            ),
        )
        rows = _write(reader, table, list(read), source)
    except pyarrow.ArrowInvalid as error:
        if not odd.rows:
            raise Refused(_unparsed(str(error), start, source)) from error
        rows = 0
    if odd.rows:
        raise Refused(odd.explain(rows, start, source, header))
    if not rows:
        raise Refused(_NO_ROWS)


def _write(reader: arrow_csv.CSVStreamingReader, table: Path, names: Sequence[str], source: Source) -> int:
    kept = [name for name in names if name]
    schema = pyarrow.schema([(name, pyarrow.string()) for name in kept])
    rows, last = 0, None
    with parquet.ParquetWriter(table, schema, compression="lz4") as writer:
        for batch in reader:
            if not batch.num_rows:
                continue
            part = pyarrow.table(batch.columns, names=[name or "trailing" for name in names])
            if source.trailing_separator:
                _check_trailing(part.column("trailing"), rows)
                part = part.drop_columns("trailing")
            writer.write_table(part.cast(schema))
            rows, last = rows + part.num_rows, part.slice(part.num_rows - 1)
    if last is not None and any(value.as_py().endswith("\n") for column in last.columns for value in column):
        raise Refused(_unclosed(source))
    return rows


def _check_trailing(values: pyarrow.ChunkedArray, before: int) -> None:
    for number, value in enumerate(values, before + 1):
        if value.as_py():
            raise Refused(
                f"is declared with trailing_separator, and row {number} has the value {value.as_py()!r} behind it: "
                "take the declaration away, and give the header a name for that column"
            )


@dataclass
class _OddRows:
    """The rows of another length than the header, as the parser finds them."""

    width: int
    rows: list[tuple[int, int, str]] = field(default_factory=list)  # number of the row, values, text

    def __call__(self, row: Any) -> str:
        self.rows.append((row.number, row.actual_columns, row.text))
        return "skip" if len(self.rows) < _ODD_ROWS else "error"

    def explain(self, good: int, start: str, source: Source, header: Header) -> str:
        number, values, text = self.rows[0]
        if source.quote and text.count(source.quote) % 2:
            return f"{_unclosed(source)} (row {number:,}, {_shown(text)})"
        names = self.width - source.trailing_separator
        what = f"has {values:,} values in row {number:,} ({_shown(text)}) and {names:,} names in its header"
        surplus = {found - names for _, found, _ in self.rows}
        if source.trailing_separator and surplus == {0}:
            return f"{what}: its rows end without a separator; take trailing_separator out of its source"
        if good == 0 and surplus == {1}:
            if all(text.rstrip("\r\n").endswith(source.delimiter) for _, _, text in self.rows):
                return f"{what}: its rows end with a separator; declare trailing_separator=True in its source"
            return (
                f"{what}: its rows begin with a column that has no name, such as a number of the row, or end with one; "
                f"give it a name in the file, or declare skip_rows={header.lines} and names=(...) in its source"
            )
        first = header.lines + good + 1
        footer = [number for number, _, _ in self.rows]
        if good and len(footer) <= _FOOTER and footer == list(range(first, first + len(footer))):
            return f"{what}: where that is a footer, declare skip_last={len(footer)} in its source"
        many = f"{len(self.rows):,} rows" if len(self.rows) < _ODD_ROWS else f"{_ODD_ROWS:,} rows or more"
        return (
            f"{what}, and so it is in {many}: put values that hold the separator {source.delimiter!r} into quotes, or "
            "declare the right separator in its source"
        )


def _refuse_another_dialect(
    start: str, source: Source, wanted: Sequence[str], header: Header, places: Mapping[str, int]
) -> None:
    """Raises Refused where more of the declared names stand in the file when it is read in another way."""
    better = likely_dialect(start, source, wanted)
    if better is None:
        return
    found, remedy = better
    if found > len(places):
        raise Refused(
            f"has {len(places)} of the {len(set(wanted))} declared columns when it is read as declared, its header "
            f"being {_shown(source.delimiter.join(header.names))}: declare {remedy} in its source, which finds {found}"
        )


def likely_dialect(start: str, source: Source, wanted: Sequence[str]) -> tuple[int, str] | None:
    """How many of the wanted names another dialect finds in the first lines, and what declares it; the best one."""
    raw = set(wanted) | {old for old, new in source.rename.items() if new in wanted}
    best: tuple[int, int, str] | None = None
    for skipped, line in enumerate(start.splitlines()[:_PREAMBLE]):
        for separator in SEPARATORS:
            row = next(iter(csv.reader([line], delimiter=separator)), [])
            for trim in (False, True):
                names = {name.strip() if trim else name for name in row}
                changes = {
                    "skip_rows": (skipped, source.skip_rows),
                    "separator": (separator, source.delimiter),
                    "trim": (trim, source.trim),
                }
                remedy = {name: new for name, (new, old) in changes.items() if new != old}
                candidate = (len(names & raw), -len(remedy), ", ".join(f"{k}={v!r}" for k, v in remedy.items()))
                if candidate[0] and remedy and (best is None or candidate[:2] > best[:2]):
                    best = candidate
    return None if best is None else (best[0], best[2])


def _unclosed(source: Source) -> str:
    return (
        f"opens a quote ({source.quote}) that it does not close: close it, or declare quote='' in its source where "
        "quotes mean nothing"
    )


def _unparsed(cause: str, start: str, source: Source) -> str:
    if "straddling" in cause:
        return f"has a row of more than {_BLOCK >> 20} MiB, or {_unclosed(source)}"
    return f"cannot be read as {source.format} ({cause}), its first line is {_shown(start)}: upload a whole file"


def _shown(text: str) -> str:
    line = text.splitlines()[0] if text.splitlines() else ""
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...")
