from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.training.gate import Thresholds, refusals, required_accuracy

THRESHOLDS = Thresholds(accuracy=0.85, f1=0.80, baseline_margin=0.02)
NAN = float("nan")


@dataclass(frozen=True)
class Quality:
    accuracy: float = 0.99
    f1: float = 0.95
    auc: float = 0.99
    baseline_accuracy: float = 0.93


GOOD = Quality()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"accuracy": 0.85, "baseline_accuracy": 0.5}, "accuracy 0.8500 is not above the threshold 0.85"),
        ({"f1": 0.80}, "F1 0.8000 is not above the threshold 0.8"),
        ({"accuracy": 0.94}, "accuracy 0.9400 is not above 0.9500, which is the majority baseline 0.9300 and a margin"),
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


def test_all_reasons_are_given_at_once():
    majority = Quality(accuracy=0.93, f1=0.0, auc=0.5, baseline_accuracy=0.93)
    assert len(refusals(majority, THRESHOLDS, GOOD)) == 3


numbers = st.floats(0, 1) | st.just(NAN)
qualities = st.builds(Quality, numbers, numbers, numbers, st.floats(0.5, 1))


@given(qualities, st.none() | qualities)
def test_whatever_passes_is_above_every_threshold_and_finite(candidate, champion):
    if not refusals(candidate, THRESHOLDS, champion):
        assert candidate.accuracy > 0.85
        assert candidate.f1 > 0.80
        assert candidate.accuracy > candidate.baseline_accuracy
        assert 0 <= candidate.auc <= 1


@given(st.floats(0.5, 0.9999), st.floats(0, 0.5))
def test_a_perfect_model_can_pass_whatever_the_baseline(baseline, margin):
    assert baseline <= required_accuracy(baseline, margin) < 1


def test_where_there_is_room_the_whole_margin_is_required():
    assert required_accuracy(0.76, 0.02) == pytest.approx(0.78)
