import json
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import models
from mlops.registry.card import card, card_of_readings
from mlops.registry.card_page import as_html
from mlops.registry.record import Record
from mlops.training.calibration import BINS, calibration

RECORD = Record("0123", {"seed": "7", "code_version": "abc<b>"}, {"test_auc": 0.75, "test_calibration_error": 0.02}, {})


class Tags(HTMLParser):
    """Which elements are open at the end, and which there were."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta", "line", "rect", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "line", "rect", "path"):
            assert self.open.pop() == tag


@pytest.mark.parametrize("name", models.names())
def test_the_card_of_each_model_is_a_page_whose_elements_are_closed_and_which_loads_nothing(name):
    slices = json.dumps({"users with 1 to 5 clicks": {"rows": 100, "auc": 0.6}, "others": {"rows": 50}})
    found = calibration(np.array([0, 1, 1]), np.array([0.1, 0.4, 0.9]))
    page = as_html(card(models.get(name), RECORD, slices=slices), json.dumps(found))
    tags = Tags(page)
    assert tags.open == []
    assert {"table", "ul", "svg"} <= set(tags.seen)
    assert not {"script", "link", "img", "b"} & set(tags.seen), "what a parameter says is text"
    for text in (
        "How to make it again",
        "users with 1 to 5 clicks",
        "Calibration",
        "<code>abc&lt;b&gt;</code>",
        "0.02",
    ):
        assert text in page
    assert "`" not in page and "|---" not in page


def test_the_card_of_the_sensor_model_says_its_period_its_columns_and_its_numbers():
    record = Record("0123", {"period": "2026-01-01/2026-01-31", "columns": "f1,f2"}, {"auc": 0.99}, {})
    page = as_html(card_of_readings("sensor-clusters", "Clusters.", record))
    assert Tags(page).open == []
    for text in ("2026-01-01 to 2026-01-31", "f1, f2", "<td>auc</td>", "0.99", "<code>0123</code>"):
        assert text in page


rows = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60)


@given(rows)
def test_bins_hold_all_rows_by_rising_probability_and_the_error_is_a_share(pairs):
    truth, probability = (np.array(each, dtype=float) for each in zip(*pairs, strict=True))
    found = calibration(truth, probability)
    bins = found["bins"]
    assert sum(each["rows"] for each in bins) == len(truth) and len(bins) <= BINS
    assert [each["predicted"] for each in bins] == sorted(each["predicted"] for each in bins)
    assert sum(each["rows"] * each["observed"] for each in bins) == pytest.approx(truth.sum())
    assert 0 <= found["error"] <= 1


def test_probabilities_that_come_true_have_no_error_and_those_that_are_half_too_high_have_a_half():
    truth = np.tile([0, 1], 500)
    assert calibration(truth, np.full(1000, 0.5))["error"] == 0
    assert calibration(np.zeros(1000), np.full(1000, 0.5))["error"] == 0.5
