"""The node's network: a namespace with a link to the host, who alone begins connections by it, and no way further.

The host's own iptables and routes stay as they are.
"""

from __future__ import annotations

import subprocess

from config import HOST_ADDRESS, HOST_LINK, NETNS, NODE_ADDRESS, NODE_PREFIX
from steps import Failure

# The node's end of the link.
NODE_LINK = "eth0"


def _ip(*arguments: str, check: bool = True) -> bool:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if check and result.returncode:
        raise Failure(f"'ip {' '.join(arguments)}' failed: {result.stderr.strip()}")
    return result.returncode == 0


def create() -> None:
    _ip("netns", "add", NETNS)
    _ip("link", "add", HOST_LINK, "type", "veth", "peer", "name", NODE_LINK, "netns", NETNS)
    _ip("addr", "add", f"{HOST_ADDRESS}/{NODE_PREFIX}", "dev", HOST_LINK)
    _ip("link", "set", HOST_LINK, "up")
    _ip("-n", NETNS, "addr", "add", f"{NODE_ADDRESS}/{NODE_PREFIX}", "dev", NODE_LINK)
    _refuse_connections_to_the_host()
    for link in ("lo", NODE_LINK):
        _ip("-n", NETNS, "link", "set", link, "up")
    # Service addresses need a route to be looked up before kube-proxy rewrites them. This one ends at a bridge
    # with nothing on it: what is not rewritten goes nowhere. No default gateway exists.
    _ip("-n", NETNS, "link", "add", "sink", "type", "bridge")
    _ip("-n", NETNS, "link", "set", "sink", "up")
    _ip("-n", NETNS, "route", "add", "default", "dev", "sink")
    _sysctl("net.ipv4.ip_forward=1")
    # Only where the kernel has the module: without it pods on the bridge reach Services just as well.
    _sysctl("net.bridge.bridge-nf-call-iptables=1", check=False)


def _refuse_connections_to_the_host() -> None:
    """Drop what begins a connection by the link, and let answers to the host pass.

    All comes by here, routed or sent by the node itself, with the address it goes to in the end. In FORWARD kube-proxy
    puts its own rules before all others, and accepts what was sent to a node port: here it has none.
    """
    new = ("-o", NODE_LINK, "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP")
    _inside("iptables", "-w", "-t", "mangle", "-A", "POSTROUTING", *new)


def _sysctl(setting: str, check: bool = True) -> None:
    _inside("sysctl", "-qw", setting, check=check)


def _inside(*command: str, check: bool = True) -> None:
    """Run a program of the host in the node's network namespace."""
    result = subprocess.run([*entered(), *command], capture_output=True, text=True)
    if check and result.returncode:
        raise Failure(f"'{' '.join(command)}' failed in the node's network namespace: {result.stderr.strip()}")


def entered() -> list[str]:
    """What a command begins with that runs in the node's network namespace and in no other of its namespaces."""
    return ["nsenter", f"--net=/run/netns/{NETNS}"]


def delete() -> None:
    _ip("netns", "delete", NETNS, check=False)
    _ip("link", "delete", HOST_LINK, check=False)
