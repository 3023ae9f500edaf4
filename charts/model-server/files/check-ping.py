"""Asks each of the model servers at the addresses in MODEL_SERVER_URL whether it is ready."""

import os
import urllib.request

for address in os.environ["MODEL_SERVER_URL"].split():
    url = f"{address}/ping"
    with urllib.request.urlopen(url, timeout=30) as answer:  # an error status is raised
        print(f"{url}: {answer.status}")
