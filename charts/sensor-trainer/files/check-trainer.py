"""Asks the sensor trainer at SENSOR_TRAINER_URL what it needs and does not have, and for a job that there is not.

It tells nobody without the token about jobs, and looks one up for who has SENSOR_TRAINER_TOKEN.
"""

import os
import urllib.error
import urllib.request
import uuid

url, token = os.environ["SENSOR_TRAINER_URL"], os.environ["SENSOR_TRAINER_TOKEN"]


def ask(path: str, **headers: str) -> tuple[int, str]:
    """The status and the text of the answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}{path}", headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


status, said = ask("/ready")
if status != 200:
    raise SystemExit(f"{url}/ready: {status} {said}")
job = str(uuid.uuid4())
status, said = ask(f"/status/{job}")
if status != 401:
    raise SystemExit(f"{url}: a request without a token is answered, by {status} {said}")
status, said = ask(f"/status/{job}", Authorization=f"Bearer {token}")
if status != 404 or job not in said:
    raise SystemExit(f"{url}: cannot look a job up with the Secret's token: {status} {said}")
print(f"{url}: Redis, PostgreSQL and MLflow are there, and jobs are looked up with the token only")
