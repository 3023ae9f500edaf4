"""What enforces NetworkPolicies on the local node: its program, a real API server, and packets between namespaces."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infrastructure.local.config import BIN
from tests.bridge import Bridge, possible
from tests.charts.conftest import Object, render
from tests.kube_apiserver import KubeApiserver, Namespace, call
from tests.processes import eventually

NETWORKING = "networking.k8s.io/v1"
pytestmark = pytest.mark.skipif(not possible(), reason="network namespaces and filters need root")


class Node:
    """The bridge, the namespace of the API server with its pods, and the program between them."""

    def __init__(self, bridge: Bridge, kubernetes: Namespace, log: Path) -> None:
        self.bridge, self.kubernetes, self._log = bridge, kubernetes, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        folder = self.bridge.folder
        (folder / "kubeconfig").write_text(json.dumps(self.kubernetes.server.kubeconfig()))
        (folder / "network-policy").unlink(missing_ok=True)
        (folder / "network-policy").symlink_to((BIN / "node").resolve())
        command = [folder / "network-policy", f"--kubeconfig={folder}/kubeconfig", f"--results={folder}/results"]
        environment = {**os.environ, "PATH": f"{self.bridge.programs()}:{os.environ['PATH']}"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        eventually(lambda: "MAESTRO-POLICY" in self.bridge.inside("iptables", "-t", "mangle", "-S", "INPUT"))

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def pod(self, name: str, *ports: int, kubernetes: Namespace | None = None, **labels: str) -> str:
        """A pod that listens at these ports, and of which Kubernetes' API has no address yet."""
        self.bridge.add(name, *ports)
        made = (kubernetes or self.kubernetes).create(pod(name, labels))
        self.bridge.given(name, made["metadata"]["uid"])
        return str(made["metadata"]["uid"])

    def policy(self, name: str, spec: Object) -> None:
        self.kubernetes.create(
            {"apiVersion": NETWORKING, "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec}
        )

    def remove(self, name: str) -> None:
        call(self.kubernetes.admin, "DELETE", self.kubernetes.path(f"networkpolicies/{name}", NETWORKING))

    def reaches(self, pod: str, to: str, port: int, whether: bool) -> None:
        """Raises where it does not become so within some seconds."""
        eventually(lambda: self.bridge.connects(pod, to, port) is whether)


def pod(name: str, labels: dict[str, str]) -> Object:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "base", "image": "none", "securityContext": security, "ports": PORTS}
    spec: Any = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


PORTS = [{"name": "web", "containerPort": 8080}]


@pytest.fixture
def node(kube_apiserver: KubeApiserver, tmp_path: Path) -> Iterator[Node]:
    with Bridge(f"t{uuid.uuid4().hex[:8]}", tmp_path) as bridge:
        made = Node(bridge, kube_apiserver.namespace(), tmp_path / "log")
        try:
            made.start()
            yield made
        finally:
            made.stop()
    assert not (tmp_path / "log").read_text()


def ingress(selects: dict[str, str], *rules: Object) -> Object:
    return {"podSelector": {"matchLabels": selects}, "policyTypes": ["Ingress"], "ingress": list(rules)}


def egress(selects: dict[str, str], *rules: Object) -> Object:
    return {"podSelector": {"matchLabels": selects}, "policyTypes": ["Egress"], "egress": list(rules)}


def test_a_policy_closes_the_pods_that_it_selects_and_no_others(node: Node) -> None:
    node.pod("store", 8080, app="store")
    node.pod("other", 8080, app="other")
    node.pod("client", app="client")
    node.reaches("client", "store", 8080, True)
    node.policy("closed", ingress({"app": "store"}))
    node.reaches("client", "store", 8080, False)
    assert node.bridge.connects("client", "other", 8080)
    assert node.bridge.connects("store", "other", 8080), "the way out is not closed by a policy about the way in"
    assert node.bridge.connects("", "store", 8080), "the node's probes come through"
    node.remove("closed")
    node.reaches("client", "store", 8080, True)


def test_who_is_named_comes_in_at_the_ports_that_are_named(node: Node) -> None:
    node.pod("store", 8080, 8081, 8082, app="store")
    node.pod("client", app="client")
    node.pod("stranger", app="stranger")
    named = {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": "web"}, {"port": 8081}]}
    node.policy("clients", ingress({"app": "store"}, named))
    node.reaches("stranger", "store", 8080, False)
    reached = {port for port in (8080, 8081, 8082) if node.bridge.connects("client", "store", port)}
    assert reached == {8080, 8081}
    assert not any(node.bridge.connects("stranger", "store", port) for port in (8080, 8081, 8082))


def test_a_pod_is_let_through_from_the_moment_the_network_plugin_has_its_address(node: Node) -> None:
    node.pod("store", 8080, app="store")
    node.policy("clients", ingress({"app": "store"}, {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}))
    node.pod("stranger", app="stranger")
    node.reaches("stranger", "store", 8080, False)
    node.pod("client", app="client")
    # A first packet that was too early is sent again a second later.
    assert node.bridge.connects("client", "store", 8080, seconds=5)


def test_a_pod_that_has_ended_is_nobody_and_its_address_may_be_anothers(node: Node) -> None:
    node.pod("store", 8080, app="store")
    node.pod("client", app="client")
    node.policy("clients", ingress({"app": "store"}, {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}))
    node.reaches("client", "store", 8080, True)
    node.kubernetes.status("client", phase="Succeeded")
    node.reaches("client", "store", 8080, False)


def test_the_way_out_is_closed_to_pods_and_to_the_node(node: Node) -> None:
    node.pod("store", 8080, app="store")
    node.pod("task", 8080, app="task")
    node.bridge.listen_on_the_node(6443)
    node.reaches("task", "10.244.0.1", 6443, True)
    node.policy("out", egress({"app": "task"}, {"to": [{"podSelector": {}}], "ports": [{"port": 8080}]}))
    node.reaches("task", "10.244.0.1", 6443, False)
    assert node.bridge.connects("task", "store", 8080)
    assert node.bridge.connects("store", "task", 8080), "answers go out"


def test_blocks_of_addresses_are_let_through_but_for_their_exceptions(node: Node) -> None:
    node.pod("first", 8080)
    node.pod("second", 8080)
    node.pod("task", app="task")
    block = {"cidr": "0.0.0.0/0", "except": [f"{node.bridge.addresses['second']}/32"]}
    node.policy("out", egress({"app": "task"}, {"to": [{"ipBlock": block}]}))
    node.reaches("task", "second", 8080, False)
    assert node.bridge.connects("task", "first", 8080)


def test_another_namespace_comes_in_by_its_labels_alone(node: Node, kube_apiserver: KubeApiserver) -> None:
    plant, other = kube_apiserver.namespace(), kube_apiserver.namespace()
    node.pod("store", 8080, app="store")
    node.pod("gateway", kubernetes=plant, app="client")
    node.pod("stranger", kubernetes=other, app="client")
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": plant.namespace}}}
    node.policy("plant", ingress({"app": "store"}, {"from": [peer]}))
    node.reaches("stranger", "store", 8080, False)
    node.reaches("gateway", "store", 8080, True)


def test_what_holds_goes_on_to_hold_while_the_program_is_away_and_after_it_came_back(node: Node) -> None:
    node.pod("store", 8080, app="store")
    node.pod("client", app="client")
    block = {"ipBlock": {"cidr": f"{node.bridge.addresses['store']}/32"}}
    node.policy("out", egress({"app": "client"}, {"to": [block], "ports": [{"port": 8081}]}))
    node.reaches("client", "store", 8080, False)
    node.stop()
    assert not node.bridge.connects("client", "store", 8080)
    node.start()
    node.policy("more", egress({"app": "client"}, {"to": [block]}))
    node.reaches("client", "store", 8080, True)
    node.remove("out")
    node.remove("more")
    eventually(lambda: "mp-" not in node.bridge.inside("iptables-save", "-t", "mangle"))
    eventually(lambda: "mp-" not in node.bridge.inside("ipset", "list", "-n"))


def test_the_policies_of_the_platform_hold_between_pods_of_its_labels(node: Node) -> None:
    for entry in render("maestro"):
        if entry["kind"] == "NetworkPolicy":
            node.kubernetes.create({**entry, "metadata": {"name": entry["metadata"]["name"]}}, fieldValidation="Strict")

    def labels(component: str, *needs: str) -> dict[str, str]:
        common = {"app.kubernetes.io/instance": "maestro", "app.kubernetes.io/part-of": "maestro"}
        return {
            **common,
            "app.kubernetes.io/component": component,
            **{f"maestro/opens-{need}": "true" for need in needs},
        }

    node.pod("postgresql", 5432, 5433, **labels("postgresql"))
    node.pod("minio", 9000, 9001, **labels("minio"))
    node.pod("mlflow", 5000, **labels("mlflow"))
    node.pod("notify", **labels("task", "notifications", "pushgateway"))
    node.pod("train", **labels("task", "s3", "mlflow"))
    node.pod("shell", app="shell")
    targets = [("postgresql", 5432), ("postgresql", 5433), ("minio", 9000), ("minio", 9001), ("mlflow", 5000)]
    node.reaches("mlflow", "minio", 9001, False)
    node.reaches("train", "minio", 9000, True)
    for who, reached in {
        "mlflow": {("postgresql", 5432), ("minio", 9000), ("mlflow", 5000)},  # oneself is always reached
        "train": {("minio", 9000), ("mlflow", 5000)},
        "notify": set(),
        "shell": set(),
    }.items():
        assert {target for target in targets if node.bridge.connects(who, *target)} == reached, who
