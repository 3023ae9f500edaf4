"""Plots as SVG text for a page that loads nothing."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _MARGIN = 560, 150, 18
COLOURS = 10  # the classes s0 to s9 of mlops/page.py


def histogram(labels: Sequence[str], reference: Sequence[float], batch: Sequence[float], title: str) -> str:
    """Two shares side by side for each bin; a bin tells its numbers when it is pointed at."""
    top = max([*reference, *batch, 1e-9])
    step = _WIDTH / max(1, len(labels))
    drawn = []
    for index, (label, r, b) in enumerate(zip(labels, reference, batch, strict=True)):
        told = f"<title>{escape(label)}: reference {r:.2%}, batch {b:.2%}</title>"
        for part, (share, name) in enumerate(((r, "r"), (b, "b"))):
            height = share / top * _HEIGHT
            x = index * step + (0.08 + 0.42 * part) * step
            drawn.append(
                f'<rect class="{name}" x="{x:.1f}" y="{_HEIGHT - height:.1f}" width="{0.42 * step:.1f}" '
                f'height="{height:.1f}">{told}</rect>'
            )
    return _drawn(drawn, labels, title)


def bars(labels: Sequence[str], values: Sequence[float], title: str, told: str) -> str:
    """A bar for each value, from 0 on. told: the format in which a bar tells its number when it is pointed at."""
    top, step = max([*values, 1e-9]), _WIDTH / max(1, len(labels))
    drawn = []
    for index, (label, value) in enumerate(zip(labels, values, strict=True)):
        height = max(0.0, value) / top * _HEIGHT
        drawn.append(
            f'<rect class="b" x="{(index + 0.1) * step:.1f}" y="{_HEIGHT - height:.1f}" width="{0.8 * step:.1f}" '
            f'height="{height:.1f}"><title>{escape(label)}: {escape(told.format(value))}</title></rect>'
        )
    return _drawn(drawn, labels, title)


def lines(times: Sequence[str], series: Mapping[str, Sequence[float]], title: str, told: Callable[[float], str]) -> str:
    """A line for each series, which has a value for each time, or NaN where there is a gap.

    told: how a value is written. A time that is pointed at tells the values of all series, the largest first.
    """
    known = [value for values in series.values() for value in values if math.isfinite(value)]
    top, bottom = max([*known, 0.0]), min([*known, 0.0])
    height, step = (top - bottom) or 1.0, _WIDTH / max(1, len(times))

    def place(index: int, value: float) -> str:
        return f"{(index + 0.5) * step:.1f},{(top - value) / height * _HEIGHT:.1f}"

    drawn = [
        f'<path class="s{number % COLOURS}" d="{_path(values, place)}"/>'
        for number, values in enumerate(series.values())
    ]
    for index, time in enumerate(times):
        here = {name: values[index] for name, values in series.items() if math.isfinite(values[index])}
        rows = [f"{name} {told(value)}".strip() for name, value in sorted(here.items(), key=lambda item: -item[1])]
        drawn.append(
            f'<rect class="all" x="{index * step:.1f}" y="0" width="{step:.1f}" height="{_HEIGHT}">'
            f"<title>{escape(chr(10).join([time, *rows]))}</title></rect>"
        )
    if known:
        drawn.append(f'<text x="2" y="11">{escape(told(top))}</text>')
    return _drawn(drawn, times, title)


def _path(values: Sequence[float], place: Callable[[int, float], str]) -> str:
    """The values as an SVG path; it begins anew after a gap, and a value between two gaps is a dot."""
    parts, begun = [], False
    for index, value in enumerate(values):
        if math.isfinite(value):
            point = place(index, value)
            parts.append(f"L{point}" if begun else f"M{point}L{point}")
        begun = math.isfinite(value)
    return "".join(parts)


def _drawn(shapes: Sequence[str], labels: Sequence[str], title: str) -> str:
    ends = ""
    if labels:
        y = _HEIGHT + _MARGIN - 4
        ends = f'<text x="0" y="{y}">{escape(_short(labels[0]))}</text>'
        ends += f'<text x="{_WIDTH}" y="{y}" text-anchor="end">{escape(_short(labels[-1]))}</text>'
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _MARGIN}" role="img" aria-label="{escape(title)}">'
        f'{"".join(shapes)}<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>{ends}</svg>'
    )


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:39]}…"
