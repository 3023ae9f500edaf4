"""Memory of the pods of a namespace on the local node, as the kernel counts it."""

import json
from pathlib import Path

from infrastructure.release import kubectl

CGROUPS = Path("/sys/fs/cgroup")


def pss_by_pod() -> dict[str, float]:
    """Proportional set size of each running pod in MiB: shared pages count once, divided among those who share them."""
    unified = (CGROUPS / "cgroup.controllers").exists()
    groups = CGROUPS / "maestro" if unified else CGROUPS / "memory/maestro"
    pods = json.loads(kubectl("get", "pods", "--field-selector=status.phase=Running", "-o", "json"))["items"]
    names = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in pods}
    memory = dict.fromkeys(names.values(), 0.0)
    for listing in groups.rglob("cgroup.procs"):
        pod = next((name for uid, name in names.items() if f"pod{uid}" in str(listing)), None)
        if pod is not None:
            memory[pod] += sum(_pss(int(pid)) for pid in listing.read_text().split())
    return memory


def _pss(pid: int) -> float:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024
