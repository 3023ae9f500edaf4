import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlops import datasets
from mlops.data_quality.window import earliest, latest
from mlops.drift.columns import comparable, scales
from mlops.drift.comparison import compare, holm, stability_index

LEVEL, EFFECT = 0.05, 0.2
RESAMPLES = 200


def compared(name: str, reference: pd.DataFrame, batch: pd.DataFrame, effect: float = EFFECT):
    dataset = datasets.get(name)
    tables = (comparable(table, dataset) for table in (reference, batch))
    return compare(*tables, scales(dataset), level=LEVEL, effect_threshold=effect)


def drifted(name: str, reference: pd.DataFrame, batch: pd.DataFrame) -> set[str]:
    return {one.column for one in compared(name, reference, batch) if one.drifted}


def test_later_film_ratings_come_from_other_people_than_earlier_ones(tables):
    """Users rate all their films in one sitting, so a later week has other people: real drift in the real set."""
    raw = tables("movielens").raw
    found = compared("movielens", earliest(raw, 0.6), latest(raw, 168, 0.2))
    assert {one.column for one in found if one.drifted} == {"occupation"}
    assert drifted("movielens", earliest(raw, 0.6), latest(raw, 24, 0.2)) == {"occupation", "age", "gender"}
    significant = {one.column for one in found if one.p_adjusted is not None and one.p_adjusted <= LEVEL}
    assert significant > {"occupation", "age", "release_year"}, "most is significant and little of it matters"


@pytest.mark.parametrize("name", ["shuttle", "adult"])
def test_sets_whose_rows_lie_in_no_order_of_time_do_not_drift(tables, name):
    raw = tables(name).raw
    assert drifted(name, earliest(raw, 0.6), latest(raw, 24, 0.2)) == set()


@pytest.mark.parametrize("column", ["f1", "f4", "f9"])
def test_a_shifted_column_is_named_and_no_other(tables, column):
    raw = tables("shuttle").raw
    batch = latest(raw, 24, 0.2).copy()
    batch[column] += round(2 * raw[column].std())
    assert drifted("shuttle", earliest(raw, 0.6), batch) == {column}


def test_a_category_that_the_reference_does_not_have_is_drift(tables):
    raw = tables("adult").raw
    batch = latest(raw, 24, 0.2).copy()
    batch.loc[batch.index[::4], "workclass"] = "Robot"
    assert drifted("adult", earliest(raw, 0.6), batch) == {"workclass"}


def test_values_that_go_missing_are_drift_of_a_category(tables):
    raw = tables("adult").raw
    batch = latest(raw, 24, 0.2).copy()
    batch.loc[batch.index[::3], "occupation"] = None
    assert drifted("adult", earliest(raw, 0.6), batch) == {"occupation"}


def test_the_label_is_watched_as_well(tables):
    raw = tables("shuttle").raw
    batch = latest(raw, 24, 0.2).copy()
    batch.loc[batch.index[::3], "anomaly"] = 1
    assert drifted("shuttle", earliest(raw, 0.6), batch) == {"anomaly"}


def test_what_is_significant_and_small_is_no_drift():
    generator = np.random.default_rng(7)
    reference, batch = (pd.DataFrame({"x": generator.normal(mean, 1, 200_000)}) for mean in (0.0, 0.05))
    (one,) = compare(reference, batch, {"x": "number"}, level=LEVEL, effect_threshold=EFFECT)
    assert one.p_adjusted is not None
    assert one.p_adjusted < 1e-9
    assert one.effect < 0.05
    assert not one.drifted


def test_what_is_large_by_chance_alone_is_no_drift():
    reference = pd.DataFrame({"x": np.linspace(0, 1, 1000)})
    (one,) = compare(reference, reference.iloc[[700, 800, 900]], {"x": "number"}, level=LEVEL, effect_threshold=EFFECT)
    assert one.effect == pytest.approx(0.7, abs=0.01)
    assert not one.drifted


def test_what_is_significant_by_itself_is_not_among_many_columns():
    sides = np.linspace(0, 1, 1000), np.linspace(0.4, 1, 15)
    for columns, drift in ((1, True), (20, False)):
        same = {f"same {number}": 0.5 for number in range(1, columns)}
        tables = [pd.DataFrame({**same, "x": values}) for values in sides]
        found = compare(*tables, dict.fromkeys(tables[0], "number"), level=LEVEL, effect_threshold=EFFECT)
        assert found[0].column == "x", "the farthest from the reference stands first"
        assert found[0].p < LEVEL
        assert found[0].p_adjusted == pytest.approx(min(1.0, columns * found[0].p))
        assert found[0].drifted is drift


def test_the_level_and_the_least_effect_are_drift_themselves():
    tables = [pd.DataFrame({"x": values}) for values in (np.linspace(0, 1, 1000), np.linspace(0.3, 1, 40))]
    (one,) = compare(*tables, {"x": "number"}, level=LEVEL, effect_threshold=EFFECT)
    for level, effect, drift in (
        (one.p_adjusted, one.effect, True),
        (one.p_adjusted * 0.999, one.effect, False),
        (one.p_adjusted, one.effect * 1.001, False),
    ):
        (again,) = compare(*tables, {"x": "number"}, level=level, effect_threshold=effect)
        assert again.drifted is drift


def test_numbers_are_compared_by_the_asymptotic_test_also_where_they_are_few():
    """Three beside three others: exactly 0.1. The limit of Kolmogorov and Smirnov for D = 1, n = 3 * 3 / 6."""
    tables = [pd.DataFrame({"x": values}) for values in ([1.0, 2.0, 3.0], [11.0, 12.0, 13.0])]
    (one,) = compare(*tables, {"x": "number"}, level=LEVEL, effect_threshold=EFFECT)
    assert one.p == pytest.approx(stats.ks_2samp([1, 2, 3], [11, 12, 13], method="asymp").pvalue)
    assert one.p != pytest.approx(0.1)


def test_a_column_of_one_value_is_shown_in_bins_of_a_unit():
    tables = [pd.DataFrame({"x": [5.0] * rows}) for rows in (40, 20)]
    (one,) = compare(*tables, {"x": "number"}, level=LEVEL, effect_threshold=EFFECT)
    assert (one.labels[0], one.labels[-1]) == ("5 to 5.05", "5.95 to 6")


def test_categories_are_compared_by_the_chi_squared_test_of_the_counts():
    """(40, 60) beside (60, 40) of two values: chi-squared is 8 with one degree of freedom, p 0.004678."""
    tables = [pd.DataFrame({"x": ["a"] * a + ["b"] * (100 - a)}) for a in (40, 60)]
    (one,) = compare(*tables, {"x": "category"}, level=LEVEL, effect_threshold=EFFECT)
    assert one.p == pytest.approx(0.004678, abs=1e-6)
    assert (one.labels, one.reference, one.batch) == (["b", "a"], [0.6, 0.4], [0.4, 0.6])


def test_values_that_either_side_has_too_few_of_are_compared_together():
    """Of 50 rows of the batch 4.9 are expected to be rare, with fewer than 5 the approximation is poor."""
    reference = pd.DataFrame({"x": ["a"] * 405 + ["r"] * 45})
    for rare, labels in ((4, ["a", "(other values)"]), (5, ["a", "r"]), (10, ["a", "r"])):
        batch = pd.DataFrame({"x": ["a"] * (50 - rare) + ["r"] * rare})
        (one,) = compare(reference, batch, {"x": "category"}, level=LEVEL, effect_threshold=EFFECT)
        assert one.labels == labels


def test_of_one_value_on_each_side_nothing_can_be_said():
    tables = [pd.DataFrame({"x": [value]}) for value in (1.0, 2.0)]
    (one,) = compare(*tables, {"x": "number"}, level=LEVEL, effect_threshold=EFFECT)
    assert (one.p, one.effect, one.drifted) == (1.0, 1.0, False)


@pytest.mark.parametrize("name", ["shuttle", "movielens"])
def test_false_alarms_of_one_population_stay_at_the_stated_level(tables, name, record_property):
    """Reference and batch are drawn from the same rows 200 times. An alarm is any column that is significant.

    The effect size is left out here: with it there is no alarm at all.
    """
    raw, generator = tables(name).raw, np.random.default_rng(7)
    significant = flagged = 0
    for _ in range(RESAMPLES):
        order = generator.permutation(len(raw))
        found = compared(name, raw.iloc[order[:20_000]], raw.iloc[order[20_000:22_000]])
        significant += any(one.p_adjusted is not None and one.p_adjusted <= LEVEL for one in found)
        flagged += any(one.drifted for one in found)
    record_property("false_alarm_rate", significant / RESAMPLES)  # measured: 0.015 of shuttle, 0.07 of movielens
    # 21 or more of 200 have a probability below 0.001 where each has 0.05.
    assert significant <= 20
    assert flagged == 0


def test_a_column_without_values_is_not_tested():
    reference, batch = pd.DataFrame({"x": [1.0, 2.0]}), pd.DataFrame({"x": [None, None]}, dtype=float)
    (one,) = compare(reference, batch, {"x": "number"}, level=LEVEL, effect_threshold=EFFECT)
    assert (one.p, one.drifted) == (None, False)


@pytest.mark.parametrize("scale", ["number", "category"])
@given(values=st.lists(st.integers(0, 3), min_size=1, max_size=30), others=st.lists(st.integers(0, 3), min_size=1))
def test_whatever_the_values_the_shares_add_up_and_the_numbers_are_finite(scale, values, others):
    tables = [pd.DataFrame({"x": side}).astype(float if scale == "number" else str) for side in (values, others)]
    (one,) = compare(*tables, {"x": scale}, level=LEVEL, effect_threshold=EFFECT)
    assert np.isfinite([one.p, one.effect]).all()
    assert one.effect >= 0
    assert sum(one.reference) == pytest.approx(1)
    assert sum(one.batch) == pytest.approx(1)
    assert len(one.labels) == len(one.reference) == len(one.batch)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_the_correction_is_holms(p_values):
    adjusted = holm(p_values)
    for p, corrected in zip(p_values, adjusted, strict=True):
        # By the definition: the largest, over the p-values that are not larger, of each times those not before it.
        ranked = sorted(p_values)
        expected = max(other * (len(ranked) - ranked.index(other)) for other in ranked if other <= p)
        assert corrected == pytest.approx(min(1.0, expected))


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=10))
def test_the_stability_index_is_symmetric_and_zero_for_equals(counts):
    reference, batch = zip(*counts, strict=True)
    assert stability_index(reference, batch) == pytest.approx(stability_index(batch, reference))
    assert stability_index(reference, reference) == 0.0
    assert stability_index(reference, batch) >= 0


def test_the_stability_index_of_a_known_example():
    # (0.6 - 0.5) ln(0.6 / 0.5) + (0.4 - 0.5) ln(0.4 / 0.5)
    assert stability_index([500_000, 500_000], [600_000, 400_000]) == pytest.approx(0.040547, abs=1e-5)


def test_a_hundred_thousand_rows_take_about_a_second(tables):
    """The processor's time and not the clock's: other work on the machine is no fault of the comparison."""
    raw = tables("movielens").raw
    start = time.process_time()
    compared("movielens", raw, raw)
    assert time.process_time() - start < 5


def test_each_side_is_shown_as_what_it_is_and_each_test_by_its_name():
    reference = pd.DataFrame({"n": [0.0] * 30 + [1.0] * 10, "c": ["a"] * 30 + ["b"] * 10})
    batch = pd.DataFrame({"n": [0.0] * 10 + [1.0] * 30, "c": ["a"] * 10 + ["b"] * 30})
    found = compare(reference, batch, {"n": "number", "c": "category"}, level=LEVEL, effect_threshold=EFFECT)
    number, category = (next(one for one in found if one.column == name) for name in ("n", "c"))
    assert (number.test, number.effect_name) == ("Kolmogorov-Smirnov", "KS distance")
    assert (category.test, category.effect_name) == ("chi-squared", "population stability index")
    assert (number.reference[0], number.batch[0]) == (0.75, 0.25)
    assert (category.labels, category.reference, category.batch) == (["a", "b"], [0.75, 0.25], [0.25, 0.75])


def test_a_column_without_a_value_on_one_side_is_named_with_its_test():
    nothing, some = pd.DataFrame({"n": [], "c": []}), pd.DataFrame({"n": [1.0], "c": ["a"]})
    found = compare(nothing, some, {"n": "number", "c": "category"}, level=LEVEL, effect_threshold=EFFECT)
    assert {one.test for one in found} == {"Kolmogorov-Smirnov", "chi-squared"}
    assert [(one.p, one.effect, one.drifted, list(one.labels)) for one in found] == [(None, 0.0, False, [])] * 2
