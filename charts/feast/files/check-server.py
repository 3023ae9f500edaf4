"""Asks the feature server at FEAST_URL whether it is healthy, and for a feature service that there is not."""

import json
import os
import urllib.error
import urllib.request

url, name = os.environ["FEAST_URL"], "helm-test"
with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:  # an error status is raised
    print(f"{url}/health: {answer.status}")
body = json.dumps({"feature_service": name, "entities": {"machine": ["0"]}}).encode()
request = urllib.request.Request(f"{url}/get-online-features", body, {"Content-Type": "application/json"})
try:
    with urllib.request.urlopen(request, timeout=30):
        raise SystemExit(f"{url}: the feature service {name!r} does not exist and was answered")
except urllib.error.HTTPError as error:
    said = error.read().decode()
    if error.code not in (404, 422) or name not in said:
        raise SystemExit(f"{url}: cannot look a feature service up in its registry: {error.code} {said}") from error
print(f"{url}: the registry is read")
