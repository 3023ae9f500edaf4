"""The version that is served: the one with the alias `production`, looked for again and again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from mlops.registry.aliases import production
from mlops.result import Failure
from mlops.sensor_trainer.model.scoring import ClusterModel

if TYPE_CHECKING:
    from mlops.stores.tracking import Tracking

MODEL = "sensor-clusters"
FORMER_ALIAS = "champion"  # of the version that a release before 0.2 served
FILE = "clusters.json"  # of the version's run; beside it the same model lies as a pipeline of scikit-learn

log = logging.getLogger(__name__)


class Served(NamedTuple):
    """A version and its model, which belong together."""

    version: str
    model: ClusterModel


class ServedModel:
    """The served version in memory. One thread may refresh it while others score."""

    def __init__(self, tracking: Tracking, name: str = MODEL) -> None:
        self._tracking, self._name = tracking, name
        self._served: Served | None = None
        self._trouble: str | None = None

    @property
    def current(self) -> Served | None:
        """The version and its model at one moment; None where no version has the alias."""
        return self._served

    @property
    def version(self) -> str | None:
        return self._served.version if self._served else None

    def refresh(self) -> bool:
        """Looks at the alias and loads another version; True where there is a new state.

        The model in memory stays where MLflow is away or the new version cannot be read, which is logged once.
        """
        try:
            version = served_version(self._tracking, self._name)
            if version == self.version:
                return self._log_change(None)
            self._served = Served(version, load(self._tracking, version, self._name)) if version else None
        except Failure as failure:
            return self._log_change(str(failure))
        self._log_change(None)
        log.info("serving version %s of %s", version or "none", self._name)
        return True

    def _log_change(self, trouble: str | None) -> bool:
        if trouble and trouble != self._trouble:
            log.warning("version %s of %s stays: %s", self.version or "none", self._name, trouble)
        if self._trouble and not trouble:
            log.info("MLflow answers again")
        self._trouble = trouble
        return False


def served_version(tracking: Tracking, name: str = MODEL) -> str | None:
    """The version in production, if any; without one that which an earlier release served."""
    return production(tracking, name) or tracking.aliased(name, FORMER_ALIAS)


def load(tracking: Tracking, version: str, name: str = MODEL) -> ClusterModel:
    """A version's model, of numbers only: nothing that is read from the artifact store runs."""
    return ClusterModel.from_json(tracking.read_sealed_text(tracking.made_by(name, version), FILE))
