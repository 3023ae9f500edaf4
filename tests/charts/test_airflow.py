"""charts/airflow: what its objects say to Kubernetes and to Airflow."""

import base64
import importlib.util
import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops.airflow.guard import LIMITS
from mlops.airflow.internals import liveness
from mlops.masking import SECRETS
from tests.charts.conftest import ROOT, Object, Refused, containers, environment, find, render
from tests.charts.profiles import platform as platform_of

AIRFLOW = Path(next(iter(importlib.util.find_spec("airflow").submodule_search_locations)))
SLACK = {"global": {"notifications": {"slackWebhookSecret": "slack"}}}
COMBINED = {"scheduler": {"withApiServer": True}}


def airflow(values: dict[str, Any] | None = None) -> list[Object]:
    return render("airflow", values)


def deployment(part: str, objects: list[Object]) -> Object:
    return find(objects, "Deployment", f"maestro-airflow-{part}")


def template_of(part: str, objects: list[Object]) -> Object:
    template: Object = deployment(part, objects)["spec"]["template"]
    return template


def container(name: str, spec: Object) -> Object:
    (found,) = (entry for entry in containers(spec) if entry["name"] == name)
    return found


def cfg(objects: list[Object]) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.read_string(find(objects, "ConfigMap", "maestro-airflow-config")["data"]["airflow.cfg"])
    return parser


def settings(objects: list[Object]) -> Object:
    loaded: Object = yaml.safe_load(find(objects, "Secret", "maestro-airflow-setup")["stringData"]["settings.yaml"])
    return loaded


def setup_job(objects: list[Object]) -> Object:
    (job,) = (entry for entry in objects if entry["kind"] == "Job")
    return job


def setup_container(objects: list[Object]) -> Object:
    (found,) = setup_job(objects)["spec"]["template"]["spec"]["containers"]
    return found


# Configuration


def test_every_setting_of_airflow_cfg_is_one_that_airflow_knows() -> None:
    known = yaml.safe_load((AIRFLOW / "config_templates/config.yml").read_text())
    parser = cfg(airflow())
    unknown = [
        f"[{section}] {key}"
        for section in parser.sections()
        for key in parser[section]
        if section != "maestro" and key not in known.get(section, {}).get("options", {})
    ]
    assert not unknown
    assert {key: int(value) for key, value in parser["maestro"].items()} == LIMITS


def test_airflow_is_told_addresses_from_the_one_place_that_holds_them() -> None:
    services = {"airflow": {"name": "flow", "port": 81}, "statsd": {"name": "stats", "port": 82}}
    parser = cfg(airflow({"global": {"services": services, "buckets": {"logs": "elsewhere"}}}))
    assert parser["core"]["execution_api_server_url"] == "http://flow:81/execution/"
    assert (parser["metrics"]["statsd_host"], parser["metrics"]["statsd_port"]) == ("stats", "82")
    assert parser["logging"]["remote_base_log_folder"] == "s3://elsewhere"


def test_each_component_knows_which_entries_of_its_environment_are_secret() -> None:
    """Those of values too, so that no task that runs in it prints one into its log."""
    own = {"name": "OWN", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "own"}}}
    objects = airflow({**SLACK, "env": [own, {"name": "PLAIN", "value": "seen"}]})
    for part in ("scheduler", "triggerer", "dag-processor", "api-server"):
        told = environment(container(part, template_of(part, objects)["spec"]))
        secret = [name for name, value in told.items() if "secretKeyRef" in value]
        assert told[SECRETS].split(",") == secret
        assert "OWN" in secret and "PGPASSWORD" in secret


def test_no_password_stands_in_the_configuration_or_in_a_literal_of_the_environment() -> None:
    objects = airflow()
    secrets = find(objects, "Secret", "maestro-airflow")["data"]
    values = [base64.b64decode(value).decode() for value in secrets.values()]
    elsewhere = yaml.safe_dump([entry for entry in objects if entry["kind"] != "Secret"])
    assert not [value for value in values if value in elsewhere]
    assert ":@" not in cfg(objects)["database"]["sql_alchemy_conn"]
    assert (
        cfg(objects)["database"]["sql_alchemy_conn"] == "postgresql+psycopg2://airflow@maestro-postgresql:5432/airflow"
    )


def test_the_fernet_key_is_one() -> None:
    from cryptography.fernet import Fernet

    key = base64.b64decode(find(airflow(), "Secret", "maestro-airflow")["data"]["fernet-key"])
    assert Fernet(key).decrypt(Fernet(key).encrypt(b"text")) == b"text"


def test_existing_secrets_take_the_place_of_the_charts_own() -> None:
    values = {
        "fernetKeySecretName": "mine-1",
        "apiSecretKeySecretName": "mine-2",
        "jwtSecretName": "mine-3",
        "adminUser": {"existingSecret": "mine-4"},
        "global": {"airflow": {"readOnlyUser": {"existingSecret": "mine-5"}}},
    }
    objects = airflow(values)
    api_server = container("api-server", template_of("api-server", objects)["spec"])
    seen = environment(setup_container(objects)) | environment(api_server)
    for key, secret in (
        ("AIRFLOW__CORE__FERNET_KEY", "mine-1"),
        ("AIRFLOW__API__SECRET_KEY", "mine-2"),
        ("AIRFLOW__API_AUTH__JWT_SECRET", "mine-3"),
        ("MAESTRO_ADMIN_PASSWORD", "mine-4"),
        ("MAESTRO_READ_ONLY_PASSWORD", "mine-5"),
    ):
        assert seen[key]["secretKeyRef"]["name"] == secret


def test_pods_restart_when_their_configuration_changes_and_only_then() -> None:
    before = airflow()
    same = airflow()
    changed = airflow({"config": {"core": {"parallelism": "2"}}})
    for part in ("scheduler", "api-server", "dag-processor", "triggerer"):
        assert template_of(part, before) == template_of(part, same)
        assert template_of(part, before) != template_of(part, changed)


# The setup Job and who waits for it


def test_pods_wait_for_exactly_what_the_setup_job_marks() -> None:
    objects = airflow()
    _, _, script = setup_job(objects)["spec"]["template"]["spec"]["containers"][0]["args"]
    marked = set(re.findall(r"release-gate mark (\S+ \S+)", script))
    waited = set()
    for part in ("scheduler", "api-server", "dag-processor", "triggerer"):
        first = template_of(part, objects)["spec"]["initContainers"][0]
        assert first["args"][:2] == ["release-gate", "wait"]
        waited.add(f"{first['args'][2]} {first['args'][3]}")
    assert waited == marked


def test_a_wrong_setting_leaves_the_other_pods_their_schema() -> None:
    *_, script = setup_container(airflow())["args"]
    assert re.findall(r"setup (\S+)|mark (\S+)", script) == [
        ("migrate", ""),
        ("", "airflow"),
        ("apply", ""),
        ("", "airflow-settings"),
    ]


def test_new_settings_make_a_new_job_and_restart_nothing_but_the_pod_that_waits_for_them() -> None:
    before, after = airflow(), airflow({"variables": {"model_f1_threshold": "0.9"}})
    assert setup_job(before)["metadata"]["name"] != setup_job(after)["metadata"]["name"]
    assert template_of("dag-processor", before) != template_of("dag-processor", after)
    for part in ("scheduler", "api-server", "triggerer"):
        assert template_of(part, before) == template_of(part, after)


def test_a_new_airflow_image_makes_every_component_wait_for_its_migration() -> None:
    before, after = airflow(), airflow({"global": {"images": {"tags": {"airflow": "new"}}}})
    assert setup_job(before)["metadata"]["name"] != setup_job(after)["metadata"]["name"]
    for part in ("scheduler", "api-server", "dag-processor", "triggerer"):
        gates = [template_of(part, objects)["spec"]["initContainers"][0]["args"] for objects in (before, after)]
        assert gates[0] != gates[1]


def test_a_new_task_image_restarts_the_scheduler_alone() -> None:
    before, after = airflow(), airflow({"global": {"images": {"tags": {"task": "new"}}}})
    assert template_of("scheduler", before) != template_of("scheduler", after)
    for part in ("api-server", "dag-processor", "triggerer"):
        assert template_of(part, before) == template_of(part, after)


def test_connections_are_templates_and_secrets_in_them_stay_in_their_secret() -> None:
    values = {
        "connections": {
            "warehouse": {
                "conn_type": "postgres",
                "host": "{{ .Release.Name }}-db",
                "password": {"secretKeyRef": {"name": "warehouse", "key": "password"}},
                "extra": {"nested": {"secretKeyRef": {"name": "warehouse", "key": "token"}}},
            }
        },
        "variables": {"hook": {"secretKeyRef": {"name": "slack", "key": "url", "optional": True}}},
    }
    objects = airflow(values)
    declared = settings(objects)
    warehouse = declared["connections"]["warehouse"]
    assert warehouse["host"] == "maestro-db"
    seen = environment(setup_job(objects)["spec"]["template"]["spec"]["containers"][0])
    assert seen[warehouse["password"]["environment"]]["secretKeyRef"] == {"name": "warehouse", "key": "password"}
    assert seen[warehouse["extra"]["nested"]["environment"]]["secretKeyRef"] == {"name": "warehouse", "key": "token"}
    assert seen[declared["variables"]["hook"]["environment"]]["secretKeyRef"]["optional"] is True


def test_the_webhooks_address_is_in_the_environment_and_no_variable() -> None:
    objects = airflow(SLACK)
    assert settings(objects)["variables"] == settings(airflow())["variables"]
    for part in ("scheduler", "dag-processor", "triggerer"):
        told = environment(container(part, template_of(part, objects)["spec"]))
        reference = told["MAESTRO_SLACK_WEBHOOK_URL"]["secretKeyRef"]
        assert reference == {"name": "slack", "key": "url", "optional": True}


def test_a_secret_whose_name_is_a_template_is_none_where_that_is_empty() -> None:
    name = "{{ .Values.global.notifications.slackWebhookSecret }}"
    own = {"variables": {"hook": {"secretKeyRef": {"name": name, "key": "url"}}}}
    assert "hook" not in settings(airflow(own))["variables"]
    assert not [name for name in environment(setup_container(airflow(own))) if name.startswith("SECRET_")]
    objects = airflow({**own, **SLACK})
    key = settings(objects)["variables"]["hook"]["environment"]
    assert environment(setup_container(objects))[key]["secretKeyRef"] == {"name": "slack", "key": "url"}


def test_the_object_store_is_declared_from_the_one_place_that_holds_it() -> None:
    shared = {"services": {"minio": {"name": "objects", "port": 81}}, "s3": {"external": {"region": "moon"}}}
    declared = settings(airflow({"global": shared}))["connections"]["aws_default"]
    assert declared["extra"] == {"endpoint_url": "http://objects:81", "region_name": "moon"}


def test_a_value_removed_with_null_is_no_longer_declared() -> None:
    declared = settings(airflow({"connections": {"aws_default": None}, "variables": {"alert_email": None}}))
    assert "aws_default" not in declared["connections"]
    assert "alert_email" not in declared["variables"]


def test_addresses_and_login_of_mail_come_from_its_secret() -> None:
    objects = airflow({"global": {"notifications": {"mail": {"host": "smtp.example.com", "existingSecret": "mail"}}}})
    for part in ("scheduler", "dag-processor", "triggerer"):
        told = environment(container(part, template_of(part, objects)["spec"]))
        for key in ("from", "to", "username", "password"):
            reference = told[f"MAESTRO_MAIL_{key.upper()}"]["secretKeyRef"]
            assert reference == {"name": "mail", "key": key, "optional": True}


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"global": {"notifications": {"mail": {"host": "smtp.example.com"}}}}, "existingSecret to a Secret"),
        ({"global": {"notifications": {"mail": {"existingSecret": "mail"}}}}, "set host to the mail server"),
        ({"variables": {"alert_email": "ml@example.com"}}, "set global.notifications.mail.host"),
    ],
)
def test_mail_of_which_half_is_said_is_refused_with_the_remedy(values: dict[str, Any], remedy: str) -> None:
    with pytest.raises(Refused, match=remedy):
        airflow(values)


def test_what_an_earlier_chart_declared_may_be_declared_by_people_and_is_whole_then() -> None:
    own = {"conn_type": "http", "host": "our-mlflow", "port": 80}
    values = {"connections": {"mlflow_default": own}, "variables": {"feature_offline_store": "s3://ours"}}
    declared = settings(airflow(values))
    assert declared["connections"]["mlflow_default"] == own
    assert declared["variables"]["feature_offline_store"] == "s3://ours"
    with pytest.raises(Refused, match=r"mlflow_default[\s\S]*conn_type"):
        airflow({"connections": {"mlflow_default": {"host": "our-mlflow"}}})


# Pods


def test_the_api_server_is_a_sidecar_that_the_service_finds_where_values_put_it_into_the_schedulers_pod() -> None:
    objects = airflow(COMBINED)
    assert "maestro-airflow-api-server" not in {e["metadata"]["name"] for e in objects if e["kind"] == "Deployment"}
    template = template_of("scheduler", objects)
    assert template["spec"]["initContainers"][-1]["name"] == "api-server"
    assert template["spec"]["initContainers"][-1]["restartPolicy"] == "Always"
    assert deployment("scheduler", objects)["spec"]["strategy"] == {"type": "Recreate"}
    selector = find(objects, "Service", "maestro-airflow-api-server")["spec"]["selector"]
    assert selector.items() <= template["metadata"]["labels"].items()


def test_more_than_one_pod_gets_a_disruption_budget_that_selects_it() -> None:
    values = {key: {"replicas": 2} for key in ("apiServer", "scheduler", "dagProcessor", "triggerer")}
    assert not [entry for entry in airflow() if entry["kind"] == "PodDisruptionBudget"]
    budgets = [entry for entry in airflow(values) if entry["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == 4
    for budget in budgets:
        selected = deployment(budget["metadata"]["name"].removeprefix("maestro-airflow-"), airflow(values))
        assert budget["spec"]["selector"] == selected["spec"]["selector"]


def test_the_loop_that_a_container_runs_is_told_where_its_probes_ask() -> None:
    for part in ("scheduler", "dag-processor", "triggerer"):
        probed = container(part, template_of(part, airflow())["spec"])
        assert probed["args"] == ["airflow", part]
        ports = {port["name"]: str(port["containerPort"]) for port in probed["ports"]}
        for probe in ("startupProbe", "livenessProbe"):
            assert environment(probed)[liveness.PORT] == ports[probed[probe]["httpGet"]["port"]]


def test_probes_have_the_time_that_a_loaded_node_takes() -> None:
    for part in ("scheduler", "api-server", "dag-processor", "triggerer"):
        startup = container(part, template_of(part, airflow())["spec"])["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 1200


# Task pods


def test_the_operators_platform_reads_what_the_chart_renders() -> None:
    platform = platform_of(airflow({"taskPods": {"failedPodTTL": 7}}))
    assert platform.namespace == "maestro"
    assert platform.failed_pod_ttl == 7
    assert (platform.reports_bucket, platform.data_bucket) == ("reports", "data")
    assert {"small", "medium", "large", "gpu"} <= platform.sizes.keys()
    assert platform.images["task"] == "localhost/maestro/task:latest"
    assert platform.images["feast"] == "localhost/maestro/feast:latest"
    assert platform.identities == {"deployer": "maestro-deployer"}
    assert platform.template["spec"]["serviceAccountName"] == "maestro-task"
    assert platform.template["spec"]["automountServiceAccountToken"] is False
    assert platform.template["spec"]["containers"][0]["terminationMessagePolicy"] == "FallbackToLogsOnError"


# DAG files


def test_the_image_fills_the_dags_volume_once_and_a_new_image_takes_its_old_files_back(tmp_path: Path) -> None:
    image, volume, scratch = (tmp_path / name for name in ("image", "volume", "scratch"))
    for folder in (image / "utils", volume, scratch):
        folder.mkdir(parents=True)
    (image / "a.py").write_text("a1")
    (image / "utils/b.py").write_text("b1")

    def fill(tag: str) -> None:
        objects = airflow({"global": {"images": {"tags": {"airflow": tag}}}})
        entry = container("dags-from-image", template_of("dag-processor", objects)["spec"])
        shell, flags, script = entry["args"]
        places = {"/opt/maestro/dags": image, "/dags": volume, "/tmp": scratch}  # noqa: S108 - of the container
        script = re.sub("|".join(places), lambda match: str(places[match[0]]), script)
        subprocess.run([shell, flags, script], check=True, env={**os.environ, **environment(entry)})

    fill("one")
    assert read(volume) == {"a.py": "a1", "utils/b.py": "b1"}

    (volume / "a.py").write_text("edited")
    (volume / "hand.py").write_text("hand")
    fill("one")
    assert read(volume) == {"a.py": "edited", "utils/b.py": "b1", "hand.py": "hand"}, "a restart keeps what was copied"

    shutil.rmtree(image / "utils")
    (image / "a.py").write_text("a2")
    fill("two")
    assert read(volume) == {"a.py": "a2", "hand.py": "hand"}


def read(folder: Path) -> dict[str, str]:
    """Content by path of the files that are not hidden."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_persistent_dags_lie_in_one_claim_that_outlives_the_release() -> None:
    values = {"dags": {"persistence": {"enabled": True, "size": "3Gi", "subPath": "team"}}}
    objects = airflow(values)
    claim = find(objects, "PersistentVolumeClaim", "maestro-airflow-dags")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Gi"
    for part in ("scheduler", "dag-processor"):
        spec = template_of(part, objects)["spec"]
        assert {"name": "dags", "persistentVolumeClaim": {"claimName": "maestro-airflow-dags"}} in spec["volumes"]
        mount = next(m for m in container(part, spec)["volumeMounts"] if m["name"] == "dags")
        assert mount["subPath"] == "team"
    existing = airflow({"dags": {"persistence": {"enabled": True, "existingClaim": "mine"}}})
    assert not [entry for entry in existing if entry["kind"] == "PersistentVolumeClaim"]


# Metrics


def test_where_values_say_so_no_metrics_are_sent_or_looked_for() -> None:
    (looking,) = containers(find(airflow(), "Pod", "maestro-airflow-test")["spec"])
    assert looking["args"][-1] == "http://maestro-statsd:9102/metrics"
    objects = airflow({"config": {"metrics": {"statsd_on": "False"}}})
    assert cfg(objects)["metrics"]["statsd_on"] == "False"
    assert "statsd" not in str(find(objects, "Pod", "maestro-airflow-test")["spec"]["containers"])


# Contradictions


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"executor": "CeleryExecutor"}, "set executor to LocalExecutor"),
        (COMBINED | {"apiServer": {"replicas": 2}}, "set scheduler.withApiServer to false or apiServer.replicas to 1"),
        ({"scheduler": {"withApiServer": True, "replicas": 2}}, "set scheduler.withApiServer to false"),
        ({"dags": {"persistence": {"existingClaim": "mine"}}}, "set enabled to true or existingClaim"),
        ({"global": {"postgresql": {"external": {"enabled": True}}}}, "set global.postgresql.external.host"),
        ({"global": {"postgresql": {"databases": ["mlflow"]}}}, "add it there"),
        ({"global": {"redis": {"external": {"enabled": True}}}}, "set global.redis.external.host"),
        (
            {"global": {"redis": {"external": {"enabled": True, "host": "redis.example.com"}}}},
            "set global.redis.existingSecret",
        ),
        ({"global": {"s3": {"external": {"enabled": True}}}}, "set global.s3.existingSecret"),
        ({"pools": {"training": {"slotz": 1}}}, "slotz"),
        ({"connections": {"x": {"host": "a"}}}, "conn_type"),
        ({"variables": {"x": 0.5}}, "variables"),
    ],
)
def test_values_that_cannot_work_are_refused_with_the_remedy(values: dict[str, Any], remedy: str) -> None:
    with pytest.raises(Refused, match=re.escape(remedy)):
        airflow(values)


def test_the_folder_of_the_chart_holds_links_and_no_copies() -> None:
    assert (ROOT / "charts/airflow/charts/common").is_symlink()
