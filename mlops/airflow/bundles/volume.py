"""The DAG bundle of the volume: a run goes on with the files that it began with, whatever became current since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion
from airflow.sdk.exceptions import AirflowException

from mlops.airflow.bundles.versions import DagVersions


class VolumeDagBundle(BaseDagBundle):
    """DAG files in versions, as mlops.airflow.bundles.versions lays them out.

    path: where the volume is mounted. The dag-processor follows the version that is current, and reads each file of the
    version that it saw last; a task reads those of its run.
    """

    supports_versioning = True

    def __init__(self, *, path: str, **options: Any) -> None:
        super().__init__(**options)
        self._root = Path(path)
        self._versions = DagVersions(self._root)
        self._seen: str | None = self.version

    def initialize(self) -> None:
        """Raises AirflowException where the volume is empty or has the version no more."""
        if self.version is None:
            self.refresh()
        elif not self.path.is_dir():
            raise AirflowException(
                f"version {self.version} of the DAG files is not on the volume {self._root} any more: run what is left "
                "with the latest version (clear the tasks with 'Run with latest bundle version'), and set "
                "airflow.dags.persistence.versions higher to keep more of them"
            )
        super().initialize()

    def refresh(self) -> None:
        """Sees which version is current. Raises AirflowException where there is none."""
        if self.version is not None:
            raise AirflowException(f"version {self.version} of the DAG files is fixed: refresh the bundle without one")
        self._seen = self._versions.current()
        if self._seen is None:
            raise AirflowException(
                f"there are no DAG files on the volume {self._root}: the Job airflow-dags brings them, see its log"
            )

    def get_current_version(self) -> BundleVersion | None:
        return None if self._seen is None else BundleVersion(self._seen)

    @property
    def path(self) -> Path:
        return self._root / "current" if self._seen is None else self._versions.path(self._seen)
