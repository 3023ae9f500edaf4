"""`make data`: put the packaged data sets and their features into the object store, by a Job of the release."""

from __future__ import annotations

import sys
import time

from infrastructure.release import NotInstalled, find, kubectl, succeeded

SECONDS = 600


def main() -> int:
    try:
        cron = find("cronjob", "datasets")["metadata"]["name"]
        job = kubectl("create", "job", f"{cron}-{int(time.time())}", f"--from=cronjob/{cron}", "-o", "name").strip()
        done = succeeded(job, SECONDS, "the job that loads the data sets")
        print(kubectl("logs", job, "--all-containers", check=False), end="")
    except (NotInstalled, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
