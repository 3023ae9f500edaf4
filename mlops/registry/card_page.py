"""The card of a model as a page: its Markdown as HTML, with a plot of the calibration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from html import escape

from mlops.page import page
from mlops.plots import lines

FILE = "model_card.html"


def as_html(markdown: str, calibration: str | None = None) -> str:
    """A page of the Markdown that `card` writes: headings, paragraphs, tables, lists, `code`, and nothing else of it.

    calibration: the file of that name of the run (mlops/training/calibration.py).
    """
    title, _, body = markdown.partition("\n")
    blocks = [_block(block.splitlines()) for block in re.split(r"\n\s*\n", body) if block.strip()]
    return page(title.removeprefix("# "), "".join(blocks) + (_calibration(calibration) if calibration else ""))


def _block(rows: Sequence[str]) -> str:
    """A block ends at an empty line; a table or a list may follow a paragraph without one."""
    if rows[0].startswith("## "):
        return f"<h2>{_text(rows[0][3:])}</h2>" + (_block(rows[1:]) if rows[1:] else "")
    kind = _kind(rows[0])
    end = next((place for place, row in enumerate(rows) if _kind(row) != kind and not _goes_on(row, kind)), len(rows))
    made = {"table": _table, "list": _list, "text": _paragraph}[kind](rows[:end])
    return made + (_block(rows[end:]) if rows[end:] else "")


def _kind(row: str) -> str:
    return "table" if row.startswith("|") else "list" if row.startswith("- ") else "text"


def _goes_on(row: str, kind: str) -> bool:
    return kind == "list" and row.startswith("  ")


def _table(rows: Sequence[str]) -> str:
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    numbers = [cell.endswith(":") for cell in cells[1]]
    head, *body = [cells[0], *cells[2:]]
    return f"<table>{_row('th', head, numbers)}{''.join(_row('td', row, numbers) for row in body)}</table>"


def _row(tag: str, cells: Sequence[str], numbers: Sequence[bool]) -> str:
    classes = (' class="n"' if number else "" for number in numbers)
    return "<tr>" + "".join(f"<{tag}{of}>{_text(c)}</{tag}>" for c, of in zip(cells, classes, strict=True)) + "</tr>"


def _list(rows: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in _items(rows)) + "</ul>"


def _items(rows: Sequence[str]) -> Iterator[str]:
    for item in re.split(r"^- ", "\n".join(rows), flags=re.MULTILINE)[1:]:
        yield " ".join(item.split())


def _paragraph(rows: Sequence[str]) -> str:
    return f"<p>{_text(' '.join(rows))}</p>"


def _text(markdown: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(markdown, quote=False))


def _calibration(content: str) -> str:
    bins = json.loads(content)["bins"]
    series = {"predicted": [each["predicted"] for each in bins], "observed": [each["observed"] for each in bins]}
    plot = lines([f"{each['rows']} rows" for each in bins], series, "calibration", "{:.1%}".format)
    said = "Rows of the test set in ten parts of rising probability: what was said of each, and how many were positive."
    return f"<h2>Calibration</h2><p>{said}</p>{plot}"
