"""A one-node Kubernetes on this machine: `python3 infrastructure/local up`."""

from __future__ import annotations

import argparse
import subprocess
from contextlib import nullcontext

import keda
import node
import programs
from config import BIN, KUBECONFIG
from preflight import require_root
from steps import alone, main

NEED_ROOT = ("up", "down", "delete", "status", "packages", "images", "blobs", "load", "keda")
# Neither packages nor images: they are brought while another run builds the node's programs for minutes.
CHANGE_THE_NODE = ("up", "down", "delete", "build", "go", "keda")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="infrastructure/local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("up", "create or start the node; does nothing when it runs"),
        ("down", "stop the node and keep its data"),
        ("delete", "stop the node and remove its data"),
        ("status", "tell how the node is; exits with 3 unless it is ready"),
        ("packages", "install the Debian packages that the node and its images are built with"),
        ("build", "build the node's programs without starting it"),
        ("keda", "have KEDA scale workers on the running node, built where it is not yet"),
        ("kubeconfig", "print the path of the kubeconfig"),
        ("bin", "print the directory of kubectl and helm"),
        ("images", "print the images that the node has whole"),
        ("blobs", "print the digests of all that the node's containerd has"),
    ):
        commands.add_parser(name, help=text)
    load = commands.add_parser("load", help="import images from an OCI archive on standard input")
    load.add_argument("references", nargs="+", metavar="REFERENCE", help="an image that the node has whole afterwards")
    commands.add_parser("go", help="run the Go that the node's programs are built with").add_argument(
        "arguments", nargs=argparse.REMAINDER
    )
    return parser.parse_args()


def run() -> int | None:
    arguments = parse()
    if arguments.command in NEED_ROOT:
        require_root()
    with alone() if arguments.command in CHANGE_THE_NODE else nullcontext():
        return carry_out(arguments)


def carry_out(arguments: argparse.Namespace) -> int | None:
    match arguments.command:
        case "up":
            node.up()
        case "down":
            node.down()
        case "delete":
            node.delete()
        case "status":
            return node.status()
        case "packages":
            programs.install_packages()
        case "build":
            node.build()
        case "keda":
            keda.apply()
        case "bin":
            print(BIN)
        case "kubeconfig":
            print(KUBECONFIG)
        case "images":
            print(*node.images(), sep="\n")
        case "blobs":
            print(*node.blobs(), sep="\n")
        case "load":
            node.load(arguments.references)
        case "go":
            return subprocess.run([programs.go(), *arguments.arguments]).returncode
    return None


if __name__ == "__main__":
    main(run)
