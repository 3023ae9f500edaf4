"""The dashboards of charts/monitoring: what Grafana needs of them, their queries by promtool, Grafana beside them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from infrastructure import dashboard
from infrastructure.services import SECRET_NAME, USERNAME
from mlops.measure import METRICS
from tests.charts.conftest import ROOT, Refused, containers, environment, find, render, template, unrestricted
from tests.charts.test_rules import program
from tests.charts.test_services import GRAFANA

DASHBOARDS = dashboard.dashboards()
PANELS = [pytest.param(panel, id=f"{one['uid']} {panel['title']}") for one in DASHBOARDS for panel in one["panels"]]
EXPRESSIONS = [target["expr"] for one in DASHBOARDS for panel in one["panels"] for target in panel["targets"]]


def test_the_files_are_those_that_the_panels_make() -> None:
    command = [sys.executable, ROOT / "charts/dashboards.py", "--check"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def test_a_file_that_is_stale_fails_the_check_and_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "charts/monitoring/files/dashboards"
    folder.mkdir(parents=True)
    for name in ("panels", "dashboards"):
        (tmp_path / f"charts/{name}.py").write_text((ROOT / f"charts/{name}.py").read_text())
    write = [sys.executable, str(tmp_path / "charts/dashboards.py")]
    subprocess.run(write, check=True)
    stale, extra = folder / "1-overview.json", folder / "9-old.json"
    stale.write_text("{}")
    extra.write_text("{}")
    checked = subprocess.run([*write, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert re.findall(r"(\S+) is stale", checked.stderr) == [
        f"charts/monitoring/files/dashboards/{path.name}" for path in (stale, extra)
    ]
    assert stale.read_text() == "{}"
    subprocess.run(write, check=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in dashboard.DASHBOARDS.iterdir()
    )


# What Grafana needs


def test_each_dashboard_has_a_name_of_its_own_and_chooses_its_prometheus() -> None:
    assert [one["title"] for one in DASHBOARDS] == [
        f"Maestro: {name}" for name in ("overview", "DAGs", "pods", "training", "inference", "data quality", "sensors")
    ]
    assert len({one["uid"] for one in DASHBOARDS}) == len(DASHBOARDS)
    for one in DASHBOARDS:
        assert re.fullmatch(r"[a-z-]{1,40}", one["uid"]), "what Grafana takes, and an address bears"
        assert one["schemaVersion"] == 39
        assert one["time"] == {"from": "now-6h", "to": "now"}
        (variable,) = one["templating"]["list"]
        assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
        titles = [panel["title"] for panel in one["panels"]]
        assert len(titles) == len(set(titles)) >= 8


@pytest.mark.parametrize("panel", PANELS)
def test_each_panel_says_what_it_asks_whom_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["type"] in ("timeseries", "stat", "bargauge")
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["datasource"] == source
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == source
        assert (target["instant"], target["range"]) == ((panel["type"] != "timeseries"), panel["type"] == "timeseries")
        assert "$" not in target["expr"], "a page without Grafana knows no variable of Grafana's"
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            assert re.search(rf"by \([^)]*\b{label}\b[^)]*\)", target["expr"]), "one that its series have"
    names = [target["refId"] for target in panel["targets"]]
    assert len(names) == len(set(names))
    assert dashboard.told(1.0, panel["fieldConfig"]["defaults"]["unit"])


def test_panels_lie_on_the_grid_and_on_no_other() -> None:
    for one in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in one["panels"]:
            place = panel["gridPos"]
            own = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not own & taken, panel["title"]
            assert max(x for x, _ in own) < 24
            taken |= own
        assert [panel["id"] for panel in one["panels"]] == list(range(1, len(one["panels"]) + 1))


# Queries


def test_promtool_takes_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"panel_{number}", "expr": query} for number, query in enumerate(EXPRESSIONS)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in program("promtool", "check", "rules", "panels.yaml", within=tmp_path)


CASES = """
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      # Two that were there before the day, of which one began anew, and one that is new in it; then one
      # that began anew in the day in which it was new, and one that is gone.
      - {series: 'airflow_dag_run_success{dag_id="old"}', values: '4x1439 4+1x59 63x60'}
      - {series: 'airflow_dag_run_success{dag_id="anew"}', values: '9x1499 1x60'}
      - {series: 'airflow_dag_run_success{dag_id="new"}', values: '_x1499 3x60'}
      - {series: 'airflow_dag_run_success{dag_id="unsteady"}', values: '_x1399 0+1x50 0+1x40 40x60'}
      - {series: 'airflow_dag_run_success{dag_id="gone"}', values: '_x1399 1+1x6'}
      - {series: 'airflow_dagrun_total{dag_id="new"}', values: '_x1499 4x60'}
      # One pod that pushed within the day, and one that is still seen and did not.
      - series: 'maestro_command_records_total{group="inference",command="score",instance="a"}'
        values: '_x1499 500x60'
      - {series: 'push_time_seconds{job="maestro-pod",instance="a"}', values: '_x1499 90000x60'}
      - {series: 'maestro_command_records_total{group="inference",command="score",instance="b"}', values: '700x1500'}
      - {series: 'push_time_seconds{job="maestro-pod",instance="b"}', values: '60x1500'}
    promql_expr_test: []
"""


def expression(uid: str, title: str) -> str:
    (found,) = (p for one in DASHBOARDS if one["uid"] == f"maestro-{uid}" for p in one["panels"] if p["title"] == title)
    text: str = found["targets"][0]["expr"]
    return text


def test_what_is_new_in_a_day_counts_from_nothing_and_what_pods_pushed_is_added_up(tmp_path: Path) -> None:
    case = yaml.safe_load(CASES)
    expected: dict[str, list[tuple[str, float]]] = {
        expression("dags", "Success rate of a day"): [('{dag_id="new"}', 0.75)],
        expression("inference", "Batches: rows in a day"): [('{command="score"}', 500)],
        expression("dags", "Runs that ended in a day"): [
            ('{dag_id="old"}', 59),
            ('{dag_id="anew"}', 1),
            ('{dag_id="new"}', 3),
            ('{dag_id="unsteady"}', 90),
            ('{dag_id="gone"}', 7),
        ],
    }
    case["tests"][0]["promql_expr_test"] = [
        {"expr": query, "eval_time": "1520m", "exp_samples": [{"labels": a, "value": b} for a, b in samples]}
        for query, samples in expected.items()
    ]
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))
    program("promtool", "test", "rules", "case.yaml", within=tmp_path)


@pytest.mark.parametrize("name", [name for name in METRICS if name.endswith("_total")])
def test_what_pods_counted_is_asked_for_over_those_that_pushed(name: str) -> None:
    """It appears with its full value, and `rate` and `increase` look for changes."""
    for query in EXPRESSIONS:
        for found in re.finditer(rf"\b{name}\b", query):
            assert query[: found.start()].endswith("last_over_time("), query
            assert 'push_time_seconds{job="maestro-pod"}' in query


# In the cluster


def test_a_grafana_of_the_clusters_own_finds_them_by_the_usual_label() -> None:
    config_map = find(render("monitoring"), "ConfigMap", "maestro-dashboards")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert [json.loads(text) for _, text in sorted(config_map["data"].items())] == DASHBOARDS
    assert sum(map(len, config_map["data"].values())) < 500_000, "a ConfigMap holds a mebibyte"
    names = {entry["metadata"]["name"] for entry in render("monitoring", {"dashboards": {"enabled": False}})}
    assert "maestro-dashboards" not in names


def test_there_is_no_grafana_unless_somebody_names_its_image() -> None:
    assert not [entry for entry in render("monitoring") if "grafana" in entry["metadata"]["name"]]
    with pytest.raises(Refused, match=r"grafana\.image is empty: name an image"):
        render("monitoring", {"grafana": {"enabled": True}})


def grafana(**values: Any) -> dict[str, Any]:
    return {"grafana": {"enabled": True, "image": "example.com/grafana:1", **values}}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"prometheus": {"enabled": False}}, r"set grafana\.prometheusUrl"),
        ({"dashboards": {"enabled": False}}, r"dashboards\.enabled is false"),
    ],
)
def test_a_grafana_with_nothing_to_show_is_refused_with_the_remedy(more: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        render("monitoring", {**grafana(), **more})


def test_grafana_shows_the_dashboards_from_the_releases_prometheus_with_the_rights_of_all_pods() -> None:
    objects = render("monitoring", grafana())
    assert not unrestricted(objects)
    for entry in objects:
        kubernetes_validate.validate(entry, "1.36", strict=True)
    spec = find(objects, "Deployment", "maestro-grafana")["spec"]["template"]["spec"]
    (container,) = containers(spec)
    assert container["image"] == "example.com/grafana:1"
    told = environment(container)
    reference = told["GF_SECURITY_ADMIN_PASSWORD"]["secretKeyRef"]
    assert len(find(objects, "Secret", reference["name"])["data"][reference["key"]]) >= 24
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    files = {
        f"{mount['mountPath']}/{key}": text
        for mount in container["volumeMounts"]
        if (volume := volumes[mount["name"]].get("configMap"))
        for key, text in find(objects, "ConfigMap", volume["name"])["data"].items()
        if key in [item["key"] for item in volume.get("items", [{"key": key}])]
    }
    provisioning = "/etc/grafana/provisioning"
    (source,) = yaml.safe_load(files.pop(f"{provisioning}/datasources/prometheus.yaml"))["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://maestro-prometheus:9090")
    (provider,) = yaml.safe_load(files.pop(f"{provisioning}/dashboards/dashboards.yaml"))["providers"]
    assert {Path(path).parent for path in files} == {Path(provider["options"]["path"])}
    assert len(files) == len(DASHBOARDS)


def test_grafana_is_opened_by_what_its_service_says() -> None:
    service = find(render("monitoring", grafana()), "Service", "maestro-grafana")
    assert service["metadata"]["annotations"] == {SECRET_NAME: "maestro-grafana", USERNAME: "admin"}
    assert service["spec"]["ports"] == [{"name": "http", "port": 3000, "targetPort": "http"}]
    objects = render("monitoring", GRAFANA)
    assert find(objects, "Service", "maestro-grafana")["metadata"]["annotations"][SECRET_NAME] == "our-dashboards"
    assert not [
        entry for entry in objects if (entry["kind"], entry["metadata"]["name"]) == ("Secret", "maestro-grafana")
    ]


def test_with_the_operator_grafana_asks_the_prometheus_that_values_name() -> None:
    values = {"operator": {"enabled": True}, **grafana(prometheusUrl="http://prometheus-operated:9090")}
    text = template("monitoring", values, "maestro", "maestro", "--api-versions", "monitoring.coreos.com/v1")
    assert "url: http://prometheus-operated:9090" in text
