"""CPU seconds of the split and of the comparison of two models, and how often equally good ones are told apart.

python -m tests.bench.comparisons [--pairs N]
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import polars as pl

from mlops.features.split import hashes
from mlops.models import metrics
from mlops.training.measures import Answers, Rows
from mlops.training.resampling import DRAWS, advantage, gain


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def noisy(truth: np.ndarray, generator: np.random.Generator) -> Answers:
    probability = 1 / (1 + np.exp(-(2 * truth - 1 + generator.normal(0, 1.5, len(truth)))))
    return Answers((probability > 0.5).astype(int), np.column_stack([1 - probability, probability]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=500)
    pairs, generator = parser.parse_args().pairs, np.random.default_rng(1)
    rows = 1_000_000
    keys = {
        "a number": pl.Series(np.arange(rows)),
        "a text": pl.select(pl.format("user-{}", pl.arange(rows))).to_series(),
    }
    for name, key in keys.items():
        print(f"hash of {rows:,} rows by {name}: {seconds(lambda: hashes([key], [name == 'a number'], 7)):.2f} s")  # noqa: B023
    truth = (generator.random(100_000) < 0.1).astype(int)
    known, pair = Rows(truth, (0, 1), np.arange(len(truth))), [noisy(truth, generator) for _ in range(2)]
    for name in ("f1", "auc", "average_precision", "log_loss"):
        metric = metrics.get(name)
        compared = seconds(lambda: advantage(metric, known, pair[0], pair[1], 0.95))  # noqa: B023
        gained = seconds(lambda: gain(metric, known, pair[0], Answers.baseline(known), 0.95))  # noqa: B023
        print(f"{name} at 100,000 rows, {DRAWS} draws: comparison {compared:.1f} s, gain {gained:.1f} s")
    for name in ("accuracy", "f1", "auc", "average_precision", "recall_at_precision_0.6", "log_loss"):
        apart = []
        for _ in range(pairs):
            truth = (generator.random(300) < 0.3).astype(int)
            small = Rows(truth, (0, 1), np.arange(300))
            found = advantage(metrics.get(name), small, noisy(truth, generator), noisy(truth, generator), 0.95, 39)
            apart.append(not found.lower <= 0 <= found.upper)
        print(f"{name}: {np.mean(apart):.3f} of {pairs} pairs of equally good models told apart at 0.05")


if __name__ == "__main__":
    main()
