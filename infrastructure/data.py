"""`make data`: put the packaged data sets and their features into the object store, as the release says."""

from __future__ import annotations

import sys

import yaml

from infrastructure.commands import described, run
from infrastructure.release import NotInstalled


def main() -> int:
    try:
        for command in yaml.safe_load(described()["data"]["datasets.yaml"]):
            print(run(*command).log, end="", flush=True)
    except (NotInstalled, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
