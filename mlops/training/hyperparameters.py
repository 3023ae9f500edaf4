"""What can be chosen about the model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hyperparameters:
    """As HistGradientBoostingClassifier names them; it stops early by itself on more than 10,000 rows."""

    learning_rate: float = 0.1
    max_iter: int = 200
