"""How the platform's sensors wait: without a slot between two looks, and without a second wait that is in vain."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator


class PatientSensor(BaseSensorOperator):
    """A sensor that reschedules itself. Defaults stand in the signature, so a DAG's default_args override them."""

    def __init__(
        self,
        *,
        mode: str = "reschedule",
        execution_timeout: timedelta | None = timedelta(minutes=5),  # of one look
        # As of a pod (see operator.py). A wait that was in vain is not tried again.
        retries: int | None = 2,
        retry_delay: timedelta | float = timedelta(minutes=1),
        retry_exponential_backoff: float = 2.0,
        owner: str = "maestro",
        **options: Any,
    ) -> None:
        super().__init__(
            mode=mode,
            execution_timeout=execution_timeout,
            retries=retries,
            retry_delay=retry_delay,
            retry_exponential_backoff=retry_exponential_backoff,
            owner=owner,
            **options,
        )
