"""The rule by which a model of the sensor trainer takes the place of another."""

from math import nan

import pytest

from mlops.registry.champion import worse


@pytest.mark.parametrize(
    ("candidate", "margin", "expected"),
    [(0.8, 0.0, []), (0.79, 0.0, ["f1"]), (0.79, 0.02, []), (0.77, 0.02, ["f1"]), (nan, 1.0, ["f1"])],
)
def test_a_model_may_be_worse_by_the_margin_and_no_more(candidate, margin, expected):
    assert worse({"f1": candidate}, {"f1": 0.8}, {"f1": margin}) == expected


def test_all_metrics_of_the_rule_are_asked_and_no_others():
    found = worse({"f1": 0.1, "auc": 0.1, "other": 0.0}, {"f1": 0.2, "auc": 0.2, "other": 1.0}, {"auc": 0.0, "f1": 0.0})
    assert found == ["auc", "f1"]
