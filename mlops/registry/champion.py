"""Whether a model of the sensor trainer may take the place of the one that is served."""

from collections.abc import Mapping


def worse(candidate: Mapping[str, float], champion: Mapping[str, float], margins: Mapping[str, float]) -> list[str]:
    """The metrics by which the candidate is worse than the champion on the same rows; empty where it may replace it.

    margins: by how much each metric, of which more is better, may be lower. A metric that is not a number is worse.
    """
    return [name for name, margin in margins.items() if not candidate[name] >= champion[name] - margin]
