"""The local node: nothing leaves it, and it takes nothing of the host's."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from infrastructure.local.config import HOST_ADDRESS, NETNS, PID_FILE
from infrastructure.release import kubectl, object_name, selector, wait_until
from infrastructure.services import service

pytestmark = pytest.mark.skipif(
    os.environ.get("CLUSTER", "local") != "local", reason="another cluster has its own way out"
)
LOCAL = Path(__file__).resolve().parents[2] / "infrastructure/local"


def host(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def in_node_network(*command):
    return host("ip", "netns", "exec", NETNS, *command)


def python_in_a_pod(program):
    """What a program prints in a pod that runs anyway."""
    return kubectl("exec", object_name("deployment", "mlflow"), "-c", "mlflow", "--", "python", "-c", program)


def test_no_address_outside_is_routed_to_the_host():
    route = in_node_network("ip", "route", "get", "192.0.2.1")
    assert "dev sink" in route and " via " not in route
    default = in_node_network("ip", "route", "show", "default")
    assert "dev sink" in default and "via" not in default
    # Nothing but the node's own loopback, its link and its bridges: the empty bridge has no port, the pods' one has.
    assert in_node_network("ls", "/sys/class/net/cni0/brif") != ""
    assert in_node_network("ls", "/sys/class/net/sink/brif") == ""


def test_the_host_forwards_nothing_for_the_node():
    forwards = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
    assert forwards == "0", "the node does not switch it on: something else on this machine does, such as Docker"
    # What is looked for is there, and would be seen.
    inside = in_node_network("iptables-save")
    assert "10.244." in inside and "KUBE-" in inside
    outside = host("iptables-save")
    for trace in ("10.244.", "KUBE-", f"{HOST_ADDRESS.rpartition('.')[0]}.", "maestro0"):
        assert trace not in outside


def test_a_pod_reaches_services_by_name_and_nothing_outside():
    postgresql = service("postgresql")
    program = f"""
import socket
socket.create_connection(("{postgresql.name}", {postgresql.port("postgresql")}), 5).close()
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


@pytest.fixture
def listener():
    """A socket of the host that listens on all of its addresses and takes no connection yet."""
    with socket.create_server(("0.0.0.0", 0)) as listening:
        listening.setblocking(False)
        yield listening


def host_addresses():
    """The IPv4 addresses of the host that others could reach it by."""
    links = json.loads(host("ip", "-json", "-4", "address"))
    addresses = [address["local"] for link in links for address in link.get("addr_info", [])]
    return [address for address in addresses if not address.startswith("127.")]


REACHED = """
import socket
reached = []
for address in {addresses}:
    try:
        socket.create_connection((address, {port}), 2).close()
        reached.append(address)
    except OSError:
        pass
print(reached)
"""


def test_neither_a_pod_nor_the_node_itself_reaches_what_listens_on_the_host(listener):
    port = listener.getsockname()[1]
    addresses = host_addresses()
    assert HOST_ADDRESS in addresses
    program = REACHED.format(addresses=addresses, port=port)
    assert host(sys.executable, "-c", program).strip() == str(addresses)
    for _ in addresses:
        listener.accept()[0].close()
    assert python_in_a_pod(program).strip() == "[]"
    assert in_node_network(sys.executable, "-c", program).strip() == "[]"
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_up_on_a_running_node_changes_nothing():
    before = PID_FILE.read_text()
    result = subprocess.run([sys.executable, LOCAL, "up"], capture_output=True, text=True)
    assert result.returncode == 0
    assert "already running" in result.stdout
    assert PID_FILE.read_text() == before


def test_usage_is_measured_for_kubectl_top():
    # Metrics need two scrapes of a pod, which the tests before may just have replaced.
    database = ("top", "pods", "--no-headers", "-l", selector("postgresql"))
    wait_until(lambda: kubectl(*database, check=False), 120, "the database pod's usage", 2)


def test_volumes_are_provisioned_by_the_default_storage_class():
    assert "(default)" in kubectl("get", "storageclass")
    claims = kubectl("get", "pvc", "-o", "jsonpath={.items[*].status.phase}").split()
    assert claims and set(claims) == {"Bound"}
