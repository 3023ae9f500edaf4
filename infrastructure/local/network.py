"""The node's network: a namespace with a link to the host and no way further.

The host's own iptables and routes stay as they are.
"""

from __future__ import annotations

import subprocess

from config import HOST_ADDRESS, HOST_LINK, NETNS, NODE_ADDRESS, NODE_PREFIX
from steps import Failure


def _ip(*arguments: str, check: bool = True) -> bool:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if check and result.returncode:
        raise Failure(f"'ip {' '.join(arguments)}' failed: {result.stderr.strip()}")
    return result.returncode == 0


def create() -> None:
    _ip("netns", "add", NETNS)
    _ip("link", "add", HOST_LINK, "type", "veth", "peer", "name", "eth0", "netns", NETNS)
    _ip("addr", "add", f"{HOST_ADDRESS}/{NODE_PREFIX}", "dev", HOST_LINK)
    _ip("link", "set", HOST_LINK, "up")
    _ip("-n", NETNS, "addr", "add", f"{NODE_ADDRESS}/{NODE_PREFIX}", "dev", "eth0")
    for link in ("lo", "eth0"):
        _ip("-n", NETNS, "link", "set", link, "up")
    # Service addresses need a route to be looked up before kube-proxy rewrites them. This one ends at a bridge
    # with nothing on it: what is not rewritten goes nowhere. No default gateway exists.
    _ip("-n", NETNS, "link", "add", "sink", "type", "bridge")
    _ip("-n", NETNS, "link", "set", "sink", "up")
    _ip("-n", NETNS, "route", "add", "default", "dev", "sink")
    _sysctl("net.ipv4.ip_forward=1")
    # Only where the kernel has the module: without it pods on the bridge reach Services just as well.
    _sysctl("net.bridge.bridge-nf-call-iptables=1", check=False)


def _sysctl(setting: str, check: bool = True) -> None:
    result = subprocess.run(
        ["nsenter", f"--net=/run/netns/{NETNS}", "sysctl", "-qw", setting], capture_output=True, text=True
    )
    if check and result.returncode:
        raise Failure(f"'sysctl {setting}' failed in the node's network namespace: {result.stderr.strip()}")


def delete() -> None:
    _ip("netns", "delete", NETNS, check=False)
    _ip("link", "delete", HOST_LINK, check=False)
