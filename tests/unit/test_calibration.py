import numpy as np
import pytest

from mlops.training.calibration import bins, expected_error, reliability


def test_what_comes_true_as_often_as_it_is_said_has_no_error():
    said = np.repeat([0.25, 0.75], 400)
    truth = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0])
    assert expected_error(bins(said, truth)) == pytest.approx(0)


def test_the_error_is_by_how_much_is_said_too_much():
    assert expected_error(bins(np.full(100, 0.9), np.arange(100) < 60)) == pytest.approx(0.3)


def test_bins_weigh_as_many_as_their_rows_and_those_without_rows_are_left_out():
    found = bins(np.concatenate([np.full(90, 0.1), np.full(10, 1.0)]), np.zeros(100))
    assert [each.rows for each in found] == [90, 10]
    assert found[-1].high == 1
    assert expected_error(found) == pytest.approx(0.9 * 0.1 + 0.1 * 1.0)


def test_the_page_tells_the_numbers_and_needs_nothing_beside_it():
    page = reliability(bins(np.full(100, 0.9), np.arange(100) < 60), "A <model>")
    assert "A &lt;model&gt;" in page
    assert "0.3000" in page
    assert "<script" not in page and "http" not in page
