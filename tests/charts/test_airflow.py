"""charts/airflow: what its objects say to Kubernetes and to Airflow."""

import base64
import importlib.util
import json
import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import kubernetes_validate
import psycopg
import pytest
import yaml
from airflow.providers.celery.get_provider_info import get_provider_info as celery_provider
from airflow.providers.cncf.kubernetes.get_provider_info import get_provider_info as kubernetes_provider

from mlops.airflow.authoring.operator import QUEUES
from mlops.airflow.guard import LIMITS
from mlops.airflow.internals import liveness
from mlops.masking import SECRETS
from tests.charts.conftest import ROOT, Object, Refused, containers, environment, find, render, unrestricted
from tests.charts.network import Network, Pod, Port
from tests.charts.profiles import platform as platform_of
from tests.servers import new_database

AIRFLOW = Path(next(iter(importlib.util.find_spec("airflow").submodule_search_locations)))
SLACK = {"global": {"notifications": {"slackWebhookSecret": "slack"}}}
COMBINED = {"scheduler": {"withApiServer": True}}
CELERY = {"executor": "CeleryExecutor"}
KUBERNETES = {"executor": "KubernetesExecutor"}


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
    known |= celery_provider()["config"] | kubernetes_provider()["config"]
    # What Airflow hands to kombu as it is.
    known["celery_broker_transport_options"]["options"] |= {"visibility_timeout": {}}
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


VOLUME = {"dags": {"persistence": {"enabled": True}}}
HTTPS = "https://git.example.com/team/dags.git"
SSH = "git@git.example.com:team/dags.git"
GIT = {"dags": {"gitSync": {"enabled": True, "repo": HTTPS}}}
KEYED = {"repo": SSH, "sshKeySecret": "key", "knownHosts": "git.example.com ssh-ed25519 AAAA"}
EXECUTORS = ("LocalExecutor", "CeleryExecutor", "KubernetesExecutor")
PLACE = "/opt/maestro/dags"


def git_sync(**values: Any) -> dict[str, Any]:
    return {"dags": {"gitSync": {"enabled": True, "repo": HTTPS, **values}}}


def readers(objects: list[Object], executor: str) -> dict[str, Object]:
    """The pods of who reads DAG files: who parses them, and who runs their tasks."""
    found = {part: template_of(part, objects)["spec"] for part in ("dag-processor", "scheduler")}
    if executor == "CeleryExecutor":
        found["celery"] = template_of("worker", objects)["spec"]
    if executor == "KubernetesExecutor":
        (template,) = (
            yaml.safe_load(entry["data"]["worker-template.yaml"])
            for entry in objects
            if "worker-template.yaml" in (entry.get("data") or {})
        )
        found["base"] = template["spec"]
    return found


def bundle(objects: list[Object]) -> dict[str, Any]:
    """The one bundle of DAG files, as Airflow reads it, which takes % for the beginning of a value."""
    parser = ConfigParser()
    parser.read_string(find(objects, "ConfigMap", "maestro-airflow-config")["data"]["airflow.cfg"])
    (found,) = json.loads(parser["dag_processor"]["dag_bundle_config_list"])
    assert found["name"] == "dags-folder", "runs outlive a change of the source"
    return found


def mounted(name: str, spec: Object) -> list[tuple[Object, Object]]:
    """Each mount below the place of DAG files, and its volume."""
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    return [
        (mount, volumes[mount["name"]])
        for mount in container(name, spec)["volumeMounts"]
        if mount["mountPath"].startswith(PLACE)
    ]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_dag_files_of_the_image_are_in_its_root_which_nobody_can_write_to(executor: str) -> None:
    objects = airflow({"executor": executor})
    assert bundle(objects)["classpath"] == "airflow.dag_processing.bundles.local.LocalDagBundle"
    assert cfg(objects)["core"]["dags_folder"] == PLACE
    assert f"COPY dags {PLACE}\n" in (ROOT / "images/airflow/Dockerfile").read_text()
    for name, spec in readers(objects, executor).items():
        assert mounted(name, spec) == []
        assert container(name, spec)["securityContext"]["readOnlyRootFilesystem"] is True
    assert not [entry for entry in objects if "airflow-dags" in entry["metadata"]["name"]]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_volume_is_read_by_all_who_run_dags_and_written_by_its_job_alone(executor: str) -> None:
    objects = airflow({"executor": executor} | VOLUME)
    claim = {"claimName": "maestro-airflow-dags"}
    for name, spec in readers(objects, executor).items():
        (found,) = mounted(name, spec)
        assert found == (
            {"name": "dags", "mountPath": PLACE, "readOnly": True},
            {"name": "dags", "persistentVolumeClaim": claim | {"readOnly": True}},
        )
    made = bundle(objects)
    assert (made["classpath"], made["kwargs"]) == ("mlops.airflow.bundles.volume.VolumeDagBundle", {"path": PLACE})
    assert cfg(objects)["dag_processor"]["stale_bundle_cleanup_interval"] == "0", (
        "Airflow would look for copies of its own"
    )
    writers = [
        entry["metadata"]["name"]
        for entry in objects
        if (template := (entry.get("spec") or {}).get("template"))
        for volume in template["spec"].get("volumes", ())
        if volume.get("persistentVolumeClaim", {}) == claim
    ]
    (job,) = (entry for entry in objects if entry["kind"] == "Job" and "airflow-dags" in entry["metadata"]["name"])
    assert writers == [job["metadata"]["name"]]


def test_who_parses_waits_for_the_files_of_its_image_and_another_image_brings_others() -> None:
    def rendered(tag: str) -> tuple[str, str, str]:
        objects = airflow(VOLUME | {"global": {"images": {"tags": {"airflow": tag}}}})
        (job,) = (entry for entry in objects if entry["kind"] == "Job" and "airflow-dags" in entry["metadata"]["name"])
        (gate,) = (
            c["args"]
            for c in template_of("dag-processor", objects)["spec"]["initContainers"]
            if c["name"] == "dags-gate"
        )
        assert gate[:3] == ["release-gate", "wait", "airflow-dags"]
        script = container("dags", job["spec"]["template"]["spec"])["args"][-1].splitlines()
        assert script[0] == "python -m mlops.airflow.administration.dags image --volume /dags --keep 10"
        assert script[-1].startswith("release-gate mark airflow-dags ")
        return job["metadata"]["name"], gate[3], script[-1].rpartition(" ")[2]

    one, again, two = rendered("one"), rendered("one"), rendered("two")
    assert one == again, "an upgrade that changes no image leaves alone what people put"
    assert one[1] == one[2]
    assert two[1] == two[2]
    assert one[0] != two[0]
    assert one[1] != two[1]


def test_persistent_dags_lie_in_one_claim_that_outlives_the_release() -> None:
    values = {"dags": {"persistence": {"enabled": True, "size": "3Gi", "subPath": "team", "versions": 4}}}
    objects = airflow(values)
    claim = find(objects, "PersistentVolumeClaim", "maestro-airflow-dags")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Gi"
    (job,) = (entry for entry in objects if entry["kind"] == "Job" and "airflow-dags" in entry["metadata"]["name"])
    spec = job["spec"]["template"]["spec"]
    assert "--keep 4\n" in container("dags", spec)["args"][-1]
    for name, pod in {"dags": spec, **readers(objects, "LocalExecutor")}.items():
        mount = next(m for m in container(name, pod)["volumeMounts"] if m["name"] == "dags")
        assert mount["subPath"] == "team"
    existing = airflow({"dags": {"persistence": {"enabled": True, "existingClaim": "mine"}}})
    assert not [entry for entry in existing if entry["kind"] == "PersistentVolumeClaim"]
    for spec in readers(existing, "LocalExecutor").values():
        assert {"claimName": "mine", "readOnly": True} in [v.get("persistentVolumeClaim") for v in spec["volumes"]]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_repository_is_cloned_by_all_who_run_dags_into_a_folder_of_their_own(executor: str) -> None:
    objects = airflow({"executor": executor} | git_sync(ref="v1", subPath="some%20flows", period="30s"))
    for name, spec in readers(objects, executor).items():
        (found,) = mounted(name, spec)
        assert found == ({"name": "dags", "mountPath": PLACE}, {"name": "dags", "emptyDir": {}})
    assert bundle(objects) == {
        "name": "dags-folder",
        "classpath": "airflow.providers.git.bundles.git.GitDagBundle",
        "kwargs": {
            "git_conn_id": "git_dags",
            "repo_url": HTTPS,
            "tracking_ref": "v1",
            "subdir": "some%20flows",
            "refresh_interval": 30,
        },
    }
    assert cfg(objects)["dag_processor"]["dag_bundle_storage_path"] == PLACE
    assert not [entry for entry in objects if "airflow-dags" in entry["metadata"]["name"]]


def git_connection(objects: list[Object]) -> dict[str, Any]:
    settings = yaml.safe_load(find(objects, "Secret", "maestro-airflow-setup")["stringData"]["settings.yaml"])
    assert "aws_default" in settings["connections"], "the others stay"
    found: dict[str, Any] = settings["connections"]["git_dags"]
    return found


def of_setup(objects: list[Object], entry: dict[str, str]) -> Object:
    """Where the Job airflow-setup has a part of a connection from."""
    (job,) = (e for e in objects if e["kind"] == "Job" and "airflow-setup" in e["metadata"]["name"])
    told = environment(container("setup", job["spec"]["template"]["spec"]))
    source: Object = told[entry["environment"]]["secretKeyRef"]
    return source


def test_a_repository_is_opened_by_the_secret_that_values_name_and_its_host_is_known() -> None:
    plain = git_connection(airflow(GIT))
    assert (plain["conn_type"], plain["host"], plain["extra"]) == ("git", HTTPS, {})
    assert not plain.keys() & {"login", "password"}

    objects = airflow(git_sync(credentialsSecret="login"))
    found = git_connection(objects)
    assert of_setup(objects, found["login"]) == {"name": "login", "key": "GITSYNC_USERNAME"}
    assert of_setup(objects, found["password"]) == {"name": "login", "key": "GITSYNC_PASSWORD"}

    objects = airflow(git_sync(**KEYED))
    found = git_connection(objects)
    assert found["host"] == SSH
    assert of_setup(objects, found["extra"].pop("private_key")) == {"name": "key", "key": "gitSshKey"}
    assert found["extra"] == {"known_hosts_file": "/etc/airflow/known_hosts", "strict_host_key_checking": "yes"}
    hosts = find(objects, "ConfigMap", "maestro-airflow-config")["data"]["known_hosts"]
    assert hosts.strip() == KEYED["knownHosts"]
    for name, spec in readers(objects, "LocalExecutor").items():
        mounts = {m["mountPath"]: m["name"] for m in container(name, spec)["volumeMounts"]}
        assert mounts["/etc/airflow"] == "config"


@pytest.mark.parametrize(
    ("values", "port"),
    [
        ({}, 443),
        ({"repo": "https://git.example.com:8443/team/dags.git"}, 8443),
        ({"repo": "http://git.example.com/team/dags.git"}, 80),
        (KEYED, 22),
        (KEYED | {"repo": "ssh://git@git.example.com/team/dags.git"}, 22),
        (KEYED | {"repo": "ssh://git@git.example.com:2222/team/dags.git"}, 2222),
    ],
)
def test_who_clones_a_repository_is_let_at_its_host_and_nobody_else_is(values: dict[str, Any], port: int) -> None:
    outside = {"global": {"networkPolicies": {"outside": {"git": ["203.0.113.7/32"]}}}}
    objects = airflow({"executor": "CeleryExecutor"} | git_sync(**values) | outside)
    rule = {"to": [{"ipBlock": {"cidr": "203.0.113.7/32"}}], "ports": [{"protocol": "TCP", "port": port}]}
    let = {
        entry["metadata"]["name"]
        for entry in objects
        if entry["kind"] == "NetworkPolicy" and rule in (entry["spec"].get("egress") or ())
    }
    cloning = ("airflow-dag-processor", "airflow-scheduler", "airflow-worker", "airflow-test")
    assert let == {f"maestro-{who}-network" for who in cloning}
    assert "203.0.113.7" not in json.dumps(airflow({"executor": "CeleryExecutor"} | outside))


# Metrics


def test_where_values_say_so_no_metrics_are_sent_or_looked_for() -> None:
    (looking,) = containers(find(airflow(), "Pod", "maestro-airflow-test")["spec"])
    assert looking["args"][-1] == "http://maestro-statsd:9102/metrics"
    objects = airflow({"config": {"metrics": {"statsd_on": "False"}}})
    assert cfg(objects)["metrics"]["statsd_on"] == "False"
    assert "statsd" not in str(find(objects, "Pod", "maestro-airflow-test")["spec"]["containers"])


# Executors


def test_only_celery_has_workers_and_only_it_has_a_broker() -> None:
    for values in ({}, KUBERNETES):
        objects = airflow(values)
        assert "maestro-airflow-worker" not in {entry["metadata"]["name"] for entry in objects if "spec" in entry}
        told = environment(container("scheduler", template_of("scheduler", objects)["spec"]))
        assert not [name for name in told if name.startswith("MAESTRO_REDIS")]
    objects = airflow(CELERY)
    assert cfg(objects)["core"]["executor"] == "CeleryExecutor"
    assert deployment("worker", objects)["spec"]["replicas"] == 3
    for part, name in (("scheduler", "scheduler"), ("worker", "celery")):
        told = environment(container(name, template_of(part, objects)["spec"]))
        assert told["MAESTRO_REDIS_USERNAME"] == "celery"
        assert told["MAESTRO_REDIS_PASSWORD"]["secretKeyRef"] == {"name": "maestro-redis", "key": "celery-password"}


def test_a_worker_reads_nothing_that_is_encrypted_and_signs_nothing() -> None:
    told = environment(container("celery", template_of("worker", airflow(CELERY))["spec"]))
    assert not {"AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET"} & told.keys()


def test_the_broker_is_where_the_one_place_says_and_is_verified_where_it_speaks_tls() -> None:
    external = {"enabled": True, "host": "redis.example.com", "port": 6380, "users": True}
    elsewhere = {"redis": {"external": external, "existingSecret": "ours"}}
    for shared, database, address, authority in (
        ({}, 2, "redis://maestro-redis:6379/2", ""),
        ({"tls": {"enabled": True}}, 2, "rediss://maestro-redis:6379/2", "/etc/tls-ca/ca.crt"),
        (elsewhere, 0, "redis://redis.example.com:6380/0", ""),
        (
            {"redis": {**elsewhere["redis"], "external": {**external, "tls": True}}},
            3,
            "rediss://redis.example.com:6380/3",
            "/etc/ssl/certs/ca-certificates.crt",
        ),
    ):
        celery = cfg(airflow({**CELERY, "broker": {"database": database}, "global": shared}))["celery"]
        assert celery["broker_url"] == address
        assert celery["ssl_cacert"] == authority or (authority and celery["ssl_cacert"].endswith("/ca.crt"))
        assert celery.getboolean("ssl_active") == bool(authority)


def test_a_worker_has_as_long_to_end_as_values_say_and_less_than_its_messages_wait() -> None:
    objects = airflow({**CELERY, "workers": {"terminationGracePeriodSeconds": 900}})
    grace = template_of("worker", objects)["spec"]["terminationGracePeriodSeconds"]
    assert grace == 900
    assert int(cfg(objects)["celery_broker_transport_options"]["visibility_timeout"]) > grace


def test_a_size_with_a_queue_has_workers_of_its_own_that_take_from_it() -> None:
    large = {"queue": "large", "replicas": 1, "nodeSelector": {"pool": "large"}, "priorityClassName": "high"}
    objects = airflow({**CELERY, "taskSizes": {"large": {"queue": "large"}}, "workers": {"sets": {"large": large}}})
    spec = template_of("worker-large", objects)["spec"]
    assert deployment("worker-large", objects)["spec"]["replicas"] == 1
    assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"pool": "large"}, "high")
    taken = {}
    for part in ("worker", "worker-large"):
        args = container("celery", template_of(part, objects)["spec"])["args"]
        taken[part] = args[args.index("--queues") + 1]
    assert taken == {"worker": "default", "worker-large": "large"}
    reader = environment(container("dag-processor", template_of("dag-processor", objects)["spec"]))
    assert json.loads(reader[QUEUES]) == {"large": "large"}
    assert "queue" not in platform_of(objects).sizes["large"], "Kubernetes would refuse it"


def test_workers_are_scaled_by_what_they_use_or_by_the_tasks_that_there_are() -> None:
    scaled = airflow({**CELERY, "workers": {"hpa": {"enabled": True}}})
    by_use = find(scaled, "HorizontalPodAutoscaler", "maestro-airflow-worker")["spec"]
    assert (by_use["minReplicas"], by_use["maxReplicas"]) == (3, 20)
    assert {metric["resource"]["name"] for metric in by_use["metrics"]} == {"cpu", "memory"}
    assert by_use["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300
    by_tasks = airflow({**CELERY, "workers": {"keda": {"enabled": True}, "queue": "default,urgent"}})
    scaler = find(by_tasks, "ScaledObject", "maestro-airflow-worker")["spec"]
    assert (scaler["minReplicaCount"], scaler["maxReplicaCount"]) == (3, 20)
    (trigger,) = scaler["triggers"]
    asked = trigger["metadata"]
    assert asked["host"] == "maestro-postgresql.maestro", "it asks from its own namespace"
    # What KEDA's scaler reads (pkg/scalers/postgresql_scaler.go), each of it a string; the password comes by Secret.
    assert asked.keys() == {"host", "port", "userName", "dbName", "sslmode", "query", "targetQueryValue"}
    assert {type(value) for value in asked.values()} == {str}
    authentication = find(by_tasks, "TriggerAuthentication", trigger["authenticationRef"]["name"])
    (password,) = authentication["spec"]["secretTargetRef"]
    assert (password["name"], password["key"]) == ("maestro-postgresql", "airflow-password")
    for objects in (scaled, by_tasks):
        target = find(objects, "Deployment", "maestro-airflow-worker")
        assert "replicas" not in target["spec"], "an upgrade would undo what the autoscaler said"
        for container in target["spec"]["template"]["spec"]["containers"]:
            wanted = container["resources"]["requests"]
            assert {"cpu", "memory"} <= wanted.keys(), f"of {container['name']} the share in use cannot be told"
    assert not [entry for entry in by_tasks if entry["kind"] == "HorizontalPodAutoscaler"], "KEDA makes its own"


def test_keda_is_let_at_the_database_from_its_namespace_and_nobody_else_from_there() -> None:
    labels = {"kubernetes.io/metadata.name": "scalers"}
    values = {**CELERY, "workers": {"keda": {"enabled": True, "namespaceLabels": labels}}}
    network = Network([*airflow(values), *render("postgresql")])
    database = Pod("postgresql", {"app.kubernetes.io/part-of": "maestro", "app.kubernetes.io/component": "postgresql"})
    assert network.allows(Pod("keda-operator", {}, "scalers"), database, Port(5432))
    assert not network.allows(Pod("keda-operator", {}, "keda"), database, Port(5432))
    assert not network.allows(Pod("keda-operator", {}, "scalers"), database, Port(22))


@pytest.mark.parametrize("queues", ["default", "default,urgent"])
def test_the_query_of_keda_counts_what_waits_and_runs_in_the_queues(queues: str, postgresql: str) -> None:
    values = {**CELERY, "config": {"celery": {"worker_concurrency": "2"}}}
    objects = airflow({**values, "workers": {"queue": queues, "keda": {"enabled": True}}})
    (trigger,) = find(objects, "ScaledObject", "maestro-airflow-worker")["spec"]["triggers"]
    database = new_database(postgresql)
    rows: list[tuple[str | None, str]]
    rows = [("queued", "default"), ("running", "default"), ("running", "default"), ("deferred", "default")]
    rows += [("queued", "urgent"), ("queued", "urgent"), ("success", "default"), (None, "default"), ("queued", "other")]
    with psycopg.connect(database) as connection:
        connection.execute("create table task_instance (state text, queue text)")
        connection.cursor().executemany("insert into task_instance values (%s, %s)", rows)
        assert connection.execute(trigger["metadata"]["query"]).fetchone() == (2 if queues == "default" else 3,)


def worker_pod(objects: list[Object]) -> Object:
    pod: Object = yaml.safe_load(find(objects, "ConfigMap", "maestro-airflow-pods")["data"]["worker-template.yaml"])
    return pod


def test_the_pod_of_a_task_is_of_the_charts_template_and_holds_what_tasks_need_alone() -> None:
    objects = airflow(
        {**KUBERNETES, "workers": {"resources": {"limits": {"memory": "3Gi"}}, "nodeSelector": {"a": "b"}}}
    )
    pod = worker_pod(objects)
    mounted = {volume["name"]: volume for volume in template_of("dag-processor", objects)["spec"]["volumes"]}
    directory = cfg(objects)["kubernetes_executor"]["pod_template_file"]
    assert directory == f"{environment(container('base', pod['spec']))['MAESTRO_POD_CONFIG']}/worker-template.yaml"
    assert mounted["pods"]["configMap"]["name"] == "maestro-airflow-pods"
    assert unrestricted([pod]) == []
    kubernetes_validate.validate(pod, "1.36", strict=True)
    told = environment(container("base", pod["spec"]))
    assert [name for name, value in told.items() if isinstance(value, dict)] == [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ], "no database and no key: the api-server answers it"
    assert pod["spec"]["nodeSelector"] == {"a": "b"}
    assert container("base", pod["spec"])["resources"]["limits"]["memory"] == "3Gi"
    network = Network(objects)
    worker = Pod("worker", pod["metadata"]["labels"])
    assert network.isolates("Ingress", worker) and network.isolates("Egress", worker)


def test_airflow_makes_of_the_template_a_pod_that_runs_the_task(tmp_path: Path) -> None:
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    template = find(airflow(KUBERNETES), "ConfigMap", "maestro-airflow-pods")["data"]["worker-template.yaml"]
    (tmp_path / "worker-template.yaml").write_text(template)
    base = PodGenerator.deserialize_model_file(str(tmp_path / "worker-template.yaml"))
    command = ["python", "-m", "airflow.sdk.execution_time.execute_workload"]
    pod = PodGenerator.construct_pod(
        dag_id="d", task_id="t", pod_id="d-t-1", try_number=1, kube_image=None, date=None, args=command,
        pod_override_object=None, base_worker_pod=base, namespace="maestro", scheduler_job_id="1",
    )  # fmt: skip
    (only,) = pod.spec.containers
    assert (only.image, only.args, only.command) == ("localhost/maestro/airflow:latest", command, None)
    assert pod.metadata.labels["app.kubernetes.io/component"] == "airflow-worker"
    assert {entry.name for entry in only.env} >= {"AIRFLOW_CONFIG", "AIRFLOW_IS_K8S_EXECUTOR_POD"}


def test_who_makes_workers_pods_may_nothing_else_and_tasks_have_another_identity() -> None:
    objects = airflow(KUBERNETES)
    assert template_of("scheduler", objects)["spec"]["serviceAccountName"] == "maestro-airflow-scheduler"
    assert worker_pod(objects)["spec"]["serviceAccountName"] == "maestro-airflow"
    (rule,) = find(objects, "Role", "maestro-airflow-scheduler")["rules"]
    assert (rule["resources"], set(rule["verbs"])) == (
        ["pods"],
        {"create", "get", "list", "watch", "patch", "delete"},
    )
    for values in ({}, CELERY):
        assert template_of("scheduler", airflow(values))["spec"]["serviceAccountName"] == "maestro-airflow"


def test_where_a_component_runs_its_own_values_say_and_of_the_rest_those_of_all() -> None:
    own = {"priorityClassName": "first", "nodeSelector": {"disk": "fast"}}
    objects = airflow({"priorityClassName": "all", "tolerations": [{"key": "a"}], "scheduler": own})
    spec = template_of("scheduler", objects)["spec"]
    assert (spec["priorityClassName"], spec["nodeSelector"], spec["tolerations"]) == (
        "first",
        {"disk": "fast"},
        [{"key": "a"}],
    )
    other = template_of("triggerer", objects)["spec"]
    assert (other["priorityClassName"], "nodeSelector" in other) == ("all", False)


def test_pods_of_a_component_are_spread_over_nodes_and_zones_unless_values_say_otherwise() -> None:
    spread = template_of("scheduler", airflow())["spec"]["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert {each["whenUnsatisfiable"] for each in spread} == {"ScheduleAnyway"}, "one node is enough"
    mine = [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]
    for values in ({"topologySpreadConstraints": mine}, {"scheduler": {"topologySpreadConstraints": mine}}):
        assert template_of("scheduler", airflow(values))["spec"]["topologySpreadConstraints"] == mine


# Contradictions


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"executor": "SequentialExecutor"}, "LocalExecutor"),
        (
            CELERY | {"workers": {"hpa": {"enabled": True}, "keda": {"enabled": True}}},
            "workers has hpa and keda, which would each scale the same pods: set hpa.enabled or keda.enabled to false",
        ),
        (
            CELERY | {"workers": {"sets": {"large": {"queue": "large", "terminationGracePeriodSeconds": 3600}}}},
            "workers.sets.large.terminationGracePeriodSeconds is 3600",
        ),
        (
            CELERY | {"config": {"celery_broker_transport_options": {"visibility_timeout": "600"}}},
            "Set config.celery_broker_transport_options.visibility_timeout above 600",
        ),
        (
            CELERY | {"config": {"core": {"default_task_execution_timeout": "7200"}}},
            "set config.celery_broker_transport_options.visibility_timeout above 7200",
        ),
        (CELERY | {"taskSizes": {"large": {"queue": "lage"}}}, 'taskSizes.large.queue is "lage" and no worker takes'),
        (CELERY | {"workers": {"queue": "other"}}, 'no worker takes tasks from the queue "default"'),
        (
            CELERY | {"workers": {"hpa": {"enabled": True, "minReplicaCount": 21}}},
            "workers.hpa.minReplicaCount is 21 and maxReplicaCount is 20",
        ),
        (COMBINED | {"apiServer": {"replicas": 2}}, "set scheduler.withApiServer to false or apiServer.replicas to 1"),
        ({"scheduler": {"withApiServer": True, "replicas": 2}}, "set scheduler.withApiServer to false"),
        ({"dags": {"persistence": {"existingClaim": "mine"}}}, "set enabled to true or existingClaim"),
        (
            {"dags": {"persistence": {"enabled": True}, "gitSync": {"enabled": True, "repo": HTTPS}}},
            "DAG files have one source: set one of them to false",
        ),
        ({"dags": {"gitSync": {"enabled": True}}}, "dags.gitSync.repo is empty: set it to"),
        ({"dags": {"gitSync": {"repo": HTTPS}}}, "set enabled to true or repo"),
        (git_sync(repo="https://me:secret@git.example.com/dags.git"), "set dags.gitSync.credentialsSecret"),
        (git_sync(repo="http://git.example.com/d.git", credentialsSecret="x"), "set an address of https"),
        (git_sync(repo=SSH), "set dags.gitSync.sshKeySecret"),
        (git_sync(repo=SSH, sshKeySecret="key"), "dags.gitSync.knownHosts to what ssh-keyscan says"),
        (git_sync(sshKeySecret="key"), "which no SSH key opens: set credentialsSecret"),
        (git_sync(**KEYED, credentialsSecret="x"), "where only a key counts"),
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
