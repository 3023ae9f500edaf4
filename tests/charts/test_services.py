"""Selectors, ports, probes and addresses of all charts together: each is followed to what it leads to."""

import base64
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from infrastructure import release, sensors, services, ui
from tests.charts.conftest import ROOT, Loader, Object, containers, environment, find, render
from tests.charts.images import RECIPES
from tests.charts.profiles import PROFILES, maestro, pods, task_pod

AIRFLOW = Path(next(iter(importlib.util.find_spec("airflow").submodule_search_locations)))
WORKLOADS = ("Deployment", "StatefulSet")
SERVICES = yaml.safe_load((ROOT / "charts/maestro/values.yaml").read_text())["global"]["services"]
# Services of other names and at other ports than the charts'.
MOVED = {
    key: {"name": f"our-{key.lower()}"} | {port: number + 1000 for port, number in service.items() if port != "name"}
    for key, service in SERVICES.items()
}

# Secrets that people have made, and an admin of another name.
OWN_LOGINS = {
    "global": {"s3": {"existingSecret": "our-keys"}, "sensorTrainer": {"existingSecret": "our-token"}},
    "airflow": {"adminUser": {"username": "0123", "existingSecret": "our-login"}},
}
GRAFANA = {"grafana": {"enabled": True, "image": "x/grafana:1", "adminUser": {"existingSecret": "our-dashboards"}}}


@pytest.fixture(params=PROFILES)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return maestro(request.param)


@pytest.fixture(scope="module")
def moved() -> list[Object]:
    """The platform with all its Services elsewhere, with Secrets and an admin of people's own, and with KEDA."""
    keda = {"worker": {"autoscaling": {"keda": True}}}
    values = {**OWN_LOGINS, "global": {"services": MOVED, **OWN_LOGINS["global"]}, "sensorTrainer": keda}
    objects = render("maestro", {**values, "monitoring": GRAFANA})
    return [*objects, task_pod(objects)]


def of_kind(objects: list[Object], *kinds: str) -> Iterator[tuple[str, Object]]:
    """The objects of these kinds by their names without the release."""
    for entry in objects:
        if entry["kind"] in kinds:
            yield entry["metadata"]["name"].removeprefix("maestro-"), entry


def selected(selector: Mapping[str, str], objects: list[Object]) -> list[str]:
    """The names of all pods that the labels select."""
    return [name for name, pod in pods(objects).items() if selector.items() <= pod["metadata"]["labels"].items()]


def behind(service: str, objects: list[Object]) -> str:
    """The pod whose Service this is: of the same name, or the scheduler's where that holds the api-server."""
    name = service.removesuffix("-metrics")
    return name if name in pods(objects) else {"airflow-api-server": "airflow-scheduler"}[name]


def asked_services(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """The Services that something connects to; the others name the pods whose metrics Prometheus asks for."""
    return ((name, entry) for name, entry in of_kind(objects, "Service") if not name.endswith("-metrics"))


# Selectors


def test_every_selector_matches_the_pods_of_its_own_workload_and_no_others_in_the_namespace(
    objects: list[Object],
) -> None:
    selectors = [
        *(
            (name, entry["spec"]["selector"]["matchLabels"])
            for name, entry in of_kind(objects, *WORKLOADS, "PodDisruptionBudget")
        ),
        *((behind(name, objects), entry["spec"]["selector"]) for name, entry in of_kind(objects, "Service")),
    ]
    for name, selector in selectors:
        role = {"maestro/role": selector["maestro/role"]} if "maestro/role" in selector else {}
        assert sorted(selected(selector, objects)) == (sorted(selected(role, objects)) if role else [name])
        assert selector["app.kubernetes.io/instance"] == "maestro", "another release may be beside this one"
        assert not selector.keys() & {"app", "component"}, "an installed release's selectors cannot be changed"


def test_every_object_and_every_pod_says_what_it_belongs_to(objects: list[Object]) -> None:
    """By these labels an uninstall, `make check` and people find them."""
    for entry in [*objects, *pods(objects).values()]:
        labels = entry["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "maestro"
        assert labels["app.kubernetes.io/instance"] == "maestro"
        assert labels["app"] == labels["component"] == labels["app.kubernetes.io/component"]


def test_what_scales_names_a_deployment_that_says_no_number_itself(moved: list[Object]) -> None:
    for objects in (maestro("default"), moved):
        scalers = dict(of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"))
        assert scalers.keys() == {"feast", "model-server", "sensor-trainer", "sensor-trainer-worker"}
        for name, scaler in scalers.items():
            target = scaler["spec"]["scaleTargetRef"]
            assert target.get("kind", "Deployment") == "Deployment"
            assert target["name"] == f"maestro-{name}"
            assert "replicas" not in find(objects, "Deployment", target["name"])["spec"]


# Ports


def listens(container: Object) -> set[int]:
    """What a container's program listens on: the ports that its arguments name, or else those of its own."""
    named = re.findall(r"--\S*(?:port|address|listen)[\w-]*[= ]:?(\d+)", " ".join(container.get("args", ())))
    return {int(port) for port in named} - {0} or OWN_PORTS.get(container["name"], set())


def airflow_default(section: str, option: str) -> int:
    return int(AIRFLOW_OPTIONS[section]["options"][option]["default"])


LIVENESS = 8780  # of the chart: MAESTRO_LIVENESS_PORT
AIRFLOW_OPTIONS = yaml.load((AIRFLOW / "config_templates/config.yml").read_text(), Loader)  # noqa: S506
OWN_PORTS = {
    "pod-states": {8080},
    "postgresql": {5432},
    "pooler": {6432},
    "redis": {6379},
    "api-server": {airflow_default("api", "port")},
    "scheduler": {airflow_default("logging", "worker_log_server_port"), LIVENESS},
    "triggerer": {airflow_default("logging", "trigger_log_server_port"), LIVENESS},
    "celery": {airflow_default("logging", "worker_log_server_port"), LIVENESS},
    "dag-processor": {LIVENESS},
}


def test_the_ports_of_a_container_are_those_that_its_program_listens_on(objects: list[Object]) -> None:
    for name, pod in pods(objects).items():
        for container in containers(pod["spec"]):
            shown = {port["containerPort"] for port in container.get("ports", ())}
            assert shown == listens(container), f"{name} {container['name']}"


def test_programs_whose_port_no_argument_names_are_told_no_other_one() -> None:
    objects = maestro("default")
    cfg = find(objects, "ConfigMap", "maestro-airflow-config")["data"]["airflow.cfg"]
    assert not re.search(r"^(\w+_log_server_)?port *=", cfg, re.MULTILINE)
    for name in ("postgresql", "redis"):
        (server,) = pods(objects)[name]["spec"]["containers"]
        assert not [argument for argument in server["args"] if re.search(r"\bport\b", argument)]


def test_every_service_leads_to_a_port_that_its_pods_open_and_their_image_exposes(objects: list[Object]) -> None:
    for name, service in asked_services(objects):
        assert service["spec"].keys() == {"selector", "ports"}, "reached from inside the cluster only"
        opened = {
            port["name"]: (container["image"], port["containerPort"], port.get("protocol", "TCP"))
            for container in containers(pods(objects)[behind(name, objects)]["spec"])
            for port in container.get("ports", ())
        }
        for port in service["spec"]["ports"]:
            image, number, protocol = opened[port["targetPort"]]
            assert port["name"] == port["targetPort"]
            assert port.get("protocol", "TCP") == protocol
            assert (number, protocol) in exposed(image), f"{name} {port['name']}"


# The port of a container that each argument opens, and that each number of the values leads to, where there are two.
OPENS = {
    "minio": {"--address": "api", "--console-address": "console"},
    "statsd-exporter": {"--statsd.listen-udp": "statsd", "--web.listen-address": "metrics"},
}
LEAD_TO = {
    "minio": {"port": "api", "consolePort": "console"},
    "statsd": {"port": "statsd", "metricsPort": "metrics"},
}


def test_of_two_ports_each_is_the_one_that_it_is_called(moved: list[Object]) -> None:
    opening = [one for pod in pods(moved).values() for one in containers(pod["spec"]) if one["name"] in OPENS]
    assert {container["name"] for container in opening} == OPENS.keys()
    for container in opening:
        shown = {port["name"]: port["containerPort"] for port in container["ports"]}
        for argument, name in OPENS[container["name"]].items():
            assert re.search(rf"{re.escape(argument)}[= ]:?{shown[name]}\b", " ".join(container["args"])), argument
    for key, names in LEAD_TO.items():
        ports = find(moved, "Service", MOVED[key]["name"])["spec"]["ports"]
        found = {port["port"]: port["targetPort"] for port in ports}
        assert found == {MOVED[key][number]: name for number, name in names.items()}


# What people's commands and the end-to-end tests find: a port of a component's Service, and the number in the values.
FOUND = {
    ("airflow-api-server", "http"): ("airflow", "port"),
    ("feast", "http"): ("feast", "port"),
    ("grafana", "http"): ("grafana", "port"),
    ("minio", "api"): ("minio", "port"),
    ("minio", "console"): ("minio", "consolePort"),
    ("mlflow", "http"): ("mlflow", "port"),
    ("model-server", "http"): ("modelServer", "port"),
    ("postgresql", "postgresql"): ("postgresql", "port"),
    ("prometheus", "http"): ("prometheus", "port"),
    ("sensor-trainer", "http"): ("sensorTrainer", "port"),
}


def installed(objects: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has kubectl find these objects by their labels, and each Secret with all keys; a value says which it is."""

    def kubectl(command: str, kind: str, *arguments: str) -> str:
        assert command == "get"
        if kind == "secret":
            keys = ("admin-password", "root-user", "root-password", "token")
            values = {key: base64.b64encode(f"{key} of {arguments[0]}".encode()).decode() for key in keys}
            return json.dumps({"data": values})
        selector = dict(label.split("=") for label in arguments[arguments.index("-l") + 1].split(","))
        of_it = [entry for entry in objects if entry["kind"].lower() == kind]
        return json.dumps({"items": [each for each in of_it if selector.items() <= each["metadata"]["labels"].items()]})

    for module in (release, services):
        monkeypatch.setattr(module, "kubectl", kubectl)


def found(but: str = "") -> dict[tuple[str, str], tuple[str, int]]:
    """Name and port of each Service that is looked for, but of the component that a release is without."""
    return {
        (component, port): ((service := services.service(component)).name, service.port(port))
        for component, port in FOUND
        if component != but
    }


def test_every_page_of_make_ui_is_among_what_is_found() -> None:
    assert {(page.component, page.port) for page in ui.PAGES} <= {*FOUND, (ui.CLICKS, "http")}
    assert (sensors.COMPONENT, "http") in FOUND


def test_the_server_of_clicks_is_found_where_values_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(maestro("minikube"), monkeypatch)
    clicks = services.service(ui.CLICKS)
    assert (clicks.name, clicks.port("http")) == ("maestro-model-server-ctr", SERVICES["modelServer"]["port"])


def test_people_find_each_service_and_its_login_by_what_the_charts_say_of_it(
    objects: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(objects, monkeypatch)
    assert found(but="grafana") == {
        (component, port): (f"maestro-{component}", SERVICES[key][number])
        for (component, port), (key, number) in FOUND.items()
        if component != "grafana"
    }
    assert services.admin() == ("admin", "admin-password of maestro-airflow")
    assert services.object_store_keys() == ("root-user of maestro-minio", "root-password of maestro-minio")
    assert sensors.token() == "token of maestro-sensor-trainer"
    assert release.object_name("configmap", "command") == "configmap/maestro-command"


def test_people_find_them_under_other_names_at_other_ports_and_with_logins_of_their_own(
    moved: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(moved, monkeypatch)
    assert found() == {asked: (MOVED[key]["name"], MOVED[key][number]) for asked, (key, number) in FOUND.items()}
    assert services.admin() == ("0123", "admin-password of our-login")
    assert services.admin("grafana") == ("admin", "admin-password of our-dashboards")
    assert services.object_store_keys() == ("root-user of our-keys", "root-password of our-keys")
    assert sensors.token() == "token of our-token"


def test_of_two_releases_in_one_namespace_each_finds_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    installed([*render("maestro", name="one"), *render("maestro", name="mlflow")], monkeypatch)
    for name, own in (("one", "one-mlflow"), ("mlflow", "mlflow")):
        monkeypatch.setattr(release, "RELEASE", name)
        assert services.service("mlflow").name == own
        assert release.object_name("deployment", "mlflow") == f"deployment/{own}"


def exposed(image: str) -> set[tuple[int, str]]:
    """The ports that the Dockerfile of an image exposes, with their protocols."""
    dockerfile = RECIPES[image.rpartition("/")[2].partition(":")[0]].dockerfile
    (ports,) = re.findall(r"^EXPOSE (.+)$", dockerfile, re.MULTILINE)
    return {
        (int(number), (protocol or "tcp").upper()) for number, _, protocol in (p.partition("/") for p in ports.split())
    }


# Probes: what is asked, every how many seconds, how many seconds for an answer, and how often it may fail.

Probe = tuple[str, int, int, int]
PATIENT = (30, 30, 20)


def health(path: str = "/health", port: str = "http", startup_failures: int = 150) -> dict[str, Probe]:
    return {
        "startupProbe": (f"{port} {path}", 2, 5, startup_failures),
        "readinessProbe": (f"{port} {path}", 5, 10, 3),
        "livenessProbe": (f"{port} {path}", *PATIENT),
    }


LOOP: dict[str, Probe] = {"startupProbe": ("liveness /", 5, 20, 240), "livenessProbe": ("liveness /", 30, 30, 10)}


def small(port: str, ready: str, alive: str) -> dict[str, Probe]:
    return {"readinessProbe": (f"{port} {ready}", 10, 10, 3), "livenessProbe": (f"{port} {alive}", *PATIENT)}


TCP = "pg_isready --host=127.0.0.1 --username=postgres"
POOLED = "psql --no-psqlrc --quiet --tuples-only --host=127.0.0.1 --port=6432 --command=SELECT 1"
PROBES: dict[str, dict[str, Probe]] = {
    "mlflow": health(),
    "feast": health(),
    "api": health(),  # of the sensor trainer
    "model-server": health("/ping", startup_failures=180),
    "minio": {
        "startupProbe": ("api /minio/health/live", 2, 5, 150),
        "readinessProbe": ("api /minio/health/ready", 5, 10, 3),
        "livenessProbe": ("api /minio/health/live", *PATIENT),
    },
    "postgresql": {
        "startupProbe": (TCP, 2, 5, 1800),
        "readinessProbe": (TCP, 5, 10, 3),
        "livenessProbe": (TCP, *PATIENT),
    },
    "pooler": {
        "startupProbe": (POOLED, 2, 5, 1800),
        "readinessProbe": (POOLED, 5, 10, 3),
        "livenessProbe": ("pg_isready --quiet --host=127.0.0.1 --port=6432", *PATIENT),
    },
    "redis": {
        "startupProbe": ("redis-cli -e ping", 2, 5, 1800),
        "readinessProbe": ("redis-cli -e ping", 5, 10, 3),
        "livenessProbe": ("redis-cli ping", *PATIENT),
    },
    "api-server": {
        "startupProbe": ("http /api/v2/version", 5, 20, 240),
        "readinessProbe": ("http /api/v2/monitor/health", 10, 30, 6),
        "livenessProbe": ("http /api/v2/version", *PATIENT),
    },
    "scheduler": LOOP,
    "dag-processor": LOOP,
    "triggerer": LOOP,
    "celery": LOOP,  # of a worker of Airflow
    "prometheus": health("/-/ready", startup_failures=600) | {"livenessProbe": ("http /-/healthy", *PATIENT)},
    "alertmanager": small("http", "/-/ready", "/-/healthy"),
    "pushgateway": small("http", "/-/ready", "/-/healthy"),
    "statsd-exporter": small("metrics", "/-/ready", "/-/healthy"),
    "postgresql-exporter": small("metrics", "/", "/"),
    "redis-exporter": small("metrics", "/health", "/health"),
    "pod-states": small("metrics", "/health", "/health"),
    "worker": {},  # it serves nothing, and the job of one that hangs is given to another when its lease ends
}


def probes(container: Object) -> dict[str, Probe]:
    """The probes of a container, with the defaults of Kubernetes where the chart says nothing."""
    found = {}
    for name, probe in container.items():
        if name.endswith("Probe"):
            ask = probe["httpGet"] if "httpGet" in probe else probe["exec"]
            # Which scheme is tests/charts/test_tls.py's to say.
            assert ask.keys() - {"scheme"} in ({"path", "port"}, {"command"}), "another host or header"
            asked = f"{ask['port']} {ask['path']}" if "path" in ask else " ".join(ask["command"])
            times = (probe.get("periodSeconds", 10), probe.get("timeoutSeconds", 1), probe.get("failureThreshold", 3))
            found[name] = (asked, *times)
    return found


def serving(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """The containers that run for good, each with its pod: those of workloads, but for what ends before they start."""
    for name, _ in of_kind(objects, *WORKLOADS):
        pod = pods(objects)[name]
        for container in containers(pod["spec"]):
            if container in pod["spec"]["containers"] or container.get("restartPolicy") == "Always":
                yield container, pod


def test_probes_ask_what_they_are_to_ask_as_patiently(objects: list[Object]) -> None:
    found = {container["name"]: probes(container) for container, _ in serving(objects)}
    # Workers there are with one executor alone, and a pooler where values ask for one.
    assert {"celery": PROBES["celery"], "pooler": PROBES["pooler"], **found} == PROBES


def test_what_is_merely_busy_is_not_restarted(objects: list[Object]) -> None:
    """With ten threads that wait for each core a container gets a tenth of one: an answer takes ten times as long."""
    for container, _ in serving(objects):
        if alive := probes(container).get("livenessProbe"):
            asked, period, timeout, failures = alive
            # A loop is asked when it last went round, of which it may say ten minutes ago.
            assert period * failures >= (300 if asked == "liveness /" else 600), container["name"]
            assert timeout >= 30, container["name"]


def test_a_probe_by_http_asks_a_port_of_its_own_container(objects: list[Object]) -> None:
    for container, _ in serving(objects):
        named = {port["name"] for port in container.get("ports", ())}
        asked = {container[probe]["httpGet"]["port"] for probe in probes(container) if "httpGet" in container[probe]}
        assert asked <= named, container["name"]


def test_what_a_service_leads_to_is_asked_whether_it_is_ready_and_what_starts_slowly_is_given_time(
    objects: list[Object],
) -> None:
    for name, service in asked_services(objects):
        targets = {port["targetPort"] for port in service["spec"]["ports"]}
        (server,) = (
            container
            for container in containers(pods(objects)[behind(name, objects)]["spec"])
            if targets <= {port["name"] for port in container.get("ports", ())}
        )
        assert "readinessProbe" in server, name
    for container, _ in serving(objects):
        if startup := probes(container).get("startupProbe"):
            _, period, _, failures = startup
            assert period * failures >= 300, f"{container['name']}: a loaded node takes minutes"


def test_prometheus_is_told_a_port_and_a_path_that_there_are(objects: list[Object]) -> None:
    found = {}
    for name, pod in pods(objects).items():
        annotations = pod["metadata"].get("annotations", {})
        if annotations.get("prometheus.io/scrape") == "true":
            ports = {
                str(port["containerPort"]): port["name"]
                for container in containers(pod["spec"])
                for port in container.get("ports", ())
            }
            path = annotations.get("prometheus.io/path", "/metrics")
            found[name] = f"{ports[annotations['prometheus.io/port']]} {path}"
    assert found == {
        "feast": "metrics /metrics",
        "minio": "api /minio/v2/metrics/cluster",
        "mlflow": "http /metrics",
        "sensor-trainer": "http /metrics",
        **dict.fromkeys(("pod-states", "postgresql-exporter", "redis-exporter", "statsd"), "metrics /metrics"),
        "pushgateway": "http /metrics",
    }


# Addresses

# The Service that each address in a pod's environment leads to.
LEADS = {
    "AWS_ENDPOINT_URL_S3": "minio",
    "DATABASE_URL": "postgresql",
    "FEAST_URL": "feast",
    "MAESTRO_AIRFLOW_URL": "airflow",
    "MAESTRO_FEAST_REGISTRY": "postgresql",
    "MAESTRO_LEDGER": "postgresql",
    "MAESTRO_PROMETHEUS_URL": "prometheus",
    "MAESTRO_PUSHGATEWAY_HOST": "pushgateway",
    "MAESTRO_REDIS_HOST": "redis",
    "MAESTRO_SENSOR_TRAINER_URL": "sensorTrainer",
    "MLFLOW_BACKEND_STORE_URI": "postgresql",
    "MLFLOW_TRACKING_URI": "mlflow",
    "MODEL_SERVER_URL": "modelServer",
    "REDIS_ADDR": "redis",
    "SENSOR_TRAINER_URL": "sensorTrainer",
    "STATSD_HOST": "statsd",
}


def test_every_address_that_a_pod_is_told_is_that_of_its_service(moved: list[Object]) -> None:
    found: dict[str, set[str]] = {}
    for pod in pods(moved).values():
        for container in containers(pod["spec"]):
            told = environment(container)
            for name, value in told.items():
                if name.endswith("_HOST"):
                    found.setdefault(name, set()).add(f"{value}:{told[name.replace('_HOST', '_PORT')]}")
                elif isinstance(value, str) and (address := re.search(r"://(?:\w+@)?([\w.-]+:\d+)", value)):
                    found.setdefault(name, set()).add(address[1])
    assert found == {name: {f"{MOVED[key]['name']}:{MOVED[key]['port']}"} for name, key in LEADS.items()}


def test_who_needs_no_session_of_its_own_goes_to_the_pooler_and_the_others_past_it() -> None:
    moved = {"services": MOVED, "postgresql": {"pooler": {"enabled": True}}}
    objects = render("maestro", {"global": moved, "airflow": {"executor": "CeleryExecutor"}})
    ways: dict[str, set[str]] = {"postgresql": set(), "postgresqlPooler": set()}
    every = {**pods(objects), "task": task_pod(objects)}
    for pod, container in ((name, c) for name, entry in every.items() for c in containers(entry["spec"])):
        for name, value in environment(container).items():
            for way, found in ways.items():
                if f"@{MOVED[way]['name']}:{MOVED[way]['port']}/" in str(value):
                    found.add(f"{pod.removeprefix('airflow-')}/{container['name']} {name}")
    airflow = {
        f"{pod}/{container}"
        for pod, container in (
            *((name, name) for name in ("api-server", "scheduler", "triggerer", "dag-processor")),
            *(("worker", "celery"), ("test", "test")),
        )
    }
    assert {name.partition(" ")[0] for name in ways["postgresqlPooler"]} == {
        *airflow,
        *(f"{pod.partition('/')[0]}/release-gate" for pod in airflow - {"test/test"}),
        *("mlflow/mlflow", "mlflow/release-gate", "feast/feast", "feast/release-gate", "feast-apply/apply"),
        *(f"postgresql-test/pooled-{name}" for name in ("airflow", "feast", "mlflow")),
        "task/base",
    }
    past = {name for name in ways["postgresql"] if not name.startswith(("sensor-trainer", "postgresql-test"))}
    assert {name for name in past if not name.endswith("MAESTRO_LEDGER")} == {
        *(f"{name} AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC" for name in airflow),
        *("setup/setup DATABASE_URL", "mlflow-migrate/migrate DATABASE_URL"),
        "mlflow-migrate/migrate MLFLOW_BACKEND_STORE_URI",
    }


def test_a_task_is_told_where_and_of_what_it_is_and_whom_it_may_roll(moved: list[Object]) -> None:
    (container,) = containers(pods(moved)["task"]["spec"])
    told = environment(container)
    assert told["MAESTRO_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert told["MAESTRO_CODE_VERSION"] == container["image"].rpartition(":")[2]
    place = told["MAESTRO_MODEL_SERVERS"]["configMapKeyRef"]
    served = json.loads(find(moved, "ConfigMap", place["name"])["data"][place["key"]])
    for server in served.values():
        assert find(moved, "Deployment", server["deployment"])
        assert server["url"] == f"http://{MOVED['modelServer']['name']}:{MOVED['modelServer']['port']}"
    assert served


def test_every_address_elsewhere_is_one_of_a_service(moved: list[Object]) -> None:
    there = {
        f"{service['name']}:{service[port]}"
        for key, service in MOVED.items()
        for port in service.keys() - {"name"}
        if key != "postgresqlPooler"
    }
    services = {
        f"{entry['metadata']['name']}:{port['port']}"
        for _, entry in asked_services(moved)
        for port in entry["spec"]["ports"]
    }
    assert services == there
    declared = yaml.safe_load(find(moved, "Secret", "maestro-airflow-setup")["stringData"]["settings.yaml"])
    texts = [text for _, entry in of_kind(moved, "ConfigMap") for text in entry["data"].values()]
    texts += [
        argument for pod in pods(moved).values() for c in containers(pod["spec"]) for argument in c.get("args", ())
    ]
    texts += [str(declared), *(str(entry) for _, entry in of_kind(moved, "ScaledObject"))]
    addresses = re.findall(r"\b((?:our|maestro)-[\w-]+)(?:\.maestro)?:(\d+)", "\n".join(texts))
    found = {f"{host}:{port}" for host, port in addresses}
    assert found <= there
    assert len(found) >= 5
