"""Plots as SVG text for a page that loads nothing."""

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _MARGIN = 560, 150, 18


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
