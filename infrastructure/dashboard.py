"""`make dashboard`: Grafana's panels on one page without Grafana, as the release's Prometheus fills them."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import requests

from infrastructure.release import NAMESPACE, RELEASE, NotInstalled
from infrastructure.services import port_forward, session
from mlops import plots
from mlops.page import page, table

ROOT = Path(__file__).resolve().parents[1]
DASHBOARDS = ROOT / "charts/monitoring/files/dashboards"
PAGE = ROOT / ".build/dashboard.html"
LONGEST = 6 * 3600  # seconds that are shown, less where Prometheus has less
SHORTEST = 600
POINTS = 72
TIMEOUT = 60

Values = dict[str, list[float]]  # by the name of a series: its value at each time, NaN where there is none


class QueryFailed(Exception):
    """A query that Prometheus did not answer. The message has its words."""


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus, asked at its address, and the times that are shown, in seconds since 1970."""

    url: str
    begin: int
    step: int

    @classmethod
    def at(cls, url: str, now: float | None = None) -> Prometheus:
        """One that shows all it has of the last hours. Raises QueryFailed."""
        end = int(now or time.time())
        longest = cls(url, end - LONGEST, LONGEST // POINTS)
        seen = [sample[0] for one in longest.ask("query_range", "count(up)") for sample in one["values"]]
        begin = max(end - LONGEST, min([*seen, end - SHORTEST]) - longest.step)
        step = max(1, math.ceil((end - begin) / POINTS))
        return cls(url, end - POINTS * step, step)

    @property
    def times(self) -> range:
        return range(self.begin, self.begin + POINTS * self.step + 1, self.step)

    def ask(self, path: str, query: str) -> list[dict[str, Any]]:
        """The series that answer a query, over the times or, by the path `query`, at the last of them."""
        last = self.begin + POINTS * self.step
        when = {"time": last} if path == "query" else {"start": self.begin, "end": last, "step": self.step}
        asked: dict[str, str | int] = {"query": query, **when}
        answer = session().get(f"{self.url}/api/v1/{path}", params=asked, timeout=TIMEOUT)
        try:
            said = answer.json()
        except requests.JSONDecodeError:
            said = {"error": answer.text[:200]}
        if said.get("status") != "success":
            raise QueryFailed(f"{answer.status_code} {said.get('error', '')}")
        found: list[dict[str, Any]] = said["data"]["result"]
        return found


def dashboards() -> list[dict[str, Any]]:
    """What Grafana is given, in the order of its files' names."""
    return [json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))]


def series(prometheus: Prometheus, panel: Mapping[str, Any]) -> Values:
    """What answers the queries of a panel: over the times, or of one that shows a number now, one value each.

    Series without a number are left out. Raises QueryFailed.
    """
    found: Values = {}
    for target in panel["targets"]:
        for one in prometheus.ask("query" if target["instant"] else "query_range", target["expr"]):
            if target["instant"]:
                values = [float(one["value"][1])]
            else:
                at = {round(moment): float(text) for moment, text in one["values"]}
                values = [at.get(moment, math.nan) for moment in prometheus.times]
            if any(map(math.isfinite, values)):
                found[name_of(target["legendFormat"], one["metric"])] = values
    return found


def name_of(legend: str, labels: Mapping[str, str]) -> str:
    """The name of a series, as Grafana makes it of {{label}}."""
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), legend).strip()


_LARGER = {
    "s": ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")),
    "bytes": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
    "percentunit": ((0.01, "%"),),
    "reqps": ((1, "/s"),),
    "short": ((1, ""),),
}


def told(value: float, unit: str) -> str:
    """A number with its unit, one of Grafana's, in three digits or, where it is larger, as a whole number."""
    if not math.isfinite(value):
        return "unknown"
    size, name = next((pair for pair in _LARGER[unit] if abs(value) >= pair[0]), _LARGER[unit][-1])
    number = value / size
    text = f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
    return f"{text} {name}".strip()


def drawn(prometheus: Prometheus, panel: Mapping[str, Any]) -> str:
    """A panel as HTML. Raises QueryFailed."""
    found, defaults = series(prometheus, panel), panel["fieldConfig"]["defaults"]

    def text(value: float) -> str:
        return told(value, defaults["unit"])

    if not found:
        return (
            f'<p class="note">No data{": " if "noValue" in defaults else ""}{escape(defaults.get("noValue", ""))}.</p>'
        )
    if panel["type"] == "timeseries":
        moments = [f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}" for moment in prometheus.times]
        return plots.lines(moments, found, panel["title"], text) + _legend(found, text)
    last = {name: text(values[-1]) for name, values in sorted(found.items(), key=lambda item: -item[1][-1])}
    if panel["type"] == "stat":
        return "".join(f'<p><span class="value">{value}</span> {escape(name)}</p>' for name, value in last.items())
    return table((), list(last.items()))


def _legend(found: Values, text: Callable[[float], str]) -> str:
    """The series by their colours, each with its value of now, where it has one."""
    last = {name: f"{name} {text(values[-1])}" if math.isfinite(values[-1]) else name for name, values in found.items()}
    names = (
        f'<span class="s{i % plots.COLOURS}">● {escape(one.strip())}</span> ' for i, one in enumerate(last.values())
    )
    return f'<p class="legend">{"".join(names)}</p>'


def sections(prometheus: Prometheus, shown: Sequence[Mapping[str, Any]], failed: list[str]) -> Iterator[str]:
    """Each dashboard as HTML. Appends to `failed` the panels that Prometheus did not answer; they say why."""
    for dashboard in shown:
        yield f'<h2 id="{dashboard["uid"]}">{escape(dashboard["title"])}</h2><div class="panels">'
        for panel in dashboard["panels"]:
            try:
                body = drawn(prometheus, panel)
            except (QueryFailed, requests.RequestException) as error:
                failed.append(f"{dashboard['title']}, {panel['title']}: {error}")
                body = f'<p class="failed">Prometheus gave no answer: {escape(str(error))}</p>'
            yield f"<section><h3>{escape(panel['title'])}</h3>{body}</section>"
        yield "</div>"


def draw(url: str, path: Path) -> list[str]:
    """Writes the page of a Prometheus at this address; returns what it gave no answer to. Raises QueryFailed."""
    prometheus, shown, failed = Prometheus.at(url), dashboards(), list[str]()
    begin, end = (f"{datetime.fromtimestamp(prometheus.times[at], UTC):%Y-%m-%d %H:%M}" for at in (0, -1))
    links = " · ".join(f'<a href="#{one["uid"]}">{escape(one["title"])}</a>' for one in shown)
    head = f"<p>Release {escape(RELEASE)} in namespace {escape(NAMESPACE)}, {begin} to {end} UTC.</p><p>{links}</p>"
    body = head + "".join(sections(prometheus, shown, failed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page("Maestro: dashboards", body))
    return failed


def main() -> int:
    try:
        with port_forward("prometheus") as url:
            failed = draw(url, PAGE)
    except (NotInstalled, QueryFailed, requests.RequestException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    print(PAGE)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
