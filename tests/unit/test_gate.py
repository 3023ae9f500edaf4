from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import models
from mlops.models import metrics
from mlops.models.declaration import Model
from mlops.training.gate import Criteria, refusals
from mlops.training.resampling import Interval

F1, MAE = metrics.get("f1"), metrics.get("mae")
CRITERIA = Criteria(F1, {"f1": 0.80, "accuracy": 0.85}, margin=0.02)
ERRORS = Criteria(MAE, {"mae": 10.0}, margin=0.1)
GOOD = {"accuracy": 0.99, "f1": 0.95, "auc": 0.99}
GAINED = Interval(0.95, 0.93, 0.97)
LEVEL = Interval(-0.004, -0.01, 0.002)


def asked(scores=GOOD, baseline=0.0, gain=GAINED, criteria=CRITERIA, advantage=None, others=None):
    return refusals(scores, baseline, gain, criteria, advantage, others or {})


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"accuracy": 0.85}, "Accuracy 0.8500 is not above the threshold 0.85"),
        ({"f1": 0.80}, "F1 0.8000 is not above the threshold 0.8"),
        ({"accuracy": nan}, "accuracy is not a number"),
        ({"f1": nan}, "f1 is not a number"),
        ({"auc": nan}, "auc is not a number"),
        ({"auc": inf}, "auc is not a number"),
    ],
)
def test_a_model_that_is_not_good_enough_is_refused_for_this_reason_alone(change, cause):
    (reason,) = asked({**GOOD, **change})
    assert cause in reason


def test_a_good_model_passes():
    assert asked() == []
    assert asked(advantage=Interval(0.0, -0.01, 0.01)) == []
    assert asked({"mae": 8.0, "rmse": 9.0}, 12.0, Interval(4.0, 3.0, 5.0), ERRORS) == []


def test_a_gain_over_the_baseline_that_may_be_chance_is_refused():
    (reason,) = asked(baseline=0.90, gain=Interval(0.05, 0.0199, 0.08))
    assert reason == (
        "F1 0.9500 is not above 0.9000, that of the larger class, by a margin of 0.0200: the gain lies between 0.0199 "
        "and 0.0800 with 95 % confidence"
    )
    assert asked(baseline=0.90, gain=Interval(0.05, 0.0201, 0.08)) == []


def test_an_error_must_be_below_its_threshold_and_below_the_baselines_by_a_share_of_it():
    reasons = asked({"mae": 11.0}, 12.0, Interval(1.0, 0.5, 1.5), ERRORS)
    assert reasons[0] == "Mean absolute error 11.0000 is not below the threshold 10"
    assert reasons[1] == (
        "Mean absolute error 11.0000 is not below 12.0000, that of the mean, by a margin of 1.2000: the gain lies "
        "between 0.5000 and 1.5000 with 95 % confidence"
    )
    assert "1.235e+04" in asked({"mae": 12345.678}, 12.0, Interval(1.0, 0.5, 1.5), ERRORS)[0]


def test_a_model_that_is_told_to_be_worse_than_the_one_in_production_is_refused():
    (reason,) = asked(advantage=Interval(-0.01, -0.015, -0.005))
    assert reason == (
        "F1 0.9500 is worse than that of the production model on the same rows: the difference of -0.0100 lies between "
        "-0.0150 and -0.0050 with 95 % confidence"
    )


def test_one_that_only_looks_worse_is_not():
    assert asked(advantage=LEVEL) == []
    assert asked(advantage=replace_upper(LEVEL, 0.0)) == []
    assert asked(advantage=replace_upper(LEVEL, nan)) != []


def replace_upper(interval: Interval, upper: float) -> Interval:
    return interval._replace(upper=upper)


def test_a_score_on_the_training_set_that_is_not_a_number_is_refused():
    reasons = asked(others={"train_f1": 0.9, "train_auc": nan})
    assert reasons == ["train_auc is not a number: the model or its data is broken"]


@pytest.mark.parametrize("criteria", [replace(CRITERIA, thresholds={"f1": nan}), replace(CRITERIA, margin=nan)])
def test_a_threshold_that_is_not_a_number_lets_nothing_pass(criteria):
    assert asked(criteria=criteria) != []


def test_all_reasons_are_given_at_once():
    majority = {"accuracy": 0.83, "f1": 0.0, "auc": 0.5}
    assert len(asked(majority, gain=Interval(0, 0, 0), advantage=Interval(-0.9, -0.95, -0.8))) == 4


numbers = st.floats(0, 1) | st.just(nan)


@given(st.fixed_dictionaries(dict.fromkeys(GOOD, numbers)), numbers, st.tuples(numbers, numbers, numbers), numbers)
def test_whatever_passes_is_above_every_threshold_and_finite(scores, baseline, ends, upper):
    gain = Interval(*ends)
    if not asked(scores, baseline, gain, advantage=Interval(0, 0, upper)):
        assert scores["accuracy"] > 0.85 and scores["f1"] > 0.80 and 0 <= scores["auc"] <= 1
        assert gain.lower > F1.required_gain(baseline, 0.02)


@given(st.floats(0, 0.9999), st.floats(0, 0.5))
def test_a_perfect_model_passes_whatever_the_baseline_where_there_are_rows_enough(baseline, margin):
    room = 1 - baseline
    perfect = dict.fromkeys(GOOD, 1.0)
    assert asked(perfect, baseline, Interval(room, room, room), replace(CRITERIA, margin=margin)) == []
    faultless = Interval(5.0, 5.0, 5.0)
    assert asked({"mae": 0.0}, 5.0, faultless, Criteria(MAE, {}, margin)) == []


def test_where_there_is_room_the_whole_margin_is_required():
    assert F1.required_gain(0.76, 0.02) == pytest.approx(0.02)
    assert F1.required_gain(0.99, 0.02) == pytest.approx(0.005)
    assert MAE.required_gain(200.0, 0.02) == pytest.approx(4.0)
    assert MAE.required_gain(200.0, 0.9) == pytest.approx(100.0)


def test_a_model_is_asked_for_what_it_declares():
    asked_for = Criteria.of(models.get("sensor-failure"), {"accuracy": None, "f1": None}, None, 0.95)
    assert (asked_for.metric.name, asked_for.thresholds, asked_for.margin) == ("f1", {"f1": 0.8}, 0.02)
    bare = Model("plain", "", "shuttle", margin=0.1)
    assert Criteria.of(bare, {}, None, 0.95) == Criteria(metrics.get("average_precision"), {}, 0.1)
    income = Criteria.of(models.get("income"), {"accuracy": 0.8}, None, 0.95)
    assert [metric.name for metric in income.measured] == ["average_precision", "accuracy"]


def test_a_variable_that_is_set_overrides_what_is_declared():
    overridden = Criteria.of(models.get("sensor-failure"), {"accuracy": 0.9, "f1": 0.99}, 0.05, 0.99)
    assert overridden == Criteria(F1, {"f1": 0.99, "accuracy": 0.9}, 0.05, 0.99)


def test_a_variable_of_a_metric_that_the_label_does_not_have_says_nothing(monkeypatch):
    from tests.unit.kinds import HOUSES

    monkeypatch.setattr(Model, "data", HOUSES["regression"])
    assert Criteria.of(Model("price", "", "houses"), {"accuracy": 0.9, "f1": 0.8}, None, 0.95).thresholds == {}
    monkeypatch.setattr(Model, "data", HOUSES["multiclass"])
    assert Criteria.of(Model("type", "", "houses"), {"accuracy": 0.9, "f1": 0.8}, None, 0.95).thresholds == {
        "accuracy": 0.9
    }
