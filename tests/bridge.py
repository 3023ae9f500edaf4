"""A bridge with pods on it as the local node has, in network namespaces: nothing of the host is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])).close()
except OSError:
    sys.exit(1)
"""
_LISTEN = """
import socket, sys
servers = [socket.create_server(("0.0.0.0", int(port)), backlog=64) for port in sys.argv[1:]]
print("ready", flush=True)
sys.stdin.read()
"""


class Bridge:
    """Namespaces `<name>` and, for each pod, `<name>-<pod>`; pods have addresses from 10.244.0.2 on."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.addresses: dict[str, str] = {}
        self._listening: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Bridge:
        _ip("netns", "add", self.name)
        self.inside("ip", "link", "add", "cni0", "type", "bridge")
        self.inside("ip", "addr", "add", "10.244.0.1/24", "dev", "cni0")
        for link in ("lo", "cni0"):
            self.inside("ip", "link", "set", link, "up")
        self.inside("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1")
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        for process in self._listening:
            process.kill()
            process.wait()
        for pod in self.addresses:
            _ip("netns", "delete", f"{self.name}-{pod}")
        _ip("netns", "delete", self.name)

    def add(self, pod: str, *ports: int) -> str:
        """A pod that listens at these ports; gives its address."""
        number = len(self.addresses) + 2
        address, space = f"10.244.0.{number}", f"{self.name}-{pod}"
        self.addresses[pod] = address
        _ip("netns", "add", space)
        self.inside("ip", "link", "add", f"veth{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
        self.inside("ip", "link", "set", f"veth{number}", "master", "cni0", "up")
        for command in (
            ("addr", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
            ("route", "add", "default", "via", "10.244.0.1"),
        ):
            _ip("-n", space, *command)
        self._listen(space, ports)
        return address

    def listen_on_the_node(self, *ports: int) -> None:
        self._listen(self.name, ports)

    def _listen(self, space: str, ports: tuple[int, ...]) -> None:
        command = [*entered(space), sys.executable, "-c", _LISTEN, *map(str, ports)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._listening.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def connects(self, pod: str, to: str, port: int, seconds: float = 0.5) -> bool:
        """Whether a connection from the pod, or from the node where that is "", reaches an address within this time."""
        space = f"{self.name}-{pod}" if pod else self.name
        command = [*entered(space), sys.executable, "-c", _CONNECT, self.addresses.get(to, to), str(port), str(seconds)]
        return subprocess.run(command).returncode == 0

    def inside(self, *command: str) -> str:
        return subprocess.run([*entered(self.name), *command], check=True, capture_output=True, text=True).stdout

    def programs(self) -> Path:
        """A folder with iptables and ipset that act in the namespace, for a process that runs outside it."""
        for program in ("iptables", "iptables-restore", "iptables-save", "ipset"):
            script = self.folder / "programs" / program
            script.parent.mkdir(exist_ok=True)
            script.write_text(f'#!/bin/sh\nexec {" ".join(entered(self.name))} /usr/sbin/{program} "$@"\n')
            script.chmod(0o755)
        return self.folder / "programs"

    def given(self, pod: str, uid: str) -> None:
        """Writes down that the network plugin gave the pod its address, as libcni does before a container starts."""
        kept = {
            "cniArgs": [["K8S_POD_UID", uid], ["IgnoreUnknown", "1"]],
            "result": {"ips": [{"address": f"{self.addresses[pod]}/24", "interface": 2}]},
        }
        (self.folder / "results").mkdir(exist_ok=True)
        (self.folder / "results" / f"maestro-{uid}-eth0").write_text(json.dumps(kept))


def entered(space: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{space}"]


def possible() -> bool:
    """Whether this machine lets us make network namespaces with bridges and filters in them."""
    commands = (
        "ip link add try0 type bridge && ipset create try1 hash:ip && "
        "iptables -t mangle -A FORWARD -m set --match-set try1 src"
    )
    with suppress(OSError):
        return subprocess.run(["unshare", "--net", "sh", "-c", commands], capture_output=True).returncode == 0
    return False


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
