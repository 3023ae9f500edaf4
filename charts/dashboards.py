"""Makes the dashboards of charts/monitoring, as Grafana reads them, from charts/panels.py.

python charts/dashboards.py            write them
python charts/dashboards.py --check    fail where one is stale
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panels import DASHBOARDS, Dashboard, Panel

FOLDER = Path(__file__).resolve().parent / "monitoring/files/dashboards"
_WIDTHS = {"timeseries": 12, "stat": 6, "bargauge": 12}  # of a grid of 24
_HEIGHTS = {"timeseries": 8, "stat": 4, "bargauge": 8}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def placed(panels: Sequence[Panel]) -> list[dict[str, int]]:
    """Where each is on a grid 24 wide: side by side, as many as fit."""
    places, x, y, row = [], 0, 0, 0
    for panel in panels:
        width, height = _WIDTHS[panel.kind], _HEIGHTS[panel.kind]
        if x + width > 24:
            x, y, row = 0, y + row, 0
        places.append({"h": height, "w": width, "x": x, "y": y})
        x, row = x + width, max(row, height)
    return places


def panel_model(number: int, panel: Panel, place: Mapping[str, int]) -> dict[str, Any]:
    """A panel as Grafana has it."""
    over_time = panel.kind == "timeseries"
    shown = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    options = {
        "timeseries": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "stat": {"reduceOptions": shown, "colorMode": "none", "graphMode": "none"},
        "bargauge": {"reduceOptions": shown, "orientation": "horizontal", "displayMode": "basic"},
    }[panel.kind]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "gridPos": dict(place),
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, **({"noValue": panel.none} if panel.none else {})},
            "overrides": [],
        },
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query,
                "legendFormat": name,
                "instant": not over_time,
                "range": over_time,
            }
            for index, (name, query) in enumerate(panel.queries.items())
        ],
    }


def dashboard_model(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana imports it; its Prometheus is chosen by a variable, so that it fits any Grafana."""
    variable = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}
    others = {"type": "dashboards", "title": "Maestro", "tags": ["maestro"], "asDropdown": True, "keepTime": True}
    return {
        "uid": f"maestro-{dashboard.uid}",
        "title": dashboard.title,
        "tags": ["maestro"],
        "schemaVersion": 39,
        "editable": True,
        "timezone": "utc",
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "1m",
        "links": [others],
        "annotations": {"list": []},
        "templating": {"list": [variable]},
        "panels": [
            panel_model(number, panel, place)
            for number, (panel, place) in enumerate(zip(dashboard.panels, placed(dashboard.panels), strict=True), 1)
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where something is stale")
    check = parser.parse_args().check
    # The number keeps their order: the overview comes first.
    made = {
        FOLDER / f"{number}-{dashboard.uid}.json": json.dumps(dashboard_model(dashboard), indent=1) + "\n"
        for number, dashboard in enumerate(DASHBOARDS, 1)
    }
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    extra = [path for path in FOLDER.glob("*.json") if path not in made]
    for path in (*stale, *extra):
        if check:
            print(
                f"{path.relative_to(FOLDER.parents[3])} is stale: run 'python3 charts/dashboards.py'", file=sys.stderr
            )
        elif path in made:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made[path])
        else:
            path.unlink()
    return 1 if check and (stale or extra) else 0


if __name__ == "__main__":
    sys.exit(main())
