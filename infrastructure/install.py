"""`make install`: install the platform, or upgrade it, from whatever state an interrupted attempt left it in."""

from __future__ import annotations

import json
import subprocess
import sys

from infrastructure.release import NAMESPACE, RELEASE


def _state() -> str | None:
    """Helm's word for the state of the release, or None when there is none."""
    listing = subprocess.run(
        ["helm", "list", "--all", "--namespace", NAMESPACE, "--filter", f"^{RELEASE}$", "--output", "json"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = json.loads(listing)
    return found[0]["status"] if found else None


def restrict(namespace: str) -> None:
    """Has the cluster refuse every pod of a namespace that is less than `restricted`; makes it where it is missing.

    Who may not do this to the namespace is told so, and goes on: nothing of the platform's own needs to be refused.
    """
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    described = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
    done = subprocess.run(
        ["kubectl", "apply", "--server-side", "--field-manager", "maestro", "--filename", "-"],
        input=json.dumps(described),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        label = " ".join(f"{key}={value}" for key, value in labels.items())
        remedy = f"have it done: kubectl label namespace {namespace} {label}"
        print(
            f"Pod Security is not enforced in namespace {namespace} ({done.stderr.strip()}): {remedy}", file=sys.stderr
        )


def main(values: list[str]) -> int:
    """Run helm; returns its exit code. `values` are the files with values, the last of them counts most."""
    state = _state()
    if state in ("pending-install", "uninstalling"):
        # Helm upgrades nothing that was never installed or is half removed. Volumes and their secrets stay.
        print(f"an earlier attempt was interrupted ({state}): removing what it left", flush=True)
        subprocess.run(["helm", "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"], check=True)
    elif state in ("pending-upgrade", "pending-rollback"):
        print("an earlier upgrade was interrupted: going back to the revision before it", flush=True)
        subprocess.run(["helm", "rollback", RELEASE, "--namespace", NAMESPACE], check=True)
    restrict(NAMESPACE)
    command = ["helm", "upgrade", "--install", RELEASE, "charts/maestro"]
    command += ["--namespace", NAMESPACE, "--create-namespace"]
    for file in values:
        command += ["--values", file]
    done = subprocess.run([*command, "--wait", "--timeout", "10m"], stderr=subprocess.PIPE, text=True)
    # A note for each symbolic link that a chart is found by.
    complaints = [line for line in done.stderr.splitlines() if "found symbolic link in path" not in line]
    print("\n".join(complaints), file=sys.stderr, end="\n" if complaints else "")
    if done.returncode:
        subprocess.run(["kubectl", "--namespace", NAMESPACE, "get", "pods"])
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
