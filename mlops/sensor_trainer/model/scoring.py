"""What scoring a reading needs: a cluster model as plain arrays, and as JSON that builds nothing else. NumPy only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from mlops.result import Failure

Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Counts: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

BEYOND = 1e100  # a value farther out counts as this: its square must stay a number

_FORMAT = 1  # of the JSON
_CHUNK = 4_096  # rows scored at once; all rows by all centres by all sensors would fill the memory
_REMEDY = "train the model again with POST /train"


class ReadingScores(NamedTuple):
    """One entry a reading: its cluster's number, the distance to that cluster's centre, the distance to the nearest
    healthy centre in multiples of the threshold, and whether it is a failure."""

    cluster: Counts
    distance: Numbers
    anomaly: Numbers
    failure: Flags


@dataclass(frozen=True, eq=False)
class ClusterModel:
    """All that scoring needs, as plain arrays.

    columns: the d sensor columns; middle, scale: (d,); centres: (k, d), of scaled readings; healthy, failure_prone:
    (k,), a cluster may be neither; threshold: the distance to the nearest healthy centre above which a reading fails.
    """

    columns: tuple[str, ...]
    middle: Numbers
    scale: Numbers
    centres: Numbers
    healthy: Flags
    failure_prone: Flags
    threshold: float

    def score(self, values: Numbers) -> ReadingScores:
        """values: (n, d), finite. A reading is a failure where it lies beyond the threshold or in a failing cluster."""
        if values.ndim != 2 or values.shape[1] != len(self.columns):
            raise ValueError(f"readings of shape {values.shape} for a model of the columns {', '.join(self.columns)}")
        distances = self.distances(values)
        cluster = distances.argmin(axis=1)
        anomaly = distances[:, self.healthy].min(axis=1) / self.threshold
        own = distances[np.arange(len(distances)), cluster]
        return ReadingScores(cluster, own, anomaly, (anomaly > 1) | self.failure_prone[cluster])

    def distances(self, values: Numbers) -> Numbers:
        """(n, k): the Euclidean distance of each scaled reading to each centre."""
        found = np.empty((len(values), len(self.centres)))
        for start in range(0, len(values), _CHUNK):
            part = np.clip(values[start : start + _CHUNK], -BEYOND, BEYOND)
            scaled = np.arcsinh((part - self.middle) / self.scale)
            apart = scaled[:, None, :] - self.centres
            found[start : start + _CHUNK] = np.sqrt(np.einsum("nkd,nkd->nk", apart, apart))
        return found

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": _FORMAT,
                "columns": self.columns,
                "middle": self.middle.tolist(),
                "scale": self.scale.tolist(),
                "centres": self.centres.tolist(),
                "healthy": self.healthy.tolist(),
                "failure_prone": self.failure_prone.tolist(),
                "threshold": self.threshold,
            },
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises Failure for a text that `to_json` does not write: it comes from a store that others write to."""
        try:
            found = json.loads(text)
            model = cls(
                columns=tuple(map(str, found["columns"])),
                middle=np.asarray(found["middle"], dtype=float),
                scale=np.asarray(found["scale"], dtype=float),
                centres=np.asarray(found["centres"], dtype=float),
                healthy=np.asarray(found["healthy"], dtype=bool),
                failure_prone=np.asarray(found["failure_prone"], dtype=bool),
                threshold=float(found["threshold"]),
            )
            known = found["format"] == _FORMAT
        except (KeyError, TypeError, ValueError) as error:
            raise Failure(f"these are no clusters ({type(error).__name__}: {error}): {_REMEDY}") from error
        if not known:
            raise Failure(f"these clusters have format {found['format']}, this code reads {_FORMAT}: {_REMEDY}")
        model._check()
        return model

    def _check(self) -> None:
        k, d = len(self.healthy), len(self.columns)
        shapes = (self.middle.shape, self.scale.shape, self.centres.shape, self.failure_prone.shape)
        numbers = np.concatenate([self.middle, self.scale, self.centres.ravel(), [self.threshold]])
        if shapes != ((d,), (d,), (k, d), (k,)) or not self.healthy.any():
            raise Failure(f"the clusters' parts do not fit each other, or none is healthy: {_REMEDY}")
        if not np.isfinite(numbers).all() or min(self.scale.min(), self.threshold) <= 0:
            raise Failure(f"the clusters' numbers are not finite, or a scale is not positive: {_REMEDY}")
