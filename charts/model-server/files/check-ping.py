"""Asks the model server at MODEL_SERVER_URL whether it is ready."""

import os
import urllib.request

url = f"{os.environ['MODEL_SERVER_URL']}/ping"
with urllib.request.urlopen(url, timeout=30) as answer:  # an error status is raised
    print(f"{url}: {answer.status}")
