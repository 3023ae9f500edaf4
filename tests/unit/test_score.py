from math import isnan

import numpy as np
import pandas as pd
import pytest

from mlops.training.families import sklearn
from mlops.training.score import score, score_predictions


def test_scores_of_a_known_confusion():
    labels, predicted = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0])
    scores = score_predictions(labels, predicted, np.array([0.9, 0.8, 0.4, 0.6, 0.1]))
    assert scores.accuracy == pytest.approx(3 / 5)
    assert scores.f1 == pytest.approx(2 / 3)
    assert scores.auc == pytest.approx(5 / 6)
    assert scores.baseline_accuracy == pytest.approx(3 / 5)
    assert (scores.true_positives, scores.false_positives, scores.true_negatives, scores.false_negatives) == (
        2,
        1,
        1,
        1,
    )


@pytest.mark.parametrize(
    ("labels", "probability"), [([1, 1], [0.5, 0.6]), ([0, 1], [np.nan, 0.6])], ids=["one class", "NaN probability"]
)
def test_an_undefined_score_is_nan_and_not_logged(labels, probability):
    scores = score_predictions(np.array(labels), np.array([1, 1]), np.array(probability))
    assert isnan(scores.auc)
    assert "test_auc" not in scores.metrics("test")


def test_what_is_gained_over_the_larger_class_is_counted_on_the_smaller_one():
    few, many = np.array([1, 1, 0, 0, 0]), np.array([1, 1, 1, 0, 0])
    predicted, probability = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.1, 0.8, 0.2, 0.3])
    mostly_negative = score_predictions(few, predicted, probability)
    assert (mostly_negative.gained, mostly_negative.lost, mostly_negative.baseline_f1) == (1, 1, 0.0)
    mostly_positive = score_predictions(many, predicted, probability)
    assert (mostly_positive.gained, mostly_positive.lost) == (2, 1)
    assert mostly_positive.baseline_f1 == pytest.approx(2 * 3 / (5 + 3))


def test_no_positive_row_anywhere_is_an_f1_of_nothing():
    assert score_predictions(np.array([0, 0]), np.array([0, 0]), np.array([0.1, 0.2])).f1 == 0.0


class Classifier:
    """Says yes above a half."""

    def predict(self, features):
        return (features.x > 0.5).astype(int).to_numpy()

    def predict_proba(self, features):
        return np.column_stack([1 - features.x, features.x])


def test_a_model_is_scored_by_what_it_predicts_and_by_its_probability_of_yes():
    features, labels = pd.DataFrame({"x": [0.9, 0.8, 0.4, 0.6, 0.1]}), pd.Series([1, 1, 1, 0, 0])
    expected = score_predictions(labels.to_numpy(), np.array([1, 1, 0, 1, 0]), features.x.to_numpy())
    assert score(sklearn, Classifier(), features, labels) == expected
