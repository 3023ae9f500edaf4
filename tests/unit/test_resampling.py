"""How often two models are told apart that are equally good, and what an interval covers."""

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.models import metrics
from mlops.training.measures import Answers, Rows
from mlops.training.resampling import advantage, gain

PAIRS, LEVEL, DRAWS = 500, 0.05, 39  # of which the level is exact as well
# Of 500 pairs at a level of 5 %, more than 36 are told apart in one of 100 cases.
MOST = 36 / PAIRS


def classes(truth: np.ndarray, score: np.ndarray) -> Answers:
    probability = 1 / (1 + np.exp(-score))
    return Answers((probability > 0.5).astype(int), np.column_stack([1 - probability, probability]))


def rows_of(truth: np.ndarray, groups: np.ndarray | None = None) -> Rows:
    number = truth.dtype.kind == "f"
    return Rows(truth, () if number else (0, 1), np.arange(len(truth)) if groups is None else groups)


def told_apart(found) -> bool:
    return not found.lower <= 0 <= found.upper


def noisy(truth: np.ndarray, generator: np.random.Generator, noise: float = 1.5) -> Answers:
    return classes(truth, 2 * truth - 1 + generator.normal(0, noise, len(truth)))


@pytest.mark.parametrize("name", ["accuracy", "f1", "auc", "average_precision", "recall_at_precision_0.6", "log_loss"])
@pytest.mark.parametrize("share", [0.4, 0.05])
def test_equally_good_models_are_told_apart_no_more_often_than_the_level(name, share):
    generator, metric, found = np.random.default_rng(5), metrics.get(name), []
    for _ in range(PAIRS):
        truth = (generator.random(300) < share).astype(int)
        truth[:2] = 0, 1
        pair = (noisy(truth, generator) for _ in range(2))
        found.append(told_apart(advantage(metric, rows_of(truth), *pair, confidence=1 - LEVEL, draws=DRAWS)))
    assert np.mean(found) <= MOST


@pytest.mark.parametrize("name", ["accuracy", "f1"])
def test_a_model_trained_again_that_differs_in_a_handful_of_rows_is_told_apart_no_more_often(name):
    """An interval of Wald's kind tells 4 rows to none apart, which happens to one of eight such pairs."""
    generator, metric, found = np.random.default_rng(6), metrics.get(name), []
    for _ in range(PAIRS):
        truth = (generator.random(300) < 0.4).astype(int)
        first = noisy(truth, generator)
        second = first.values.copy()
        odd = generator.choice(300, 5, replace=False)
        second[odd] = 1 - second[odd]
        # Which of the two is which is a matter of chance for each row.
        swap = np.isin(np.arange(300), odd) & (generator.random(300) < 0.5)
        pair = np.where(swap, second, first.values), np.where(swap, first.values, second)
        answers = (Answers(values, first.probabilities) for values in pair)
        found.append(told_apart(advantage(metric, rows_of(truth), *answers, confidence=1 - LEVEL, draws=DRAWS)))
    assert np.mean(found) <= MOST


@pytest.mark.parametrize("name", ["mae", "rmse", "r2"])
def test_equally_good_models_of_numbers_are_told_apart_no_more_often(name):
    generator, metric, found = np.random.default_rng(7), metrics.get(name), []
    for _ in range(PAIRS):
        truth = generator.normal(size=100)
        pair = (Answers(truth + generator.standard_t(3, 100)) for _ in range(2))
        found.append(told_apart(advantage(metric, rows_of(truth), *pair, confidence=1 - LEVEL, draws=DRAWS)))
    assert np.mean(found) <= MOST


def test_rows_that_belong_together_count_as_one():
    """20 groups of 25 rows, of which one model or the other knows each as a whole."""
    generator, metric, found = np.random.default_rng(8), metrics.get("accuracy"), {"rows": [], "groups": []}
    groups = np.repeat(np.arange(20), 25)
    for _ in range(PAIRS):
        truth = generator.integers(0, 2, 500)
        right = (generator.random((2, 20)) < 0.5)[:, groups]
        pair = [Answers(np.where(knows, truth, 1 - truth), np.zeros((500, 2))) for knows in right]
        for name, rows in (("rows", rows_of(truth)), ("groups", rows_of(truth, groups))):
            found[name].append(told_apart(advantage(metric, rows, *pair, confidence=1 - LEVEL, draws=DRAWS)))
    assert np.mean(found["rows"]) > 0.3, "as if they were 500 independent ones"
    assert np.mean(found["groups"]) <= MOST


@pytest.mark.parametrize("name", ["f1", "auc", "average_precision", "log_loss"])
def test_a_model_that_is_better_is_told_from_one_that_is_worse(name):
    generator, metric = np.random.default_rng(9), metrics.get(name)
    truth = (generator.random(2000) < 0.2).astype(int)
    good, bad = noisy(truth, generator, 0.8), noisy(truth, generator, 1.6)
    ahead = advantage(metric, rows_of(truth), good, bad, 0.95)
    behind = advantage(metric, rows_of(truth), bad, good, 0.95)
    assert 0 < ahead.lower < ahead.value < ahead.upper
    assert (behind.value, behind.lower) == pytest.approx((-ahead.value, -ahead.upper), abs=0.02)
    assert behind.upper < 0


def test_the_same_answers_are_never_told_apart_and_the_same_question_has_one_answer():
    truth = np.array([0, 1] * 50)
    answers = noisy(truth, np.random.default_rng(1))
    for name in ("accuracy", "auc", "average_precision", "log_loss"):
        same = advantage(metrics.get(name), rows_of(truth), answers, answers, 0.95)
        assert same.lower <= 0 <= same.upper and same.upper < 1e-9
    other = noisy(truth, np.random.default_rng(2))
    first, second = (advantage(metrics.get("auc"), rows_of(truth), answers, other, 0.95) for _ in range(2))
    assert first == second


def test_models_whose_probabilities_have_another_scale_are_told_apart_no_more_often():
    generator, metric, found = np.random.default_rng(12), metrics.get("average_precision"), []
    for _ in range(PAIRS):
        truth = (generator.random(300) < 0.3).astype(int)
        first, second = (noisy(truth, generator) for _ in range(2))
        odds = np.log(second.score) - np.log(1 - second.score)
        pair = first, classes(truth, 3 * odds - 1)
        found.append(told_apart(advantage(metric, rows_of(truth), *pair, confidence=1 - LEVEL, draws=DRAWS)))
    assert np.mean(found) <= MOST


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_more_confidence_asks_for_more(confidence):
    truth = np.array([0, 1] * 200)
    pair = [noisy(truth, np.random.default_rng(seed)) for seed in (1, 2)]
    narrow, wide = (
        advantage(metrics.get("auc"), rows_of(truth), *pair, confidence=level) for level in (confidence, 0.995)
    )
    assert wide.lower <= narrow.lower < narrow.value < narrow.upper <= wide.upper


def test_three_groups_are_too_few_to_tell_anything_apart():
    truth, groups = np.array([0, 1] * 30), np.repeat([0, 1, 2], 20)
    perfect, wrong = (Answers(values, np.zeros((60, 2))) for values in (truth, 1 - truth))
    assert not told_apart(advantage(metrics.get("accuracy"), rows_of(truth, groups), perfect, wrong, 0.95))


@pytest.mark.parametrize("name", ["accuracy", "f1", "average_precision", "mae"])
def test_the_gains_interval_leaves_the_truth_out_about_as_rarely_as_stated(name):
    generator, metric, missed = np.random.default_rng(10), metrics.get(name), []

    def drawn(size: int) -> tuple[Rows, Answers]:
        if name == "mae":
            truth = generator.normal(size=size)
            return rows_of(truth), Answers(truth * 0.7 + generator.normal(0, 0.4, size))
        truth = (generator.random(size) < 0.3).astype(int)
        return rows_of(truth), noisy(truth, generator, 1.0)

    rows, answers = drawn(400_000)
    truth = gain(metric, rows, answers, Answers.baseline(rows), 0.95, draws=2).value
    for _ in range(PAIRS):
        rows, answers = drawn(300)
        found = gain(metric, rows, answers, Answers.baseline(rows), 0.95, draws=199)
        missed.append((found.lower > truth, found.upper < truth))
    below, above = np.mean(missed, axis=0)
    assert below <= 0.05 and above <= 0.05, "2.5 % each, and chance"
    assert below + above <= 0.085


def test_a_model_as_good_as_the_baseline_hardly_ever_shows_a_gain():
    generator, metric, shown = np.random.default_rng(11), metrics.get("accuracy"), []
    for _ in range(PAIRS):
        truth = (generator.random(500) < 0.2).astype(int)
        values = (generator.random(500) < 0.02).astype(int)
        rows = rows_of(truth)
        answers = Answers(values, np.zeros((500, 2)))
        shown.append(gain(metric, rows, answers, Answers.baseline(rows), 0.95, draws=199).lower > 0.02)
    assert np.mean(shown) <= 0.0045


def test_an_interval_of_one_group_or_of_no_number_is_none():
    truth = np.array([0, 1, 0, 1])
    answers = noisy(truth, np.random.default_rng(1))
    one = gain(metrics.get("auc"), rows_of(truth, np.zeros(4, int)), answers, Answers.baseline(rows_of(truth)), 0.95)
    assert isnan(one.lower) and not isnan(one.value)
    only = np.ones(4, int)
    assert isnan(advantage(metrics.get("auc"), rows_of(only), answers, answers, 0.95).upper)


@given(st.lists(st.integers(0, 3), min_size=8, max_size=40), st.sampled_from(["accuracy", "average_precision"]))
def test_the_order_of_the_groups_numbers_says_nothing(numbers, name):
    groups = np.unique(numbers, return_inverse=True)[1]
    truth = np.arange(len(groups)) % 2
    answers = noisy(truth, np.random.default_rng(len(groups)))
    found = gain(metrics.get(name), rows_of(truth, groups), answers, Answers.baseline(rows_of(truth)), 0.9, draws=19)
    if groups.max() >= 1 and not isnan(found.lower):
        assert found.lower <= found.upper
