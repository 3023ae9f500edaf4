"""Brings MLflow's tables up to date once PostgreSQL answers, then marks the revision, the one argument."""

import os
import subprocess
import sys
import time

import psycopg2

SECONDS = 600

deadline, said = time.monotonic() + SECONDS, ""
while True:
    try:
        psycopg2.connect(os.environ["DATABASE_URL"], connect_timeout=5).close()
        break
    except psycopg2.OperationalError as error:
        cause = str(error).strip()
    if time.monotonic() > deadline:
        sys.exit(f"PostgreSQL does not let MLflow in after {SECONDS} s: {cause}")
    if cause != said:
        print(f"waiting for PostgreSQL: {cause}", flush=True)
        said = cause
    time.sleep(1)
subprocess.run(["mlflow", "db", "upgrade", os.environ["MLFLOW_BACKEND_STORE_URI"]], check=True)
subprocess.run(["release-gate", "mark", "mlflow", sys.argv[1]], check=True)
