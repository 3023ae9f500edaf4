"""charts/maestro: all charts together, in each profile, and the joins between values, schemas, images and charts."""

import base64
import configparser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, reduce
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from infrastructure.commands import SECONDS
from infrastructure.models import command
from mlops.cli import parser
from mlops.registry import rollout
from mlops.sensor_trainer.api import app
from mlops.stores import feature_store
from tests.chaos.faults import COMPONENTS, covers
from tests.charts.conftest import (
    ROOT,
    Loader,
    Object,
    Refused,
    containers,
    environment,
    find,
    pod_specs,
    render,
    render_anew,
    template,
    unrestricted,
)
from tests.charts.images import RECIPES
from tests.charts.profiles import CLOUDS, PROFILES, command_job, maestro, merge, platform

CHARTS = ROOT / "charts"
SUBCHARTS = {
    "postgresql": "postgresql",
    "redis": "redis",
    "minio": "minio",
    "mlflow": "mlflow",
    "feast": "feast",
    "modelServer": "model-server",
    "sensorTrainer": "sensor-trainer",
    "airflow": "airflow",
    "monitoring": "monitoring",
}
SILENT = {"airflow": {"config": {"metrics": {"statsd_on": "False"}}}}
CLUSTER_SCOPED = re.compile(
    r"Cluster|Namespace$|PersistentVolume$|StorageClass|PriorityClass|CustomResource|WebhookConfig|Node"
)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(params=PROFILES)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return maestro(request.param)


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of each value that is not a map, and of each empty map."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, values


def at(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return dict(value)


# What Kubernetes is given


def test_pod_security_restricted_and_a_read_only_root_hold_for_every_pod(objects: list[Object]) -> None:
    assert not unrestricted(objects)


@pytest.fixture(scope="module")
def _schemas_read_once() -> Iterator[None]:
    """The package reads a megabyte of JSON for each object otherwise."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents)
        )
        yield


@pytest.mark.usefixtures("_schemas_read_once")
@pytest.mark.parametrize("version", ["1.35", "1.36", "1.37"])
def test_every_object_fits_the_schema_of_the_kubernetes_api(objects: list[Object], version: str) -> None:
    for entry in objects:
        kubernetes_validate.validate(entry, version, strict=True)


@pytest.mark.usefixtures("_schemas_read_once")
@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_values_of_a_cloud_fit_beside_those_of_production(cloud: str) -> None:
    objects = maestro(cloud)
    for entry in objects:
        kubernetes_validate.validate(entry, "1.37", strict=True)
    assert not unrestricted(objects)
    assert {"nodeSelector", "tolerations"} == platform(objects).placements["gpu"].keys()


def test_every_object_belongs_to_its_namespace(objects: list[Object]) -> None:
    assert not [entry["kind"] for entry in objects if CLUSTER_SCOPED.match(entry["kind"])]
    foreign = {entry["metadata"].get("namespace", "maestro") for entry in objects}
    assert foreign == {"maestro"}


def test_two_releases_of_one_namespace_share_no_object() -> None:
    one, two = ({(e["kind"], e["metadata"]["name"]) for e in render("maestro", name=name)} for name in ("one", "two"))
    assert not one & two


@pytest.mark.parametrize(
    "name",
    ["airflow", "mlflow", "feast", "minio", "postgresql", "redis", "model-server", "sensor-trainer", "statsd", "task"],
)
def test_a_release_may_be_called_like_one_of_its_components(name: str) -> None:
    objects = render("maestro", name=name)
    named = [(entry["kind"], entry["metadata"]["name"]) for entry in objects]
    assert len(named) == len(set(named))


def test_every_container_asks_for_memory_and_is_limited(objects: list[Object]) -> None:
    for where, spec in pod_specs(objects):
        for container in containers(spec):
            assert "memory" in container["resources"]["requests"], f"{where} {container['name']}"
            assert "memory" in container["resources"]["limits"], f"{where} {container['name']}"


def test_what_pods_refer_to_exists(objects: list[Object]) -> None:
    assert_referred_to_exists(objects, ("Secret", "slack"), ("Secret", "mail"))


def assert_referred_to_exists(objects: list[Object], *elsewhere: tuple[str, str], optional: bool = True) -> None:
    """That all ConfigMaps, Secrets and ServiceAccounts that pods refer to are rendered, or `elsewhere`.

    optional: whether that holds for Secrets too without which a pod starts.
    """
    given = {(entry["kind"], entry["metadata"]["name"]) for entry in objects}
    given |= {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default"), *elsewhere}
    for where, spec in pod_specs(objects):
        wanted = {("ServiceAccount", spec.get("serviceAccountName", "default"))}
        for volume in spec.get("volumes", ()):
            wanted |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
            wanted |= {("Secret", volume["secret"]["secretName"])} if "secret" in volume else set()
        for container in containers(spec):
            for source in environment(container).values():
                reference = source.get("secretKeyRef") if isinstance(source, dict) else None
                if reference and (optional or not reference.get("optional")):
                    wanted.add(("Secret", reference["name"]))
        assert wanted <= given, where


def test_keys_that_pods_read_are_in_their_secrets(objects: list[Object]) -> None:
    secrets = {
        entry["metadata"]["name"]: entry.get("data", {}).keys() | entry.get("stringData", {}).keys()
        for entry in objects
        if entry["kind"] == "Secret"
    }
    for where, spec in pod_specs(objects):
        for container in containers(spec):
            for name, source in environment(container).items():
                if isinstance(source, dict) and source.get("secretKeyRef", {}).get("name") in secrets:
                    reference = source["secretKeyRef"]
                    assert reference["key"] in secrets[reference["name"]], f"{where} {name}"


def test_a_service_may_be_named_on_a_release_that_is_installed() -> None:
    """A StatefulSet's serviceName is immutable."""

    def service_names(objects: list[Object]) -> dict[str, str]:
        sets = [entry for entry in objects if entry["kind"] == "StatefulSet"]
        return {entry["metadata"]["name"]: entry["spec"]["serviceName"] for entry in sets}

    named = {name: {"name": f"our-{name}"} for name in ("postgresql", "redis", "minio")}
    before = service_names(maestro("default"))
    assert len(before) == 5
    assert service_names(render("maestro", {"global": {"services": named}})) == before


# Images


def test_every_image_is_built_here(objects: list[Object]) -> None:
    images = {container["image"] for _, spec in pod_specs(objects) for container in containers(spec)}
    platform = yaml.safe_load(find(objects, "ConfigMap", "maestro-airflow-pods")["data"]["platform.yaml"])
    for image in images | set(platform["images"].values()):
        registry, _, name = image.partition(":")[0].rpartition("/")
        assert registry == "localhost/maestro"
        assert name in RECIPES, image


def test_an_images_own_tag_wins() -> None:
    objects = render(
        "maestro", {"global": {"images": {"registry": "r.example.com/x", "tag": "1", "tags": {"mlflow": "2"}}}}
    )
    images = {container["image"] for _, spec in pod_specs(objects) for container in containers(spec)}
    assert "r.example.com/x/mlflow:2" in images
    assert "r.example.com/x/airflow:1" in images


def test_an_image_without_a_tag_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        Refused, match=r'image "mlflow" has no tag: set global\.images\.tag or global\.images\.tags\.mlflow'
    ):
        render("mlflow", {"global": {"images": {"tag": ""}}})


# Secrets


def test_secrets_are_random_long_enough_and_outlive_the_release() -> None:
    first, second = (
        {entry["metadata"]["name"]: entry for entry in render_anew("maestro") if entry["kind"] == "Secret"}
        for _ in range(2)
    )
    for name in ("maestro-postgresql", "maestro-redis", "maestro-minio", "maestro-airflow", "maestro-sensor-trainer"):
        assert first[name]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        for key, value in first[name]["data"].items():
            assert second[name]["data"][key] != value, f"{name} {key}"
            assert len(base64.b64decode(value)) >= 16, f"{name} {key}"


def test_values_hold_no_secret() -> None:
    for path in CHARTS.glob("*/values*.yaml"):
        for keys, value in leaves(load(path)):
            if "secretKeyRef" in keys:
                continue  # the name of a key
            if re.search(r"password|secret|token|key$", keys[-1], re.IGNORECASE) and not re.search(
                r"Secret(Name)?$|_length$", keys[-1]
            ):
                assert not value, f"{path.name}: {'.'.join(keys)}"


# Values and schemas


@pytest.mark.parametrize("path", [(), *((key,) for key in SUBCHARTS), ("global",), *(("global", key) for key in (
    "images", "services", "buckets", "postgresql", "redis", "sensorTrainer", "s3", "notifications", "tls",
))], ids=".".join)  # fmt: skip
def test_unknown_keys_are_errors(path: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="notAKey"):
        render("maestro", at((*path, "notAKey"), "x"))


def test_schemas_and_reference_are_those_that_the_comments_make() -> None:
    made = subprocess.run(
        [sys.executable, CHARTS / "values.py", "--check"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr


CELERY = {"airflow": {"executor": "CeleryExecutor"}}


def workers(**values: Any) -> dict[str, Any]:
    return {"airflow": {"executor": "CeleryExecutor", "workers": values}}


GRAFANA = {"monitoring": {"grafana": {"enabled": True, "image": "grafana:1"}}}
MAIL = {"global": {"notifications": {"mail": {"host": "smtp.example.com", "existingSecret": "x"}}}}
STORE_OF_BACKUPS = {"s3": {"endpoint": "https://backups", "existingSecret": "x"}}
# A value that is rendered only together with another.
NEEDS: dict[str, dict[str, Any]] = {
    "global.postgresql.external": {
        "global": {"postgresql": {"external": {"enabled": True, "host": "db"}, "existingSecret": "x"}}
    },
    "global.redis.external": {
        "global": {"redis": {"external": {"enabled": True, "host": "redis"}, "existingSecret": "x"}}
    },
    "global.s3.external": {"global": {"s3": {"external": {"enabled": True}, "existingSecret": "x"}}},
    **{
        f"global.networkPolicies.outside.{store}": {"global": {store: {"external": external, "existingSecret": "x"}}}
        for store, external in {
            "postgresql": {"enabled": True, "host": "db"},
            "redis": {"enabled": True, "host": "redis"},
            "s3": {"enabled": True},
        }.items()
    },
    "global.networkPolicies.outside.webhook": {"global": {"notifications": {"slackWebhookSecret": "x"}}},
    "global.networkPolicies.outside.mail": MAIL,
    "global.notifications.mail": MAIL,
    "airflow.variables.alert_email": MAIL,
    "minio.createExternalBuckets": {"global": {"s3": {"external": {"enabled": True}, "existingSecret": "x"}}},
    "postgresql.pooler": {"global": {"postgresql": {"pooler": {"enabled": True}}}},
    "global.services.postgresqlPooler": {"global": {"postgresql": {"pooler": {"enabled": True}}}},
    "postgresql.enabled": {"global": {"postgresql": {"existingSecret": "x"}}},
    "redis.enabled": {"global": {"redis": {"existingSecret": "x"}}},
    "minio.enabled": {"global": {"s3": {"existingSecret": "x"}}},
    "mlflow.enabled": {"global": {"services": {"mlflow": {"name": "x"}}}},
    "monitoring.enabled": SILENT,
    "monitoring.grafana": GRAFANA,
    "global.services.grafana": GRAFANA,
    "airflow.workers.hpa.enabled": CELERY,
    "airflow.workers.keda.enabled": CELERY,
    # Of a set beside those that are scaled otherwise: not both scale the same.
    "airflow.workers.keda": workers(sets={"keda": {"hpa": {"enabled": False}, "keda": {"enabled": True}}}),
    "airflow.workers.hpa": workers(hpa={"enabled": True}),
    "airflow.workers.replicas": workers(sets={"fixed": {"hpa": {"enabled": False}}}),
    "airflow.workers": CELERY,
    "airflow.retention": {"airflow": {"retention": {"enabled": True}}},
    "mlflow.retention": {"mlflow": {"retention": {"enabled": True}}},
    "retention": {"retention": {"enabled": True}},
    "postgresql.backup.enabled": {"postgresql": {"backup": STORE_OF_BACKUPS}},
    "postgresql.backup": {"postgresql": {"backup": {"enabled": True, **STORE_OF_BACKUPS}}},
    "postgresql.restore": {"postgresql": {"restore": {"from": "x"}, "backup": STORE_OF_BACKUPS}},
    "airflow.dags.persistence": {"airflow": {"dags": {"persistence": {"enabled": True}}}},
    "feast.replicas": {"feast": {"autoscaling": {"enabled": False}}},
    "modelServer.replicas": {"modelServer": {"autoscaling": {"enabled": False}}},
    "sensorTrainer.replicas": {"sensorTrainer": {"autoscaling": {"enabled": False}}},
    "sensorTrainer.worker.replicas": {"sensorTrainer": {"worker": {"autoscaling": {"enabled": False}}}},
}
# The same of others, where the type alone does not tell what the schema takes; None: it has tests of its own.
OTHER: dict[str, Callable[[str], Any]] = {
    "global.images.pullPolicy": lambda _: "Always",
    "global.images.tags": lambda mark: {"airflow": mark},
    "global.postgresql.databases": lambda mark: ["airflow", "mlflow", "feast", "sensors", "ledger", mark],
    "global.postgresql.external.enabled": lambda _: None,  # it needs host and Secret
    "global.redis.external.enabled": lambda _: None,
    "global.s3.external.enabled": lambda _: None,
    "global.s3.external.endpoint": lambda mark: f"http://{mark}",
    "global.networkPolicies.enabled": lambda _: None,  # it would leave out what is told by the others
    "global.networkPolicies.ingress": lambda mark: {
        "mlflow": [{"from": [{"podSelector": {"matchLabels": {"x": mark}}}]}]
    },
    "global.networkPolicies.egress": lambda mark: {"task": [{"to": [{"podSelector": {"matchLabels": {"x": mark}}}]}]},
    **{
        f"global.networkPolicies.outside.{what}": lambda _: ["192.0.2.0/24"]
        for what in ("kubernetes", "postgresql", "redis", "s3", "webhook", "mail")
    },
    "global.notifications.mail.security": lambda _: "tls",
    **{f"global.notifications.addresses.{page}": lambda mark: f"https://{mark}" for page in ("airflow", "mlflow")},
    **{
        f"global.tls.{what}": lambda _: None  # tests/charts/test_tls.py and tests/contract/test_certificates.py
        for what in ("days", "renewDays", "certManager.issuerRef.name", "certManager.issuerRef.kind", "existingSecrets")
    },
    "postgresql.conf.max_connections": lambda mark: ROOMY + int(mark[1:]),
    **{f"{chart}retention.schedule": lambda _: "1 2 * * *" for chart in ("", "airflow.", "mlflow.")},
    "postgresql.backup.schedule": lambda _: "1 2 * * *",
    "postgresql.backup.s3.endpoint": lambda mark: f"https://{mark}",
    "postgresql.restore.at": lambda _: "2026-11-28 09:30:00+00",
    "minio.lifecycle.expire": lambda mark: {"logs": int(mark[1:])},
    "minio.lifecycle.versions": lambda mark: {"data": int(mark[1:])},
    "postgresql.pooler.maxClientConnections": lambda _: 20_001,
    "postgresql.pooler.pools": lambda _: None,  # tests/charts/test_postgresql.py
    "postgresql.reservedConnections": lambda _: None,  # nothing is rendered of it
    "airflow.executor": lambda _: None,  # tests/charts/test_airflow.py
    "airflow.broker.database": lambda _: 7,
    # Less than the time after which messages go to another worker, which is none of a mark.
    "airflow.workers.terminationGracePeriodSeconds": lambda _: 601,
    "airflow.config.celery_broker_transport_options.visibility_timeout": lambda _: "3601",
    "airflow.workers.queue": lambda mark: f"default,{mark}",
    "airflow.workers.hpa.metrics": lambda mark: [{"type": mark}],
    "airflow.workers.sets": lambda mark: {mark: {}},
    "airflow.logs.format": lambda _: "json",
    "airflow.statsd": lambda _: None,  # is refused
    "airflow.dags.persistence.accessMode": lambda _: "ReadWriteOnce",
    **{
        name: lambda _: None  # tests/charts/test_airflow.py: not beside the volume of DAG files
        for name in (
            "global.networkPolicies.outside.git",
            *(
                f"airflow.dags.gitSync.{key}"
                for key in (
                    "enabled",
                    "repo",
                    "ref",
                    "subPath",
                    "credentialsSecret",
                    "sshKeySecret",
                    "knownHosts",
                    "period",
                )
            ),
        )
    },
    "airflow.taskPods.images": lambda _: ["task"],
    "feast.autoscaling.targetCPUUtilizationPercentage": lambda _: 71,
    "modelServer.autoscaling.targetCPUUtilizationPercentage": lambda _: 71,
    "modelServer.family": lambda _: "torch",
    "modelServer.log.share": lambda _: 0.25,
    "modelServer.models": lambda mark: {mark: {}},
    "sensorTrainer.autoscaling.targetCPUUtilizationPercentage": lambda _: 71,
    "mlflow.corsAllowedOrigins": lambda mark: [f"https://{mark}"],
    "monitoring.alertmanager.receivers": lambda mark: [{"name": mark}],
    "monitoring.alertmanager.routes": lambda mark: [{"receiver": mark}],
    "monitoring.alertmanager.secrets": lambda mark: [mark],
    "monitoring.grafana.enabled": lambda _: None,  # it needs an image
    "monitoring.grafana.prometheusUrl": lambda mark: f"http://{mark}",
    "monitoring.operator.enabled": lambda _: None,  # it needs the operator's kinds
    "monitoring.operator.labels": lambda _: None,
    "monitoring.postgresqlExporter.sslmode": lambda _: "require",
    "monitoring.prometheus.interval": lambda _: "61s",
    "monitoring.prometheus.remoteWrite": lambda mark: [{"url": f"http://{mark}"}],
    "monitoring.prometheus.retention.size": lambda _: "9GB",
    "monitoring.prometheus.retention.time": lambda _: "9d",
    "monitoring.prometheus.scrapeConfigs": lambda mark: [{"job_name": mark}],
    "monitoring.prometheus.secrets": lambda mark: [mark],
    "monitoring.rules.groups": lambda mark: [{"name": mark, "rules": []}],
    "monitoring.rules.runbooks": lambda mark: f"https://{mark}/",
}


# More connections to PostgreSQL than any number of pods could have.
ROOMY = 10**15


def every_value() -> dict[tuple[str, ...], Any]:
    """Each value of the umbrella and of its charts, by the path under which the umbrella takes it."""
    values = load(CHARTS / "maestro/values.yaml")
    for key, chart in SUBCHARTS.items():
        own = load(CHARTS / chart / "values.yaml")
        own.pop("global")
        values[key] = own | values[key]
    return dict(leaves(values))


VALUES = every_value()
# A number that stands for each value; in this order the least of two stays less than the most.
MARKS = {path: number for number, path in enumerate(VALUES, 20_000)}


def another(path: tuple[str, ...]) -> Any:
    """A value that differs and that the schema takes; where it can be told from all others, it holds its mark."""
    value, mark = VALUES[path], MARKS[path]
    if ".".join(path) in OTHER:
        return OTHER[".".join(path)](f"x{mark}")
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return mark
    if re.fullmatch(r"\d+[MG]i|\d+m", str(value)) or path[-1] in ("memory", "cpu"):
        return f"{mark}Mi" if "i" in str(value) else f"{mark}m"
    if isinstance(value, list):
        plain = ("pullSecrets", "allowedHosts", "sensors", "confined")
        named = {"env": {"name": f"x{mark}", "value": "y"}, **dict.fromkeys(plain, f"x{mark}")}
        return [*value, named.get(path[-1], {"key": f"x{mark}"})]
    if isinstance(value, dict):
        return {"other": f"x{mark}"}
    return f"x{mark}"


def needed(path: tuple[str, ...]) -> dict[str, Any]:
    """What must be set for the value to be rendered."""
    name = ".".join(path)
    prefixes = [prefix for prefix in NEEDS if name.startswith(prefix) and (path[-1] != "enabled" or name == prefix)]
    return NEEDS[prefixes[0]] if prefixes else {}


# Refused beside an external server.
ALONE = (
    *("postgresql.backup", "postgresql.restore", "postgresql.pooler"),
    *("global.services.postgresqlPooler", "minio.lifecycle"),
)


@cache
def seen() -> set[int]:
    """The marks that are found when all values are others at once: those that need no other, and all together."""
    beside = {path: mark for path, mark in MARKS.items() if not ".".join(path).startswith(ALONE)}
    marked = {path: at(path, another(path)) for path, mark in beside.items() if str(mark) in str(another(path))}
    plain = [changed for path, changed in marked.items() if not needed(path)]
    needs = [values for name, values in NEEDS.items() if not name.startswith(ALONE)]
    objects = [fixed(reduce(merge, values)) for values in (plain, [*needs, *marked.values()])]
    return {int(mark) for mark in re.findall(r"\bx?(2\d{4})(?:Mi|m)?\b", json.dumps(objects).replace("\\n", "\n"))}


@pytest.mark.parametrize("path", VALUES, ids=".".join)
def test_every_value_is_used(path: tuple[str, ...]) -> None:
    """Its mark is found in what is rendered, or what is rendered is another where it alone is another."""
    changed = another(path)
    if changed is not None and MARKS[path] not in seen():
        assert fixed(merge(needed(path), at(path, changed))) != fixed(needed(path))


def fixed(values: dict[str, Any]) -> list[Object]:
    """The objects without the data of random Secrets, which differs from one rendering to the next."""
    roomy = {"postgresql": {"conf": {"max_connections": ROOMY}}}
    objects = render("maestro", merge(roomy, values))
    return [{**e, "data": sorted(e["data"])} if e["kind"] == "Secret" and "data" in e else e for e in objects]


# Connections to PostgreSQL

CONNECTIONS = ("AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE", "AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW")
STORE = ("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW")
ASYNC_OVERFLOW = 10  # SQLAlchemy's own, which Airflow leaves as it is for the api-server's second pool
MLFLOW_STORES = 3  # of a process: runs, registry, users


def connections(container: Object, cfg: configparser.ConfigParser) -> int:
    """Those that the programs of a container have at most, as they are told and as their code says."""
    told, name = environment(container), container["name"]
    if all(key in told for key in CONNECTIONS):
        kept, more = (int(told[key]) for key in CONNECTIONS)
        return kept + more + (kept + ASYNC_OVERFLOW if name == "api-server" else 0)
    if all(key in told for key in STORE):
        processes = [int(a.partition("=")[2]) for a in container["args"] if a.startswith("--workers=")]
        each = sum(int(told[key]) for key in STORE)
        return processes[0] * MLFLOW_STORES * each if processes else each
    if name == "pooler":
        pools = [int(pool.partition("=")[2]) for pool in told["POOLER_POOLS"].split()]
        return sum(pools) + len(pools) + 1  # its own: images/postgresql/pooler-start
    if name == "celery":
        # One a process, which writes what became of its task, and those of the first of them at its start.
        return cfg.getint("celery", "worker_concurrency") + 2
    if "AIRFLOW_CONFIG" in told:
        return sum(cfg.getint("database", f"sql_alchemy_{key}") for key in ("pool_size", "max_overflow"))
    if name in ("feast", "apply"):
        return sum(feature_store._POOL.values())
    return {"api": app.CONNECTIONS, "worker": 2 + 1, "migrate": 1}.get(name, 0)


POOLER = "maestro-postgresql-pooler:"  # in the addresses of who goes there


def pooled_connections(container: Object, cfg: configparser.ConfigParser) -> int:
    """Those of them that go to the pooler, where there is one: of the api-server not what it does asynchronously."""
    asynchronous = int(environment(container).get(CONNECTIONS[0], 0)) + ASYNC_OVERFLOW
    return connections(container, cfg) - (asynchronous if container["name"] == "api-server" else 0)


def at_most(entry: Object, objects: list[Object]) -> int:
    """How many pods of a workload there are at most, while it rolls."""
    spec = entry["spec"]
    most = {"HorizontalPodAutoscaler": "maxReplicas", "ScaledObject": "maxReplicaCount"}
    scaled = [
        e["spec"][most[e["kind"]]]
        for e in objects
        if e["kind"] in most and e["spec"]["scaleTargetRef"]["name"] == entry["metadata"]["name"]
    ]
    rolled = entry["kind"] == "Deployment" and spec["strategy"].get("type") != "Recreate"
    return (scaled or [spec.get("replicas", 1)])[0] + rolled


@pytest.mark.parametrize("profile", PROFILES)
def test_the_pods_together_have_no_more_connections_than_postgresql_allows(profile: str) -> None:
    objects = render("maestro", PROFILES[profile])
    cfg = configparser.ConfigParser(interpolation=None)
    cfg.read_string(find(objects, "ConfigMap", "maestro-airflow-config")["data"]["airflow.cfg"])
    (server,) = find(objects, "StatefulSet", "maestro-postgresql")["spec"]["template"]["spec"]["containers"]
    (allowed,) = (int(a.partition("=")[2]) for a in server["args"] if a.startswith("max_connections="))
    together, clients = {}, {}
    for entry in objects:
        if entry["kind"] not in ("Deployment", "StatefulSet", "Job"):
            continue
        for container in containers(entry["spec"]["template"]["spec"]):
            if container["name"] not in ("release-gate", "dags-gate"):
                name, pods = f"{entry['metadata']['name']} {container['name']}", at_most(entry, objects)
                pooled = POOLER in str(environment(container).values())
                if pooled:
                    clients[name] = pods * pooled_connections(container, cfg)
                together[name] = pods * (connections(container, cfg) - pooled * pooled_connections(container, cfg))
    needed = sum(together.values())
    assert needed > 100, "nothing was counted"
    assert needed + 30 <= allowed, together
    assert bool(clients) == PROFILES[profile].get("global", {}).get("postgresql", {}).get("pooler", {}).get(
        "enabled", False
    )
    tight = merge(PROFILES[profile], {"postgresql": {"conf": {"max_connections": needed + 29}}})
    with pytest.raises(Refused, match=f"raise postgresql.conf.max_connections to {needed + 30}"):
        render("maestro", tight)
    render("maestro", merge(tight, {"postgresql": {"conf": {"max_connections": needed + 30}}}))


def test_clients_that_one_pod_of_the_pooler_could_not_take_are_refused_with_the_remedy() -> None:
    values = {"global": {"postgresql": {"pooler": {"enabled": True}}}}
    with pytest.raises(Refused, match=r"raise postgresql\.pooler.maxClientConnections to ([0-9]+)") as refusal:
        render("maestro", merge(values, {"postgresql": {"pooler": {"maxClientConnections": 20}}}))
    (enough,) = re.findall("maxClientConnections to ([0-9]+)", str(refusal.value))
    render("maestro", merge(values, {"postgresql": {"pooler": {"maxClientConnections": int(enough)}}}))


def test_a_pooler_without_its_chart_is_refused_with_the_remedy() -> None:
    values = {"global": {"postgresql": {"pooler": {"enabled": True}, "existingSecret": "x"}}}
    without = {**values, "postgresql": {"enabled": False}}
    with pytest.raises(Refused, match=r"name another release's in global\.services.postgresqlPooler"):
        render("maestro", without)
    render("maestro", merge(without, {"global": {"services": {"postgresqlPooler": {"name": "theirs"}}}}))


def test_replicas_that_postgresql_has_no_connections_for_are_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match=r"airflow.apiServer.*lower replicas, workers, pools or databaseConnections"):
        render("maestro", {"airflow": {"apiServer": {"replicas": 9}}})
    external = {"enabled": True, "host": "db"}
    elsewhere = {"global": {"postgresql": {"external": external, "existingSecret": "x"}}}
    assert render("maestro", merge(elsewhere, {"airflow": {"apiServer": {"replicas": 9}}})), "nobody knows its limit"


# The data sets


def dataset_commands(values: dict[str, Any] | None = None) -> list[list[str]]:
    """What `make data` runs, in its order."""
    described = find(render("maestro", values), "ConfigMap", "maestro-command")
    commands: list[list[str]] = yaml.safe_load(described["data"]["datasets.yaml"])
    return commands


def test_the_data_sets_are_loaded_and_then_their_features_are_computed_by_commands_that_there_are() -> None:
    load, build = (parser().parse_args(command) for command in dataset_commands())
    assert (load.group, load.command, load.dataset, load.shift_to_now) == ("ingestion", "load", "all", True)
    assert (build.group, build.command, build.dataset) == ("features", "build", "all")


def test_event_times_are_as_recorded_where_values_say_so() -> None:
    load, _ = (parser().parse_args(command) for command in dataset_commands({"datasets": {"shiftToNow": False}}))
    assert load.shift_to_now is False


# Commands that a person runs


@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_a_version_that_does_not_come_up_is_taken_back_before_kubernetes_ends_the_job(verb: str) -> None:
    words = command(verb, {"MODEL": "ctr_model", "VERSION": "3"}, "me")
    job = command_job(render("maestro"), "registry", *words)["spec"]
    options = parser().parse_args(job["template"]["spec"]["containers"][0]["args"][3:])
    assert job["activeDeadlineSeconds"] == SECONDS, "make waits as long"
    left = SECONDS - options.timeout - rollout._SETTLING - rollout._REQUEST_TIMEOUT
    assert left >= 120, "for the pod's start and the way back"


@pytest.mark.parametrize("enabled", [True, False])
def test_a_command_that_promotes_runs_as_an_account_that_there_is(enabled: bool) -> None:
    objects = render("maestro", {"modelServer": {"enabled": enabled}})
    pod = command_job(objects, "registry", "promote")["spec"]["template"]["spec"]
    accounts = {entry["metadata"]["name"] for entry in objects if entry["kind"] == "ServiceAccount"}
    assert pod.get("serviceAccountName") == ("maestro-deployer" if enabled else None)
    assert not enabled or "maestro-deployer" in accounts


# Profiles


def test_the_production_profile_has_two_of_what_can_have_a_second_and_workers_that_grow() -> None:
    objects = maestro("prod")
    cfg = configparser.ConfigParser(interpolation=None)
    cfg.read_string(find(objects, "ConfigMap", "maestro-airflow-config")["data"]["airflow.cfg"])
    assert cfg["core"]["executor"] == "CeleryExecutor"
    scalers = {
        entry["metadata"]["name"]: (entry["spec"]["minReplicas"], entry["spec"]["maxReplicas"])
        for entry in objects
        if entry["kind"] == "HorizontalPodAutoscaler"
    }
    assert scalers["maestro-airflow-worker"] == (3, 20)
    budgets = {entry["metadata"]["name"] for entry in objects if entry["kind"] == "PodDisruptionBudget"}
    least = {}
    for entry in objects:
        if entry["kind"] in ("Deployment", "StatefulSet"):
            name = entry["metadata"]["name"]
            least[name] = scalers[name][0] if name in scalers else entry["spec"]["replicas"]
            if least[name] > 1:
                assert name in budgets
                spread = entry["spec"]["template"]["spec"]["topologySpreadConstraints"]
                assert [constraint["topologyKey"] for constraint in spread] == [
                    "kubernetes.io/hostname",
                    "topology.kubernetes.io/zone",
                ]
                for constraint in spread:
                    assert constraint["labelSelector"] == entry["spec"]["selector"]
    more = ("airflow-api-server", "airflow-dag-processor", "airflow-scheduler", "airflow-triggerer", "feast", "mlflow")
    more += ("model-server", "model-server-ctr", "sensor-trainer", "sensor-trainer-worker")
    assert {name: number for name, number in least.items() if number > 1} == {
        **{
            f"maestro-{name}": 2
            for name in (*more, "model-server", "model-server-ctr", "sensor-trainer", "sensor-trainer-worker")
        },
        "maestro-postgresql-pooler": 2,
        "maestro-airflow-worker": 3,
    }
    requested = sum(
        least[entry["metadata"]["name"]] * mebibytes(container["resources"]["requests"]["memory"])
        for entry in objects
        if entry["kind"] in ("Deployment", "StatefulSet")
        for container in entry["spec"]["template"]["spec"]["containers"]
    )
    assert 8 * 1024 <= requested <= 16 * 1024
    claim = find(objects, "PersistentVolumeClaim", "maestro-airflow-dags")["spec"]
    assert claim["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("profile", ["minikube", "prod"])
def test_chaos_kills_the_pods_of_each_component_of_the_platform(profile: str) -> None:
    workloads = [entry for entry in maestro(profile) if entry["kind"] in ("Deployment", "StatefulSet")]
    components = {entry["metadata"]["labels"]["app.kubernetes.io/component"] for entry in workloads}
    assert [each for each in components if not any(covers(name, each) for name in COMPONENTS)] == []


def test_the_profile_of_production_on_one_node_is_that_for_several_with_less_for_each_pod() -> None:
    """Of the same objects, but that KEDA scales the workers: so what holds there is said of the other too."""
    several, prod = maestro("prod"), PROFILES["prod"]
    overlay = CHARTS / "maestro/values-prod-local.yaml"
    printed = template("maestro", prod, "maestro", "maestro", "--values", str(overlay))
    one = [document for document in yaml.load_all(printed, Loader) if document]

    def replicas(objects: list[Object]) -> dict[tuple[str, str], int | None]:
        kinds = ("Deployment", "StatefulSet")
        workloads = (entry for entry in objects if entry["kind"] in kinds)
        return {(each["kind"], each["metadata"]["name"]): each["spec"].get("replicas") for each in workloads}

    def memory(objects: list[Object]) -> int:
        return sum(
            (entry["spec"].get("replicas") or 1) * mebibytes(container["resources"]["requests"]["memory"])
            for entry in objects
            if entry["kind"] in ("Deployment", "StatefulSet")
            for container in entry["spec"]["template"]["spec"]["containers"]
        )

    assert replicas(one) == replicas(several)
    assert memory(one) < memory(several) * 2 / 3
    scaler = find(one, "ScaledObject", "maestro-airflow-worker")["spec"]
    assert scaler["minReplicaCount"] == 3
    autoscalers = {entry["metadata"]["name"] for entry in one if entry["kind"] == "HorizontalPodAutoscaler"}
    assert autoscalers == {
        entry["metadata"]["name"] for entry in several if entry["kind"] == "HorizontalPodAutoscaler"
    } - {"maestro-airflow-worker"}


def test_the_minikube_profile_is_the_small_one() -> None:
    objects = maestro("minikube")
    names = {entry["metadata"]["name"] for entry in objects if entry["kind"] == "Deployment"}
    assert "maestro-airflow-api-server" not in names, "it is in the scheduler's pod"
    workloads = [entry for entry in objects if entry["kind"] in ("Deployment", "StatefulSet")]
    assert {workload["spec"]["replicas"] for workload in workloads} == {1}
    assert not [entry for entry in objects if entry["kind"] == "HorizontalPodAutoscaler"]
    requested = sum(
        mebibytes(container["resources"]["requests"]["memory"])
        for workload in workloads
        for container in workload["spec"]["template"]["spec"]["containers"]
    )
    assert requested <= 4096


# What Kubernetes itself asks for on one node of kubeadm's: API server, controllers, scheduler, etcd, two of CoreDNS,
# metrics-server.
KUBERNETES_MILLICORES = 250 + 200 + 100 + 100 + 2 * 100 + 100


def test_the_minikube_profile_fits_two_cores_twice_with_all_its_jobs_and_the_largest_task() -> None:
    """Pods wait for the Jobs of an installation, so Jobs that find no place would stop it for good."""
    objects = maestro("minikube")

    def requested(*kinds: str) -> int:
        return sum(millicores(spec) for where, spec in pod_specs(objects) if where.partition("/")[0] in kinds)

    platform = yaml.safe_load(find(objects, "ConfigMap", "maestro-airflow-pods")["data"]["platform.yaml"])
    task = millicores({"containers": [{"resources": platform["sizes"]["large"]}]})
    services, jobs = requested("Deployment", "StatefulSet"), requested("Job")
    assert min(services, jobs, task) > 0
    assert KUBERNETES_MILLICORES + 2 * services + jobs + task <= 2000


def millicores(spec: Object) -> int:
    """What a pod asks for: all that runs at once, or the largest init container before it."""

    def of(container: Object) -> int:
        quantity = str(container["resources"]["requests"]["cpu"])
        return int(quantity[:-1]) if quantity.endswith("m") else 1000 * int(quantity)

    before = spec.get("initContainers", [])
    beside = [container for container in before if container.get("restartPolicy") == "Always"]
    together = sum(map(of, [*beside, *spec["containers"]]))
    return max([together, *(of(container) for container in before)])


def mebibytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


def outside(key: str, **external: Any) -> dict[str, Any]:
    """Values with which a service elsewhere, whose Secret is `elsewhere`, takes the place of the platform's own."""
    return {"global": {key: {"external": {"enabled": True, **external}, "existingSecret": "elsewhere"}}}


# What makes up for a part that is left out.
INSTEAD: dict[str, dict[str, Any]] = {
    "postgresql": outside("postgresql", host="db.example.com"),
    "redis": outside("redis", host="redis.example.com"),
    "minio": outside("s3", endpoint="https://s3.example.com"),
    "mlflow": {"global": {"services": {"mlflow": {"name": "mlflow-of-another"}}}},
    "monitoring": SILENT,
}


@pytest.mark.parametrize("key", SUBCHARTS)
def test_every_part_can_be_left_out_and_the_others_find_all_they_refer_to(key: str) -> None:
    objects = render("maestro", merge(INSTEAD.get(key, {}), {key: {"enabled": False}}))
    assert objects
    assert key not in {entry["metadata"]["labels"]["app.kubernetes.io/name"] for entry in objects}
    assert_referred_to_exists(objects, ("Secret", "elsewhere"), optional=False)


@pytest.mark.parametrize("key", ["postgresql", "redis", "minio"])
def test_a_store_left_out_with_nothing_in_its_place_is_refused_with_the_remedy(key: str) -> None:
    with pytest.raises(Refused, match=rf"{key}\.enabled is false and nothing takes its place: set it to true, or set"):
        render("maestro", {key: {"enabled": False}})


@pytest.mark.parametrize("key", ["feast", "modelServer", "sensorTrainer"])
def test_a_part_that_needs_mlflow_is_refused_without_it(key: str) -> None:
    others = {part: {"enabled": part == key} for part in ("feast", "modelServer", "sensorTrainer")}
    with pytest.raises(Refused, match=f"{key} needs MLflow and mlflow.enabled is false: set it to true"):
        render("maestro", {"mlflow": {"enabled": False}, **others})


def test_metrics_that_nobody_takes_are_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match=r"monitoring\.enabled is false and Airflow sends metrics: set it to true"):
        render("maestro", {"monitoring": {"enabled": False}})
    elsewhere = {"global": {"services": {"statsd": {"name": "exporter-of-another"}}}}
    assert render("maestro", {"monitoring": {"enabled": False}, **elsewhere})


@pytest.mark.parametrize(
    ("moved", "there"),
    [({"enabled": False}, "monitoring.enabled"), ({"resources": {}}, "monitoring.statsd.resources")],
)
def test_a_value_that_has_moved_is_refused_with_its_new_name(moved: dict[str, Any], there: str) -> None:
    with pytest.raises(Refused, match=rf"is no value of the chart airflow: set {there} instead"):
        render("maestro", {"airflow": {"statsd": moved}})


def test_the_bound_of_anomalies_that_a_release_before_had_is_refused_with_its_new_name() -> None:
    with pytest.raises(Refused, match=r"is no Variable any more.*set variables\.anomaly_excess_threshold"):
        render("maestro", {"airflow": {"variables": {"anomaly_rate_threshold": "0.1"}}})


@pytest.mark.parametrize("chart", SUBCHARTS.values())
def test_every_chart_installs_alone_under_the_names_it_has_in_the_umbrella(chart: str) -> None:
    alone = {(entry["kind"], entry["metadata"]["name"]) for entry in render(chart) if entry["kind"] != "Job"}
    together = {(entry["kind"], entry["metadata"]["name"]) for entry in maestro("default")}
    assert alone
    assert alone <= together


def test_external_databases_and_an_external_store_replace_the_platforms_own() -> None:
    values = merge(outside("postgresql", host="db.example.com", port=6432), INSTEAD["redis"])
    objects = render("maestro", merge(values, INSTEAD["minio"]))
    stores = {entry["metadata"]["name"] for entry in objects if entry["kind"] == "StatefulSet"}
    assert stores == {"maestro-prometheus", "maestro-alertmanager"}
    text = yaml.safe_dump(objects)
    assert not re.search("maestro-(minio|(postgresql|redis)(?!-exporter))", text)
    assert "airflow@db.example.com:6432/airflow" in text


def with_notes(folder: Path, values: dict[str, Any]) -> tuple[list[Object], str]:
    """The platform's objects and its notes. Helm prints those of an installation only: here they are an object's."""
    chart = folder / "maestro"
    shutil.copytree(CHARTS / "maestro", chart)
    notes = chart / "templates/NOTES.txt"
    lines = "".join(f"  {line}\n" for line in notes.read_text().splitlines())
    (chart / "templates/notes.yaml").write_text(f"kind: Notes\nmetadata: {{name: notes}}\ntext: |\n{lines}")
    notes.unlink()
    objects = render(str(chart), values)
    return objects, find(objects, "Notes", "notes")["text"]


def test_the_notes_name_services_and_secrets_that_exist(tmp_path: Path) -> None:
    objects, text = with_notes(tmp_path, PROFILES["minikube"])
    kinds = {"service": "Service", "secret": "Secret"}
    named = re.findall(r"port-forward (service)/(\S+)|get (secret) (\S+)", text)
    assert len(named) == 12
    for pair in named:
        kind, name = (part for part in pair if part)
        assert find(objects, kinds[kind], name)


def test_the_notes_say_of_other_services_and_logins_what_these_say_of_themselves(tmp_path: Path) -> None:
    moved = {"airflow": {"name": "webserver", "port": 80}, "minio": {"name": "s3", "port": 90, "consolePort": 91}}
    existing = {"s3": "keys", "sensorTrainer": "bearers", "mlflow": "users"}
    own = {"services": moved, **{part: {"existingSecret": name} for part, name in existing.items()}}
    admin = {"username": "ada", "existingSecret": "admins"}
    objects, text = with_notes(tmp_path, {"global": own, "airflow": {"adminUser": admin}})
    services = {entry["metadata"]["name"]: entry for entry in objects if entry["kind"] == "Service"}
    told = dict(re.findall(r"port-forward service/(\S+)((?: \d+:\d+)+)", text))
    assert {"webserver", "s3"} <= told.keys() <= services.keys()
    for name, ports in told.items():
        numbers = {port["port"] for port in services[name]["spec"]["ports"]}
        assert set(map(int, re.findall(r":(\d+)", ports))) == numbers, name
    annotations = [entry["metadata"].get("annotations", {}) for entry in services.values()]
    secrets = {each["maestro/secret-name"] for each in annotations if "maestro/secret-name" in each}
    assert set(re.findall(r"get secret (\S+)", text)) == secrets == {*existing.values(), "admins"}
    assert services["webserver"]["metadata"]["annotations"]["maestro/username"] == "ada"
    assert "user ada, password" in text


def test_the_umbrella_is_made_of_links() -> None:
    for chart in SUBCHARTS.values():
        assert (CHARTS / "maestro/charts" / chart).resolve() == CHARTS / chart
    packaged = subprocess.run(
        ["git", "-C", str(ROOT), "config", "core.symlinks"], capture_output=True, text=True, check=False
    )
    assert packaged.stdout.strip() != "false", "git was told to check links out as files: git config core.symlinks true"


USERS = ("airflow", "backups", "features", "feast", "mlflow", "serving", "tasks")  # of the object store
SERVED = tuple(PROFILES["everything"]["modelServer"]["models"])  # each has objects of its own, by the same templates
KUBECTLS_SHORT_NAMES = {
    "hpa": "horizontalpodautoscaler",
    "pdb": "poddisruptionbudget",
    "pvc": "persistentvolumeclaim",
}


def test_a_template_is_named_for_the_kind_that_it_renders_and_its_folder_for_the_object() -> None:
    printed = template("maestro", PROFILES["everything"])
    for path, text in re.findall(r"^# Source: (\S+)\n(.*?)(?=^---$|\Z)", printed, re.MULTILINE | re.DOTALL):
        place = re.fullmatch(r"(?:maestro/charts/)?(\w+)/templates/(?:([\w-]+)/)?(\w+)\.yaml", path)
        assert place, path
        chart, folder, file = place.groups("")
        entry = yaml.load(text, Loader)  # noqa: S506
        assert KUBECTLS_SHORT_NAMES.get(file, file) == entry["kind"].lower(), path
        # The names of what is of the whole cluster begin with the namespace.
        name = entry["metadata"]["name"].removeprefix("maestro.")
        part = re.sub(rf"^maestro(-{SUBCHARTS.get(chart, chart)})?-?|-[0-9a-f]{{8}}$", "", name)
        endings = {"": SERVED, "tests": "test", "metrics": "-metrics", "network": "-network"}
        endings |= {"users": USERS, "backup": "stanza"}
        assert part == folder or (folder and part.startswith(f"{folder}-")) or part.endswith(endings[folder]), path
