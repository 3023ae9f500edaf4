from dataclasses import dataclass, replace
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.training.gate import Thresholds, gain, refusals, required_gain
from mlops.training.interval import paired_difference
from mlops.training.score import Scores, score_predictions

THRESHOLDS = Thresholds(accuracy=0.85, f1=0.80, baseline_margin=0.02)
NAN = float("nan")


@dataclass(frozen=True)
class Quality:
    """93 % of 10,000 rows are of the larger class."""

    accuracy: float = 0.99
    f1: float = 0.95
    auc: float = 0.99
    baseline_accuracy: float = 0.93
    rows: int = 10_000
    gained: int = 650
    lost: int = 50


GOOD = Quality()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"accuracy": 0.85, "baseline_accuracy": 0.5}, "accuracy 0.8500 is not above the threshold 0.85"),
        ({"f1": 0.80}, "F1 0.8000 is not above the threshold 0.8"),
        (
            {"accuracy": 0.94, "gained": 150},
            "not above the majority baseline 0.9300 by a margin of 0.0200: the gain lies between 0.0072 and 0.0128",
        ),
        ({"accuracy": NAN}, "accuracy is not a number"),
        ({"f1": NAN}, "f1 is not a number"),
        ({"auc": NAN}, "auc is not a number"),
        ({"auc": float("inf")}, "auc is not a number"),
    ],
)
def test_a_model_that_is_not_good_enough_is_refused_for_this_reason_alone(change, cause):
    (reason,) = refusals(replace(GOOD, **change), THRESHOLDS, None)
    assert cause in reason


def test_a_good_model_passes():
    assert refusals(GOOD, THRESHOLDS, None) == []
    assert refusals(GOOD, THRESHOLDS, GOOD) == []


def test_a_model_worse_than_the_one_in_production_is_refused():
    (reason,) = refusals(GOOD, THRESHOLDS, replace(GOOD, f1=0.96))
    assert reason == "F1 0.9500 is below that of the production model on the same rows, 0.9600"


def test_the_same_scores_on_too_few_rows_are_no_evidence():
    few = replace(GOOD, rows=100, gained=7, lost=1)
    (reason,) = refusals(few, THRESHOLDS, None)
    assert "the gain lies between" in reason


def test_what_passes_at_one_confidence_may_not_at_a_higher_one():
    close = replace(GOOD, rows=1000, gained=50, lost=12)
    assert refusals(close, replace(THRESHOLDS, confidence=0.8), None) == []
    assert refusals(close, replace(THRESHOLDS, confidence=0.999), None) != []


def test_a_score_on_the_training_set_that_is_not_a_number_is_refused():
    reasons = refusals(GOOD, THRESHOLDS, None, {"train_f1": 0.9, "train_auc": NAN})
    assert reasons == ["train_auc is not a number: the model or its data is broken"]


@pytest.mark.parametrize("name", ["accuracy", "f1", "baseline_margin"])
def test_a_threshold_that_is_not_a_number_lets_nothing_pass(name):
    assert refusals(GOOD, replace(THRESHOLDS, **{name: NAN}), None) != []


def test_all_reasons_are_given_at_once():
    majority = Quality(accuracy=0.93, f1=0.0, auc=0.5, baseline_accuracy=0.93, gained=0, lost=0)
    assert len(refusals(majority, THRESHOLDS, GOOD)) == 3


numbers = st.floats(0, 1) | st.just(NAN)


@st.composite
def scored(draw: st.DrawFn) -> Scores:
    """What a classifier did on any rows of both classes."""
    counts = [draw(st.integers(0, 3000)) for _ in range(4)]
    labels = np.repeat([1, 0, 0, 1], counts)
    predicted = np.repeat([1, 1, 0, 0], counts)
    if len(set(labels)) < 2:
        labels, predicted = np.append(labels, [0, 1]), np.append(predicted, [0, 1])
    return score_predictions(labels, predicted, np.where(draw(st.booleans()), predicted, NAN))


@given(scored(), st.none() | scored())
def test_whatever_passes_is_above_every_threshold_and_finite(candidate, champion):
    if not refusals(candidate, THRESHOLDS, champion):
        assert candidate.accuracy > 0.85
        assert candidate.f1 > 0.80
        assert candidate.accuracy > candidate.baseline_accuracy
        assert 0 <= candidate.auc <= 1


@given(scored())
def test_what_is_gained_and_lost_is_the_difference_to_the_majority_class(scores):
    assert (scores.gained - scores.lost) / scores.rows == pytest.approx(scores.accuracy - scores.baseline_accuracy)
    interval = gain(scores, 0.95)
    assert -1 <= interval.lower <= interval.upper <= 1


@given(st.integers(50_000, 99_990), st.floats(0, 0.5))
def test_a_perfect_model_passes_whatever_the_baseline_where_there_are_rows_enough(majority, margin):
    rows = 100 * 100_000
    perfect = Quality(1.0, 1.0, 1.0, majority / 100_000, rows, rows - 100 * majority, 0)
    assert refusals(perfect, Thresholds(0.85, 0.8, margin), None) == []


def test_where_there_is_room_the_whole_margin_is_required():
    assert required_gain(0.76, 0.02) == pytest.approx(0.02)
    assert required_gain(0.99, 0.02) == pytest.approx(0.005)


def test_the_interval_is_that_of_its_authors_example():
    """D. G. Bonett's own program gives 0.3126438 and 0.7349752 for 26 and 4 of 40 at 95 %."""
    found = paired_difference(26, 4, 40, 0.95)
    assert (found.lower, found.upper) == pytest.approx((0.3126438, 0.7349752), abs=1e-7)


def test_the_interval_of_no_rows_is_not_a_number():
    assert isnan(paired_difference(0, 0, 0, 0.95).lower)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 9000), st.floats(0.5, 0.99))
def test_the_interval_changes_sides_with_the_classifiers_and_grows_with_the_confidence(gained, lost, same, confidence):
    rows = gained + lost + same + 1
    found, swapped = (paired_difference(*pair, rows, confidence) for pair in ((gained, lost), (lost, gained)))
    assert (found.lower, found.upper) == pytest.approx((-swapped.upper, -swapped.lower))
    assert paired_difference(gained, lost, rows, 0.999).lower <= found.lower


@pytest.mark.parametrize(
    ("gained", "lost", "rows"), [(0.07, 0.001, 9_800), (0.12, 0.08, 2_000), (0.02, 0.02, 300)], ids=str
)
def test_the_lower_end_lies_above_the_truth_about_as_rarely_as_stated(gained, lost, rows):
    """2.5 % at 95 % confidence, over 20,000 samples of a population whose true difference is known."""
    generator = np.random.default_rng(11)
    samples = generator.multinomial(rows, [gained, lost, 1 - gained - lost], size=20_000)
    above = [paired_difference(int(b), int(c), rows, 0.95).lower > gained - lost for b, c, _ in samples]
    assert 0.012 < np.mean(above) < 0.032
