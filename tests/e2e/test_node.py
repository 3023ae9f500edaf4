"""The local node: nothing leaves it, and it takes nothing of the host's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infrastructure.release import kubectl

pytestmark = pytest.mark.skipif(
    os.environ.get("CLUSTER", "local") != "local", reason="another cluster has its own way out"
)
LOCAL = Path(__file__).resolve().parents[2] / "infrastructure/local"


def host(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def in_node_network(*command):
    return subprocess.run(["ip", "netns", "exec", "maestro", *command], capture_output=True, text=True)


def python_in_a_pod(program):
    """What a program prints in a pod that runs anyway."""
    return kubectl("exec", "deployment/maestro-mlflow", "-c", "mlflow", "--", "python", "-c", program)


def test_no_address_outside_is_routed_to_the_host():
    route = in_node_network("ip", "route", "get", "192.0.2.1").stdout
    assert "dev sink" in route and " via " not in route
    assert "via" not in in_node_network("ip", "route", "show", "default").stdout
    # Nothing but the node's own loopback, its link and its bridges: the empty bridge has no port.
    assert in_node_network("ls", "/sys/class/net/sink/brif").stdout == ""


def test_the_host_forwards_nothing_for_the_node():
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "0"
    assert "10.244." not in host("iptables-save")
    assert "KUBE-" not in host("iptables-save")


def test_a_pod_reaches_services_by_name_and_nothing_outside():
    program = """
import socket
socket.create_connection(("maestro-postgresql", 5432), 5).close()
print("service reached")
for target in (("192.0.2.1", 443), ("198.51.100.1", 80)):
    try:
        socket.create_connection(target, 2).close()
        print("LEFT THE NODE", target)
    except OSError:
        print("stayed inside")
try:
    socket.getaddrinfo("name.outside.example", 443)
    print("RESOLVED")
except socket.gaierror:
    print("unknown name")
"""
    assert python_in_a_pod(program).splitlines() == [
        "service reached",
        "stayed inside",
        "stayed inside",
        "unknown name",
    ]


def test_up_on_a_running_node_changes_nothing():
    before = Path("/var/lib/maestro/node.pid").read_text()
    result = subprocess.run([sys.executable, LOCAL, "up"], capture_output=True, text=True)
    assert result.returncode == 0
    assert "already running" in result.stdout
    assert Path("/var/lib/maestro/node.pid").read_text() == before


def test_usage_is_measured_for_kubectl_top():
    assert "maestro-postgresql" in kubectl("top", "pods")


def test_volumes_are_provisioned_by_the_default_storage_class():
    assert "(default)" in kubectl("get", "storageclass")
    claims = kubectl("get", "pvc", "-o", "jsonpath={.items[*].status.phase}").split()
    assert claims and set(claims) == {"Bound"}
