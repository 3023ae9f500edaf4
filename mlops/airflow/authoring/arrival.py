"""Waits, inside Airflow, until a delivery is whole."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSensorTimeout

from mlops.airflow.authoring.waiting import PatientSensor
from mlops.airflow.platform import Platform
from mlops.keys import done, is_path

if TYPE_CHECKING:
    from airflow.sdk import Context

_CONNECTION = "aws_default"


class DataDelivered(PatientSensor):
    """Succeeds when the marker is there: an object of the data bucket, or, where it begins with a slash, a file.

    A marker that was moved away because its delivery is scored counts as well, so that a run that is cleared goes on.
    It holds no slot between two looks.
    """

    template_fields: Sequence[str] = ("marker",)

    def __init__(
        self,
        *,
        marker: str,
        timeout: timedelta | float | None = timedelta(hours=2),
        poke_interval: timedelta | float = timedelta(minutes=5),
        **options: Any,
    ) -> None:
        super().__init__(
            timeout=timeout,
            poke_interval=poke_interval,
            **options,
        )
        self.marker = marker

    def poke(self, context: Context) -> bool:
        """Whether the marker is there."""
        if is_path(self.marker):
            there = Path(self.marker).exists()
            self.log.info("file %s: %s", self.marker, "there" if there else "not there")
            return there
        bucket = Platform.load().data_bucket
        found = [key for key in (self.marker, done(self.marker)) if _exists(bucket, key)]
        self.log.info("s3://%s/%s: %s", bucket, self.marker, f"found as {found[0]}" if found else "not there")
        return bool(found)

    def execute(self, context: Context) -> Any:
        """Raises AirflowSensorTimeout, with the remedy, after `timeout`."""
        try:
            return super().execute(context)
        except AirflowSensorTimeout as error:
            raise AirflowSensorTimeout(
                f"nothing was delivered: {self.marker} did not come within {self.timeout / 3600:g} h: write it when "
                "all files are there, then clear this task"
            ) from error


def _exists(bucket: str, key: str) -> bool:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    return bool(S3Hook(_CONNECTION).check_for_key(key, bucket))
