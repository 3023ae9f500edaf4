"""Questions to Prometheus, in its own language (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from mlops.config import PrometheusSettings
from mlops.stores.http import HttpService, words


class Sample(NamedTuple):
    """A value of now, and whose it is."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """timeout: seconds that one question may take."""

    def __init__(self, settings: PrometheusSettings, timeout: float) -> None:
        self._service = HttpService(
            "Prometheus", settings.url, "global.services.prometheus", timeout=timeout, show=False
        )

    def query(self, expression: str) -> list[Sample]:
        """What the expression, of an instant vector, is now. Raises what HttpService.ask raises."""
        answer = self._service.ask("GET", f"/api/v1/query?{urlencode({'query': expression})}")
        try:
            return [Sample(each["metric"], float(each["value"][1])) for each in answer.body["data"]["result"]]
        except (KeyError, IndexError, TypeError, ValueError):
            raise self._service.wrong(answer, "a query", f"without samples: {words(answer.body)}") from None
