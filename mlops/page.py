"""A report as one HTML page that needs nothing beside it: no script, no style sheet, no picture."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { border-bottom: 1px solid #d5dbe1; margin-top: 2.5rem } h3 { margin-bottom: .2rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .2rem .8rem .2rem 0 }
th { border-bottom: 1px solid #8795a1 } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
svg { width: 100%; max-width: 35rem; font-size: 11px; overflow: visible }
svg line { stroke: #8795a1 } svg text { fill: #5b6975 }
.r { fill: #9fb3c8 } .b { fill: #d9822b } .key.r { color: #7c93aa } .key.b { color: #d9822b }
.passed { color: #1f7a4d } .failed, .broke, .alert { color: #b3261e; font-weight: 600 } .note { color: #5b6975 }
svg path { fill: none; stroke: currentColor; stroke-width: 1.5; stroke-linecap: round } svg .all { fill: transparent }
.s0 { color: #2f6db5 } .s1 { color: #d9822b } .s2 { color: #1f7a4d } .s3 { color: #b3261e } .s4 { color: #7a4fa3 }
.s5 { color: #8c6d31 } .s6 { color: #c2528b } .s7 { color: #5b6975 } .s8 { color: #8a9a1b } .s9 { color: #1795a8 }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 0 2rem }
.value { font-size: 1.8rem } .legend { font-size: .8rem; line-height: 1.4 }
.legend span { white-space: nowrap; margin-right: 1em }
"""


def page(title: str, body: str) -> str:
    """title: text; body: HTML."""
    name = escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{name}</h1>{body}</body></html>"
    )


class Link(NamedTuple):
    """A word that leads somewhere, in the page's own window: a report may open no other."""

    text: str
    address: str

    def __str__(self) -> str:
        return self.text

    @property
    def html(self) -> str:
        return f'<a href="{escape(self.address)}">{escape(self.text)}</a>'


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows of any values as text, and of links; without a row of names where the header has none."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header) if any(header) else ""
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>" if head else f"<table>{body}</table>"


def _cell(value: object) -> str:
    return value.html if isinstance(value, Link) else escape(str(value))
