"""Each metric against scikit-learn's, and what knows only the labels."""

from dataclasses import replace
from math import isnan

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st

from mlops import datasets
from mlops.datasets.declaration import Column, Dataset, Label
from mlops.models import metrics
from mlops.training.families import Prediction
from mlops.training.measures import Answers, Rows, measure
from mlops.training.score import Scores, score
from tests.unit.kinds import CLASSES, HOUSES

SHUTTLE = datasets.get("shuttle")


def binary(labels, predicted, probability) -> tuple[Rows, Answers]:
    rows = Rows.of(pd.Series(labels), SHUTTLE)
    probability = np.asarray(probability, dtype=float)
    return rows, Answers(np.asarray(predicted), np.column_stack([1 - probability, probability]))


def scored(labels, predicted, probability) -> Scores:
    return score(*binary(labels, predicted, probability), "binary")


def test_scores_of_a_known_confusion():
    scores = scored([1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0.9, 0.8, 0.4, 0.6, 0.1])
    assert scores.model["accuracy"] == pytest.approx(3 / 5)
    assert scores.model["f1"] == pytest.approx(2 / 3)
    assert scores.model["auc"] == pytest.approx(5 / 6)
    assert scores.baseline["accuracy"] == pytest.approx(3 / 5)
    assert scores.counts == {"true_positives": 2, "false_positives": 1, "true_negatives": 1, "false_negatives": 1}
    assert scores.logged("test")["test_baseline_accuracy"] == pytest.approx(3 / 5)
    assert scores.logged("test")["test_rows"] == 5


@pytest.mark.parametrize(
    ("labels", "probability"), [([1, 1], [0.5, 0.6]), ([0, 1], [np.nan, 0.6])], ids=["one class", "NaN probability"]
)
def test_an_undefined_score_is_nan_and_not_logged(labels, probability):
    scores = scored(labels, [1, 1], probability)
    assert isnan(scores.model["auc"])
    assert "test_auc" not in scores.logged("test")


def test_no_positive_row_anywhere_is_an_f1_of_nothing():
    assert scored([0, 0], [0, 0], [0.1, 0.2]).model["f1"] == 0.0


def test_the_baseline_of_classes_is_the_larger_one_and_their_shares():
    few = scored([1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0.9, 0.1, 0.8, 0.2, 0.3]).baseline
    assert (few["f1"], few["auc"], few["average_precision"]) == pytest.approx((0.0, 0.5, 2 / 5))
    assert few["log_loss"] == pytest.approx(-(0.4 * np.log(0.4) + 0.6 * np.log(0.6)))
    many = scored([1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [0.9, 0.1, 0.8, 0.2, 0.3]).baseline
    assert many["f1"] == pytest.approx(2 * 3 / (5 + 3))


@st.composite
def labelled(draw: st.DrawFn):
    """Labels of both classes and probabilities with ties."""
    size = draw(st.integers(2, 60))
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), min_size=size - 2, max_size=size - 2))]
    levels = draw(st.lists(st.integers(0, 8), min_size=size, max_size=size))
    return np.array(labels), np.array(levels) / 8


@given(labelled())
def test_binary_metrics_are_those_of_scikit_learn(drawn):
    labels, probability = drawn
    predicted = (probability > 0.5).astype(int)
    rows, answers = binary(labels, predicted, probability)
    expected = {
        "accuracy": reference.accuracy_score(labels, predicted),
        "f1": reference.f1_score(labels, predicted, zero_division=0.0),
        "auc": reference.roc_auc_score(labels, probability),
        "average_precision": reference.average_precision_score(labels, probability),
        "log_loss": reference.log_loss(labels, probability, labels=[0, 1]),
    }
    assert score(rows, answers, "binary").model == pytest.approx(expected)
    precision, recall, _ = reference.precision_recall_curve(labels, probability)
    found = measure(metrics.get("recall_at_precision_0.75"))(rows, answers)
    assert found == pytest.approx(max(recall[:-1][precision[:-1] >= 0.75], default=0.0))


@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=60), st.randoms())
def test_metrics_of_several_classes_are_those_of_scikit_learn(pairs, random):
    labels, predicted = (np.array(side) for side in zip(*pairs, strict=True))
    probabilities = np.array([[random.random() + 0.01 for _ in CLASSES] for _ in pairs])
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    rows = Rows.of(pd.Series(labels), HOUSES["multiclass"])
    found = score(rows, Answers.of(Prediction(predicted, np.array(CLASSES), probabilities), rows), "multiclass").model
    assert found == pytest.approx(
        {
            "accuracy": reference.accuracy_score(labels, predicted),
            "f1_macro": reference.f1_score(labels, predicted, average="macro"),
            "log_loss": reference.log_loss(labels, probabilities, labels=CLASSES),
        }
    )


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=60), st.floats(0, 1e6))
def test_metrics_of_numbers_are_those_of_scikit_learn(pairs, offset):
    labels, predicted = (np.array(side, dtype=float) + offset for side in zip(*pairs, strict=True))
    if np.ptp(labels) == 0:
        labels[0] += 1
    rows = Rows.of(pd.Series(labels), HOUSES["regression"])
    scores = score(rows, Answers.of(Prediction(predicted), rows), "regression")
    expected = {
        "r2": reference.r2_score(labels, predicted),
        "mae": reference.mean_absolute_error(labels, predicted),
        "rmse": reference.root_mean_squared_error(labels, predicted),
    }
    assert scores.model == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert scores.baseline["r2"] == pytest.approx(0, abs=1e-6)
    assert scores.baseline["rmse"] == pytest.approx(labels.std(), rel=1e-6)


def test_a_class_that_the_model_never_met_has_the_probability_0():
    rows = Rows.of(pd.Series([*CLASSES]), HOUSES["multiclass"])
    answers = Answers.of(Prediction(np.array(["flat"] * 3), np.array(["flat"]), np.ones((3, 1))), rows)
    assert answers.probabilities.tolist() == [[0, 1, 0]] * 3
    assert score(rows, answers, "multiclass").model["log_loss"] == pytest.approx(-2 / 3 * np.log(np.finfo(float).eps))


def test_answers_of_another_kind_or_class_are_no_answers():
    numbers, classes = Rows.of(pd.Series([1.0, 2.0]), HOUSES["regression"]), Rows.of(pd.Series([0, 1]), SHUTTLE)
    said = Prediction(np.array([0, 1]), np.array([0, 1]), np.eye(2))
    for rows, prediction in ((numbers, said), (classes, Prediction(np.array([0.5, 1.5])))):
        with pytest.raises(ValueError, match="the label is a number and the model says classes"):
            Answers.of(prediction, rows)
    with pytest.raises(ValueError, match="'tower' is none of the classes farm, flat, house"):
        Rows.of(pd.Series(["flat", "tower"]), HOUSES["multiclass"])


def test_a_label_of_another_kind_is_declared_by_its_column():
    with pytest.raises(ValueError, match="kind 'ranking' is none of binary, multiclass, regression"):
        Label("x", kind="ranking")
    for kind in ("multiclass", "regression"):
        with pytest.raises(ValueError, match=f"declare neither equals nor at_least for a {kind} label"):
            Label("x", equals=1, kind=kind)


@pytest.mark.parametrize(
    ("kind", "column", "cause"),
    [
        ("multiclass", Column("y", "category", values=("a", "b"), feature=False), "a category of three or more values"),
        ("multiclass", Column("y", "integer", feature=False), "a category of three or more values"),
        ("regression", Column("y", "identifier", feature=False), "of kind regression must be a number"),
    ],
)
def test_a_label_that_its_column_cannot_be_is_refused_where_it_is_declared(kind, column, cause):
    with pytest.raises(ValueError, match=cause):
        replace(SHUTTLE, columns=(*SHUTTLE.columns, column), label=Label("y", kind=kind))


@pytest.mark.parametrize("kind", metrics.DEFAULT)
def test_each_kind_is_judged_by_a_metric_of_its_own_unless_it_says_otherwise(kind):
    assert kind in metrics.get(metrics.DEFAULT[kind]).kinds
    assert metrics.get(metrics.DEFAULT[kind]) in metrics.of_kind(kind)
    assert isinstance(HOUSES["regression"], Dataset)
