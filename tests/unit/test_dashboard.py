"""`make dashboard` from a real Prometheus that has recorded an hour, and what it says where there is none."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from infrastructure import dashboard
from infrastructure.dashboard import Prometheus, QueryFailed, name_of, told
from tests.conftest import ROOT, free_ports, running
from tests.processes import is_healthy
from tests.unit.programs import put_service, services_case, stand_in

NOW = int(time.time()) // 60 * 60
RECORDED = {
    'up{job="mlflow"}': lambda minute: 1,
    'up{job="feast"}': lambda minute: 0 if 20 <= minute < 30 else 1,
    'airflow_db_tasks_count{state="running"}': lambda minute: 4 if minute < 50 else 7,
    'airflow_db_tasks_count{state="queued"}': lambda minute: 2,
    'pg_database_size_bytes{datname="<b>"}': lambda minute: 3 * 2**20,
    "maestro_sensor_model_version{}": lambda minute: 6,
}
KUBECTL = """#!/bin/sh
case "$*" in
  *port-forward*) echo 'Forwarding from 127.0.0.1:{port} -> 9090'; exec sleep 60;;
  {services}
  *) exit 1;;
esac
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with an hour of a few series."""
    folder = tmp_path_factory.mktemp("prometheus")
    lines = [
        f"{series} {value(minute)} {NOW - 3600 + 60 * minute}\n"
        for series, value in RECORDED.items()
        for minute in range(60 + 1)
    ]
    (folder / "recorded").write_text("".join(lines) + "# EOF\n")
    (folder / "p.yaml").write_text("global: {}\n")
    record = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "recorded", "data"]
    subprocess.run(record, cwd=folder, check=True, capture_output=True)
    (port,) = free_ports(1)
    command = ["prometheus", f"--config.file={folder}/p.yaml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with running(command, folder / "log", lambda: is_healthy(f"http://127.0.0.1:{port}/-/ready")):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def page(url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """As drawn at NOW, which may be minutes ago on a busy machine: Prometheus shows no number that is five old."""
    path = tmp_path_factory.mktemp("page") / "dashboard.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: float(NOW))
        assert dashboard.draw(url, path) == [], "each query is answered"
    return path.read_text()


def section(page: str, title: str) -> str:
    (found,) = re.findall(rf"<section><h3>{re.escape(title)}</h3>(.*?)</section>", page, re.DOTALL)
    return str(found)


def test_all_panels_of_all_dashboards_are_on_one_page_that_loads_nothing(page: str) -> None:
    shown = dashboard.dashboards()
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page) == [one["title"] for one in shown]
    assert [unescape(title) for title in re.findall(r"<h3>(.*?)</h3>", page)] == [
        panel["title"] for one in shown for panel in one["panels"]
    ]
    assert not re.search(r"<script|<link|<img|src=|https?:|url\(|@import", page)
    assert set(re.findall(r'href="(.)', page)) == {"#"}


def test_a_plot_draws_each_series_and_tells_all_values_of_the_time_that_is_pointed_at(page: str) -> None:
    plot = section(page, "Tasks by state")
    assert plot.count("<path") == 2
    hovers = [unescape(text).split("\n") for text in re.findall(r"<title>(.*?)</title>", plot, re.DOTALL)]
    assert hovers[-2][1:] == ["running 7", "queued 2"]
    assert hovers[10][1:] == ["running 4", "queued 2"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", hovers[0][0])
    assert re.findall(r"● (.*?)</span>", plot) == ["queued 2", "running 7"]


def test_the_range_is_what_prometheus_has_and_no_longer(url: str) -> None:
    times = Prometheus.at(url, NOW).times
    assert NOW - 3600 - 2 * 300 <= times[0] <= NOW - 3600
    assert times[-1] == NOW
    assert len(times) == dashboard.POINTS + 1


def test_a_gap_stays_one(url: str) -> None:
    asked = Prometheus.at(url, NOW)
    panel = {"targets": [{"expr": 'up{job="feast"} == 1', "legendFormat": "{{job}}", "instant": False}]}
    (values,) = dashboard.series(asked, panel).values()
    missing = [t for t, value in zip(asked.times, values, strict=True) if value != value and t > NOW - 3600]
    assert min(missing) >= NOW - 40 * 60
    assert max(missing) < NOW - 30 * 60
    drawn = dashboard.drawn(
        asked, {**panel, "type": "timeseries", "title": "t", "fieldConfig": {"defaults": {"unit": "short"}}}
    )
    (line,) = re.findall(r' d="(.*?)"', drawn)
    assert line.count("M") == 2


def test_a_number_of_now_is_shown_with_its_unit(page: str) -> None:
    assert '<span class="value">2</span>' in section(page, "Tasks that wait for a slot")
    assert "● &lt;b&gt; 3 MiB" in section(page, "Databases and Redis"), "no name is markup"


def test_a_panel_without_data_says_so_and_why_that_may_be(page: str) -> None:
    assert section(page, "Alerts") == '<p class="note">No data: no alert has fired.</p>'
    assert section(page, "Executor") == '<p class="note">No data.</p>'


def test_a_query_that_is_refused_is_told_on_the_page_and_by_its_panel(url: str, tmp_path: Path, monkeypatch) -> None:
    (folder := tmp_path / "dashboards").mkdir()
    one = dashboard.dashboards()[0]
    one["panels"][0]["targets"][0]["expr"] = "sum("
    (folder / "a.json").write_text(json.dumps(one))
    monkeypatch.setattr(dashboard, "DASHBOARDS", folder)
    (failed,) = dashboard.draw(url, tmp_path / "page.html")
    assert failed.startswith("Maestro: overview, Alerts now: 400 ")
    text = section((tmp_path / "page.html").read_text(), "Alerts now")
    assert "Prometheus gave no answer: 400 " in text
    assert "parse error" in text


def test_what_is_no_prometheus_is_told(url: str) -> None:
    with pytest.raises(QueryFailed, match="404"):
        Prometheus.at(f"{url}/elsewhere")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        *((0.0, "s", "0 ms"), (0.0042, "s", "4.2 ms"), (59, "s", "59 s"), (5400, "s", "1.5 h"), (-90, "s", "-1.5 min")),
        *((0.9987, "percentunit", "99.9 %"), (1, "percentunit", "100 %"), (0, "percentunit", "0 %")),
        *((1023, "bytes", "1,023 B"), (2**31, "bytes", "2 GiB"), (0.125, "reqps", "0.125 /s")),
        *((49097, "short", "49,097"), (0.001234, "short", "0.00123"), (float("nan"), "short", "unknown")),
    ],
)
def test_a_number_is_written_with_a_unit_of_its_size(value: float, unit: str, text: str) -> None:
    assert told(value, unit) == text


def test_a_series_is_called_as_grafana_calls_it() -> None:
    assert name_of("{{dag_id}} {{state}}", {"dag_id": "train", "state": "failed"}) == "train failed"
    assert name_of("{{dag_id}} {{state}}", {"dag_id": "train"}) == "train"
    assert name_of("", {"job": "x"}) == ""


def test_the_program_ends_with_the_path_of_the_page(url: str, tmp_path: Path, monkeypatch, capsys) -> None:
    put_service(tmp_path, "prometheus", {"http": 9090}, {})
    script = KUBECTL.format(port=url.rpartition(":")[2], services=services_case(tmp_path))
    stand_in(tmp_path, monkeypatch, "kubectl", script)
    monkeypatch.setattr(dashboard, "PAGE", tmp_path / "out/dashboard.html")
    assert dashboard.main() == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path == tmp_path / "out/dashboard.html"
    assert "Maestro: overview" in path.read_text()


def test_a_release_without_a_prometheus_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "kubectl", KUBECTL.format(port=1, services=services_case(tmp_path)))
    command = [sys.executable, "-m", "infrastructure.dashboard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'no service of release "maestro" with component "prometheus"' in done.stderr
