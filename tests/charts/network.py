"""Whom NetworkPolicies let talk to whom: what a network that enforces them does, over rendered objects.

As in https://kubernetes.io/docs/concepts/services-networking/network-policies/: policies add up, a pod that none
selects in a direction is open in it, and a connection needs both the way out of the one pod and the way into the other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.charts.conftest import ROOT, Object

NAMESPACE = "maestro"


@dataclass(frozen=True)
class Pod:
    """One end of a connection. Without a namespace it is an address outside the cluster."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = NAMESPACE
    address: str = "10.244.0.9"


@dataclass(frozen=True, order=True)
class Port:
    number: int
    protocol: str = "TCP"


class Network:
    """The policies among some rendered objects."""

    def __init__(self, objects: list[Object]) -> None:
        self.policies = [entry for entry in objects if entry["kind"] == "NetworkPolicy"]
        self._found: dict[tuple[str, str], list[Object]] = {}

    def allows(self, source: Pod, target: Pod, port: Port) -> bool:
        """Whether a connection may begin at the one and reach the port of the other."""
        return self._opens("Egress", source, target, port) and self._opens("Ingress", target, source, port)

    def isolates(self, direction: str, pod: Pod) -> bool:
        """Whether any policy closes this direction ("Ingress", "Egress") of the pod, but for what is let through."""
        return bool(self._about(direction, pod))

    def _opens(self, direction: str, pod: Pod, peer: Pod, port: Port) -> bool:
        about = self._about(direction, pod)
        key, side = {"Egress": ("egress", "to"), "Ingress": ("ingress", "from")}[direction]
        return not about or any(
            _ports(rule.get("ports"), port) and _peers(rule.get(side), peer)
            for policy in about
            for rule in policy["spec"].get(key) or ()
        )

    def _about(self, direction: str, pod: Pod) -> list[Object]:
        if pod.namespace != NAMESPACE:
            return []
        if (direction, pod.name) not in self._found:
            self._found[direction, pod.name] = [
                policy
                for policy in self.policies
                if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], pod.labels)
            ]
        return self._found[direction, pod.name]


def _peers(peers: list[Object] | None, pod: Pod) -> bool:
    return not peers or any(_peer(peer, pod) for peer in peers)


def _peer(peer: Object, pod: Pod) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(pod.address)
        excepted = (ipaddress.ip_network(cidr) for cidr in peer["ipBlock"].get("except", ()))
        return address in ipaddress.ip_network(peer["ipBlock"]["cidr"]) and not any(address in net for net in excepted)
    if pod.namespace is None:
        return False
    if "namespaceSelector" in peer:
        in_namespace = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace})
    else:
        in_namespace = pod.namespace == NAMESPACE
    return in_namespace and selects(peer.get("podSelector", {}), pod.labels)


def _ports(ports: list[Object] | None, port: Port) -> bool:
    return not ports or any(
        entry.get("protocol", "TCP") == port.protocol and entry.get("port", port.number) == port.number
        for entry in ports
    )


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches: matchLabels, and matchExpressions with In, the one operator in use here."""
    assert {expression["operator"] for expression in selector.get("matchExpressions", ())} <= {"In"}
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(expression["key"]) in expression["values"] for expression in selector.get("matchExpressions", ())
    )


def arrows() -> set[tuple[str, str, Port]]:
    """Who, whom and at which port, as charts/common/templates/_arrows.tpl lists them."""
    return {
        (who, whom, Port(int(port.partition("/")[0]), port.partition("/")[2]))
        for whom, ports in _listed("common.arrows").items()
        for port, sources in ports.items()
        for who in sources
    }


def arrows_outside() -> set[tuple[str, str]]:
    """Who may go to which of global.networkPolicies.outside."""
    return {(who, where) for where, sources in _listed("common.arrowsOutside").items() for who in sources}


def _listed(name: str) -> Any:
    text = (ROOT / "charts/common/templates/_arrows.tpl").read_text()
    (body,) = re.findall(rf'define "{name}" -}}}}\n(.*?)\n{{{{- end', text, re.DOTALL)
    return yaml.safe_load(body)
