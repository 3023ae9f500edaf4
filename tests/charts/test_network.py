"""NetworkPolicies in every profile: a connection is let through exactly where the list of arrows has it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from mlops.needs import needs
from tests.charts.conftest import Object, containers, environment, find, render
from tests.charts.network import Network, Pod, Port, arrows, arrows_outside
from tests.charts.profiles import PROFILES, maestro, platform, pods, task_pod

WEBHOOK = {"global": {"notifications": {"slackWebhookSecret": "slack"}}}
ELSEWHERE = Pod("elsewhere", namespace=None, address="203.0.113.7")
DNS = Pod("coredns", {"k8s-app": "kube-dns"}, "kube-system")
STRANGERS = (
    Pod(
        "another namespace's",
        {"app.kubernetes.io/part-of": "maestro", "app.kubernetes.io/component": "mlflow"},
        "other",
    ),
    Pod("a plain pod of the namespace", {"app": "shell"}),
    ELSEWHERE,
)


@pytest.fixture(params=PROFILES)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return maestro(request.param)


def component(pod: Pod) -> str:
    """What arrows call it: by its role, which several components may share, or else its own name."""
    return pod.labels.get("maestro/role") or pod.labels.get("app.kubernetes.io/component", "")


def opens(pod: Pod) -> set[str]:
    return {label.removeprefix("maestro/") for label in pod.labels if label.startswith("maestro/opens-")}


def everyone(objects: list[Object]) -> list[Pod]:
    """The release's pods, tasks of one need each among them."""
    names = {label.removeprefix("opens-") for label, _, _ in arrows() if label.startswith("opens-")} - {"kubernetes"}
    tasks = {f"task that opens {need}": task_pod(objects, needs=[need]) for need in sorted(names)}
    tasks["task with an identity"] = task_pod(objects, identity="deployer", needs=[])
    tasks["notification"] = task_pod(objects, needs=needs("notify", "send"))
    found = pods(objects) | tasks
    return [Pod(name, pod["metadata"]["labels"]) for name, pod in found.items()]


def ports(objects: list[Object]) -> set[Port]:
    """Those that any container of the release names, those of arrows, and one that nobody has."""
    named = {
        Port(port["containerPort"], port.get("protocol", "TCP"))
        for pod in pods(objects).values()
        for container in containers(pod["spec"])
        for port in container.get("ports", ())
    }
    return named | {port for _, _, port in arrows()} | {Port(22), Port(53, "UDP"), Port(443)}


def test_a_connection_between_two_pods_is_let_through_exactly_where_there_is_an_arrow(objects: list[Object]) -> None:
    rules, all_pods, listed = Network(objects), everyone(objects), arrows()
    # An address block lets through what has such an address, in the cluster too: nobody there listens at these ports.
    asked = ports(objects) - {Port(443)}
    for source in all_pods:
        names = {component(source), *opens(source)}
        for target in all_pods:
            expected = {port for who, whom, port in listed if who in names and whom == component(target)}
            let_through = {port for port in asked if rules.allows(source, target, port)}
            assert let_through == expected, f"{source.name} -> {target.name}"


def test_a_stranger_reaches_no_port_of_any_pod(objects: list[Object]) -> None:
    network, asked = Network(objects), ports(objects)
    for stranger in STRANGERS:
        for target in everyone(objects):
            reached = {port for port in asked if network.allows(stranger, target, port)}
            assert not reached, f"{stranger.name} -> {target.name}"


def test_every_pod_is_closed_in_both_directions_and_may_look_up_names(objects: list[Object]) -> None:
    rules = Network(objects)
    for pod in everyone(objects):
        assert rules.isolates("Ingress", pod), pod.name
        assert rules.isolates("Egress", pod), pod.name
        assert all(rules.allows(pod, DNS, Port(53, protocol)) for protocol in ("UDP", "TCP")), pod.name
        assert not rules.allows(pod, DNS, Port(8181)), pod.name


def test_only_who_needs_it_leaves_the_namespace() -> None:
    objects = render("maestro", WEBHOOK)
    network = Network(objects)
    reached = {
        (pod.name, port.number)
        for pod in everyone(objects)
        for port in (Port(443), Port(6443), Port(8443), Port(80), Port(25), Port(5432), Port(9000))
        if network.allows(pod, ELSEWHERE, port)
    }
    kubernetes = {
        "airflow-scheduler",
        "airflow-triggerer",
        "airflow-test",
        "pod-states",
        "task that opens model-server",
        "task with an identity",
    }
    told = {"airflow-dag-processor", "alertmanager", "notification"}
    assert reached == {(name, port) for name in kubernetes for port in (443, 6443, 8443)} | {
        (name, 443) for name in told
    }


def test_without_a_webhook_no_notification_leaves_the_namespace() -> None:
    objects = render("maestro")
    (notification,) = (pod for pod in everyone(objects) if pod.name == "notification")
    assert not Network(objects).allows(notification, ELSEWHERE, Port(443))


def test_a_notification_reaches_no_store_and_no_service_but_what_counts_it(objects: list[Object]) -> None:
    everybody, asked, network = everyone(objects), ports(objects) - {Port(443)}, Network(objects)
    (notification,) = (pod for pod in everybody if pod.name == "notification")
    reached = {target.name for target in everybody for port in asked if network.allows(notification, target, port)}
    assert reached == {"pushgateway"}


EXTERNAL: dict[str, Any] = {
    "postgresql": {"external": {"enabled": True, "host": "db.example.com", "port": 5433}, "existingSecret": "db"},
    "redis": {"external": {"enabled": True, "host": "redis.example.com", "port": 6380}, "existingSecret": "redis"},
    "s3": {"external": {"enabled": True, "endpoint": "https://s3.example.com"}, "existingSecret": "s3"},
}
OWN = {"postgresql": "postgresql", "redis": "redis", "s3": "minio"}


@pytest.mark.parametrize(
    ("store", "port", "endpoint"),
    [
        ("postgresql", 5433, None),
        ("redis", 6380, None),
        ("s3", 443, "https://s3.example.com"),
        ("s3", 443, ""),
        ("s3", 80, "http://s3.example.com"),
        ("s3", 9000, "http://s3.example.com:9000"),
    ],
)
def test_an_external_store_is_reached_by_those_who_have_an_arrow_to_it_at_its_addresses_alone(
    store: str, port: int, endpoint: str | None
) -> None:
    external = json.loads(json.dumps(EXTERNAL[store]))
    if endpoint is not None:
        external["external"]["endpoint"] = endpoint
    narrow = {"outside": {store: ["203.0.113.0/24"], "kubernetes": ["192.0.2.1/32"]}}
    objects = render("maestro", {"global": {store: external, "networkPolicies": narrow}})
    expected = {who for who, whom, _ in arrows() if whom == OWN[store]}
    for pod in everyone(objects):
        reaches = Network(objects).allows(pod, ELSEWHERE, Port(port))
        assert reaches == bool(expected & {component(pod), *opens(pod)}), pod.name
        assert not Network(objects).allows(pod, Pod("far", namespace=None, address="198.51.100.1"), Port(port))


def test_mail_leaves_at_the_port_of_the_server_that_takes_it() -> None:
    mail = {"host": "smtp.example.com", "port": 2525, "existingSecret": "mail"}
    objects = render("maestro", {"global": {"notifications": {"mail": mail}}})
    pods = everyone(objects)
    reached = {pod.name for pod in pods if Network(objects).allows(pod, ELSEWHERE, Port(2525))}
    sends = {who for who, where in arrows_outside() if where == "mail"}
    assert reached == {pod.name for pod in pods if sends & {component(pod), *opens(pod)}}
    assert {"notification", "airflow-triggerer"} <= reached
    assert not Network(objects).allows(next(pod for pod in pods if pod.name == "mlflow"), ELSEWHERE, Port(2525))


def test_values_let_others_in_and_pods_out() -> None:
    plant = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "plant"}}}
    rules = {
        "ingress": {"sensor-trainer": [{"from": [plant], "ports": [{"port": 8000}]}]},
        "egress": {"task": [{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": 8443}]}]},
    }
    objects = render("maestro", {"global": {"networkPolicies": rules}})
    found = {pod.name: pod for pod in everyone(objects)}
    gateway = Pod("gateway", {}, "plant")
    assert Network(objects).allows(gateway, found["sensor-trainer"], Port(8000))
    assert not Network(objects).allows(gateway, found["model-server"], Port(8080))
    assert not Network(objects).allows(STRANGERS[0], found["sensor-trainer"], Port(8000))
    assert Network(objects).allows(found["notification"], ELSEWHERE, Port(8443))
    assert not Network(objects).allows(found["mlflow"], ELSEWHERE, Port(8443))


def test_where_values_say_so_there_is_no_policy() -> None:
    assert not Network(render("maestro", {"global": {"networkPolicies": {"enabled": False}}})).policies


@pytest.mark.parametrize("chart", ["airflow", "mlflow", "feast", "minio", "redis", "postgresql", "monitoring"])
def test_a_chart_that_is_installed_alone_closes_its_own_pods(chart: str) -> None:
    objects = render(chart)
    for name, pod in pods(objects).items():
        both = [Network(objects).isolates(way, Pod(name, pod["metadata"]["labels"])) for way in ("Ingress", "Egress")]
        assert both == [True, True], name


# The list and what pods are told


def told(objects: list[Object]) -> Iterator[tuple[str, str, int]]:
    """The component of a pod, and the Service and port that its environment, arguments or configuration name."""
    texts = {name: " ".join(said(pod, objects)) for name, pod in pods(objects).items()}
    configured = find(objects, "ConfigMap", "maestro-airflow-config")["data"]
    for name in texts:
        if name.startswith("airflow-"):
            texts[name] += " ".join(configured.values())
            texts[name] += " maestro-statsd:9125 "  # of which the configuration gives host and port one by one
    texts["prometheus"] += find(objects, "ConfigMap", "maestro-prometheus")["data"]["prometheus.yaml"]
    for name, text in texts.items():
        who = component(Pod(name, pods(objects)[name]["metadata"]["labels"]))
        for host, port in re.findall(r"\b(maestro-[\w-]+)(?:\.maestro)?:(\d+)", text):
            yield who, host, int(port)
        for host, port in re.findall(r"- names: \[(maestro-[\w-]+)\]\s+type: A\s+port: (\d+)", text):
            yield who, host, int(port)


def said(pod: Object, objects: list[Object]) -> Iterator[str]:
    for container in containers(pod["spec"]):
        entries = environment(container)
        yield from map(str, container.get("args", ()))
        for key, value in entries.items():
            if key.endswith("HOST"):
                port = entries[key.removesuffix("HOST") + "PORT"]
                yield f" {value}:{port} "
            elif isinstance(value, str):
                yield f" {value} "
            elif place := value.get("configMapKeyRef"):
                yield str(find(objects, "ConfigMap", place["name"])["data"][place["key"]])


def behind(objects: list[Object], host: str, number: int) -> tuple[str, int]:
    """The component behind a Service, and the port of its pods."""
    service = find(objects, "Service", host)["spec"]
    there = [Pod(name, pod["metadata"]["labels"]) for name, pod in pods(objects).items()]
    chosen = [pod for pod in there if service["selector"].items() <= pod.labels.items()]
    selector = service["selector"].get("app.kubernetes.io/component")
    (whom,) = {component(pod) for pod in chosen} or {selector}
    (target,) = {port["targetPort"] for port in service["ports"] if port["port"] == number}
    if isinstance(target, str):
        pod = pods(objects)[chosen[0].name]
        (target,) = (
            port["containerPort"]
            for container in containers(pod["spec"])
            for port in container.get("ports", ())
            if port["name"] == target
        )
    return whom, target


# Asked without being told: the addresses of those whose logs it shows are in Airflow's database.
BY_THE_DATABASE = {("airflow-api-server", f"airflow-{part}") for part in ("scheduler", "triggerer", "worker")}


def test_every_address_that_a_pod_is_told_is_one_that_it_may_reach(objects: list[Object]) -> None:
    listed = {(who, whom, port.number) for who, whom, port in arrows()}
    opened: dict[str, set[str]] = {}
    for pod in everyone(objects):
        opened.setdefault(component(pod), set()).update(opens(pod))
    for who, host, number in told(objects):
        # Tasks and commands have arrows by what they open; all of Airflow reads one configuration.
        if who in ("task", "command") or who.startswith("airflow-"):
            continue
        whom, port = behind(objects, host, number)
        ways = {(name, whom, port) for name in (who, *opened[who])}
        assert ways & listed, f"{who} is told {host}:{number}"


def test_every_pod_reaches_the_database_that_it_is_told_of(objects: list[Object]) -> None:
    """Those of Airflow, too, whose configuration names more than each of them asks: each waits for its migration."""
    listed = {(who, whom, port.number) for who, whom, port in arrows()}
    for name, pod in pods(objects).items():
        who = component(Pod(name, pod["metadata"]["labels"]))
        if who in ("task", "command"):
            continue
        for container in containers(pod["spec"]):
            if address := re.search(r"@(maestro-[\w-]+):(\d+)/", str(environment(container).get("DATABASE_URL"))):
                whom, port = behind(objects, address[1], int(address[2]))
                assert (who, whom, port) in listed, f"{container['name']} of {name} asks {address[0]}"


def test_nobody_has_an_arrow_to_what_it_is_not_told() -> None:
    known = {
        (who, behind(objects, host, number)[0])
        # Workers there are with one executor alone.
        for objects in (maestro("default"), maestro("prod"), maestro("everything"))
        for who, host, number in told(objects)
    }
    known |= BY_THE_DATABASE | {("grafana", "prometheus")}  # which is not there by default
    # The scheduler's pod may be the api-server's as well.
    known |= {(who, "airflow-scheduler") for who, whom in known if whom == "airflow-api-server"}
    known |= {("airflow-scheduler", whom) for who, whom in known if who == "airflow-api-server"}
    for who, whom, _ in arrows():
        assert who.startswith("opens-") or (who, whom) in known, f"{who} -> {whom}"


def test_who_opens_something_may_reach_all_that_it_is_told_of_it_and_nothing_else() -> None:
    objects = maestro("default")
    asked = ports(objects) - {Port(443)}
    targets = [Pod(name, pod["metadata"]["labels"]) for name, pod in pods(objects).items()]
    others = [entry for entry in objects if entry["kind"] != "Pod"]
    for need in platform(objects).environments:
        opener = task_pod(objects, needs=[need])
        addresses = {behind(objects, host, port) for who, host, port in told([*others, opener]) if who == "task"}
        task, network = Pod("task", opener["metadata"]["labels"]), Network(objects)
        reached = {(component(t), port.number) for t in targets for port in asked if network.allows(task, t, port)}
        # The scheduler's pod may be the api-server's as well.
        spread = {(whom.replace("api-server", "scheduler"), port) for whom, port in addresses}
        assert reached == addresses | spread, need
