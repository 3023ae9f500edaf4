import time
from collections.abc import Mapping
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlops import datasets
from mlops.datasets.declaration import EVENT_TIME
from mlops.drift.columns import Scale, comparable, scales
from mlops.drift.comparison import Comparison, compare, holm
from mlops.drift.reference import earliest
from mlops.drift.sketch import marks, marks_of, sketch
from tests.unit.kinds import HOUSES, houses

LEVEL, EFFECT = 0.01, 0.04  # those of the DAG
RESAMPLES = 200


def compared(
    reference: pl.DataFrame,
    batch: pl.DataFrame,
    watched: Mapping[str, Scale],
    *,
    level: float = LEVEL,
    effect: float = EFFECT,
) -> list[Comparison]:
    known = sketch([reference], marks(reference, watched))
    return compare(known, sketch([batch], marks_of(known)), level=level, effect_threshold=effect)


def one_of(scale: Scale, reference: list, batch: list, **options: float) -> Comparison:
    dtype = pl.Float64 if scale == "number" else pl.String
    (one,) = compared(
        *(pl.DataFrame({"x": side}, {"x": dtype}) for side in (reference, batch)), {"x": scale}, **options
    )
    return one


def drifted(name: str, reference: pl.DataFrame, batch: pl.DataFrame) -> set[str]:
    dataset = datasets.get(name)
    tables = (table.select(comparable(dataset)) for table in (reference, batch))
    return {one.column for one in compared(*tables, scales(dataset)) if one.drifted}


@pytest.fixture
def parts(tables):
    """(the earliest 60 % of a set, its newest rows): a last day of those that have times."""

    def of(name: str, hours: float = 24) -> tuple[pl.DataFrame, pl.DataFrame]:
        raw = pl.from_pandas(tables(name).raw)
        reference = earliest(raw.lazy(), 0.6).collect()
        if EVENT_TIME not in raw.columns:
            return reference, raw.tail(round(0.2 * len(raw)))
        return reference, raw.filter(pl.col(EVENT_TIME) > pl.col(EVENT_TIME).max() - timedelta(hours=hours))

    return of


def changed(batch: pl.DataFrame, every: int, column: str, value: object) -> pl.DataFrame:
    """The batch with another value in one row of `every`."""
    return batch.with_row_index("i").with_columns(
        pl.when(pl.col("i") % every == 0).then(pl.lit(value)).otherwise(column).alias(column)
    )


def test_later_film_ratings_come_from_other_people_than_earlier_ones(parts):
    """Users rate all their films in one sitting, so a later week has other people: real drift in the real set."""
    reference, batch = parts("movielens", 168)
    assert {"occupation", "age"} <= drifted("movielens", reference, batch)


@pytest.mark.parametrize("name", ["shuttle", "adult"])
def test_sets_whose_rows_lie_in_no_order_of_time_do_not_drift(parts, name):
    assert drifted(name, *parts(name)) == set()


@pytest.mark.parametrize("column", ["f1", "f4", "f9"])
def test_a_shifted_column_is_named_and_no_other(parts, column):
    reference, batch = parts("shuttle")
    shifted = batch.with_columns(pl.col(column) + round(2 * reference[column].std()))
    assert drifted("shuttle", reference, shifted) == {column}


def test_a_category_that_the_reference_does_not_have_is_drift(parts):
    reference, batch = parts("adult")
    assert drifted("adult", reference, changed(batch, 4, "workclass", "Robot")) == {"workclass"}


@pytest.mark.parametrize(("column", "every"), [("occupation", 3), ("hours_per_week", 3), ("hours_per_week", 1)])
def test_values_that_go_missing_are_drift_of_a_category_and_of_a_number(parts, column, every):
    reference, batch = parts("adult")
    assert drifted("adult", reference, changed(batch, every, column, None)) == {column}


def test_the_label_is_watched_as_well(parts):
    reference, batch = parts("shuttle")
    assert drifted("shuttle", reference, changed(batch, 3, "anomaly", 1)) == {"anomaly"}


@pytest.mark.parametrize("missing", [1.0, 0.95, 0.5, 0.2])
def test_a_number_of_which_5_in_100_were_missing_and_now_more_has_drifted(missing):
    reference = [None if row % 20 == 0 else float(row % 97) for row in range(20_000)]
    batch = [None if row < missing * 1440 else float(row % 97) for row in range(1440)]
    one = one_of("number", reference, batch)
    assert one.drifted
    assert one.effect == pytest.approx(missing - 0.05, abs=0.02)
    assert (one.missing_reference, one.missing_batch) == (0.05, pytest.approx(missing, abs=0.001))
    assert f"{missing:.1%} are missing, 5.0% were" in one.text


def test_a_number_that_comes_to_have_values_has_drifted():
    one = one_of("number", [None] * 1000, [1.0] * 500)
    assert (one.effect, one.drifted) == (1.0, True)


def test_a_shift_of_two_fifths_of_a_standard_deviation_and_a_failure_rate_of_22_instead_of_7_in_100_are_seen():
    """Both are about as far: 2 * Phi(0.2) - 1 = 0.159, and 0.15."""
    generator = np.random.default_rng(7)
    number = one_of("number", generator.normal(0, 1, 29_458).tolist(), generator.normal(0.4, 1, 1440).tolist())
    label = one_of("category", ["failed"] * 7 + ["ran"] * 93, ["failed"] * 317 + ["ran"] * 1123)
    assert number.effect == pytest.approx(0.159, abs=0.03)
    assert label.effect == pytest.approx(0.15, abs=0.001)
    assert number.drifted
    rate = one_of("category", (["failed"] * 7 + ["ran"] * 93) * 290, ["failed"] * 317 + ["ran"] * 1123)
    assert rate.drifted


def car_loan(rows: int, seed: int, *, later: bool) -> pl.DataFrame:
    """Credits as in NannyML's synthetic set: the later ones differ in four columns, by as much as there."""
    generator = np.random.default_rng(seed)
    salaries = ["0 - 20K", "20K - 40K", "40K - 60K", "60K+"]
    return pl.DataFrame(
        {
            "car_value": generator.lognormal(10.6 if later else 10.1, 0.42, rows),  # 0.44 lie elsewhere
            "loan_length": generator.normal(20.5 if later else 18, 5, rows).round(),  # 0.19
            "debt_to_income_ratio": generator.beta(5, 4, rows),
            "driver_tenure": generator.uniform(0, 10, rows),
            "salary_range": generator.choice(
                salaries, rows, p=[0.11, 0.3, 0.34, 0.25] if later else [0.2] * 2 + [0.35, 0.25]
            ),
            "repaid_loan_on_prev_car": generator.choice(["yes", "no"], rows, p=[0.25, 0.75] if later else [0.5, 0.5]),
            "size_of_downpayment": generator.choice([f"{share}%" for share in range(0, 100, 10)], rows),
        }
    )


def test_the_four_columns_of_car_loans_that_shift_are_found_and_no_other():
    watched: dict[str, Scale] = {
        name: "number" if dtype == pl.Float64 else "category"
        for name, dtype in car_loan(1, 0, later=False).schema.items()
    }
    shifted = {"car_value", "loan_length", "salary_range", "repaid_loan_on_prev_car"}
    reference = car_loan(50_000, 1, later=False)
    for seed, rows in ((2, 25_000), (3, 5_000)):
        found = compared(reference, car_loan(rows, seed, later=True), watched)
        assert {one.column for one in found if one.drifted} == shifted
    assert not any(one.drifted for one in compared(reference, car_loan(25_000, 4, later=False), watched))


def test_what_is_significant_and_small_is_no_drift():
    generator = np.random.default_rng(7)
    one = one_of("number", *(generator.normal(mean, 1, 200_000).tolist() for mean in (0.0, 0.05)))
    assert one.p_adjusted < 1e-9
    assert one.effect < EFFECT
    assert not one.drifted


def test_what_is_large_by_chance_alone_is_no_drift():
    values = np.linspace(0, 1, 1000)
    one = one_of("number", values.tolist(), values[[700, 800, 900]].tolist())
    assert one.effect == pytest.approx(0.7, abs=0.01)
    assert not one.drifted


def test_what_is_significant_by_itself_is_not_among_many_columns():
    sides = np.linspace(0, 1, 1000), np.linspace(0.4, 1, 15)
    for columns, drift in ((1, True), (20, False)):
        same = {f"same {number}": 0.5 for number in range(1, columns)}
        tables = [pl.DataFrame({"x": values} | same) for values in sides]
        found = compared(*tables, dict.fromkeys(tables[0].columns, "number"), level=0.05)
        assert found[0].column == "x", "the farthest from the reference stands first"
        assert found[0].p < 0.05
        assert found[0].p_adjusted == pytest.approx(min(1.0, columns * found[0].p))
        assert found[0].drifted is drift


def test_the_level_and_the_least_effect_are_drift_themselves():
    sides = [np.linspace(low, 1, rows).tolist() for low, rows in ((0, 1000), (0.3, 40))]
    one = one_of("number", *sides)
    for level, effect, drift in (
        (one.p_adjusted, one.effect, True),
        (one.p_adjusted * 0.999, one.effect, False),
        (one.p_adjusted, one.effect * 1.001, False),
    ):
        assert one_of("number", *sides, level=level, effect=effect).drifted is drift


def test_numbers_are_compared_by_the_limit_of_kolmogorov_and_smirnov():
    """Three beside three others, which is the largest distance: the exact p is 0.1."""
    one = one_of("number", [1.0, 2.0, 3.0], [11.0, 12.0, 13.0])
    assert one.effect == 1.0
    assert one.p == pytest.approx(stats.kstwobign.sf(np.sqrt(3 * 3 / 6)), rel=1e-9)
    assert one.p == pytest.approx(0.1, abs=0.001)


def test_of_one_value_on_each_side_nothing_can_be_said():
    one = one_of("number", [1.0], [2.0])
    assert (one.effect, one.drifted) == (1.0, False)
    assert one.p > 0.5


def test_a_column_of_one_value_is_shown_in_bins_of_a_unit():
    one = one_of("number", [5.0] * 40, [5.0] * 20)
    assert (one.labels[0], one.labels[-1], len(one.labels)) == ("5 to 5.05", "5.95 to 6", 20)


def test_categories_are_compared_by_the_chi_squared_test_of_the_counts():
    """(40, 60) beside (60, 40) of two values: chi-squared is 8 with one degree of freedom, p 0.004678."""
    one = one_of("category", *(["a"] * a + ["b"] * (100 - a) for a in (40, 60)))
    assert one.p == pytest.approx(0.004678, abs=1e-6)
    assert (list(one.labels), one.reference, one.batch) == (["b", "a"], [0.6, 0.4], [0.4, 0.6])


@pytest.mark.parametrize(("new", "significant"), [(1, False), (8, True)])
def test_values_that_few_rows_are_expected_to_have_are_tested_by_how_the_sides_share_them(new, significant):
    """By the chi-squared test one row of a value that 30,000 others lack would be significant: p 0.00002."""
    one = one_of("category", ["a"] * 20_000 + ["b"] * 10_000, ["a"] * 1000 + ["b"] * 500 + ["new"] * new)
    share = (1500 + new) / (31_500 + new)
    assert one.p == pytest.approx(min(1.0, 2 * stats.binomtest(new, new, share).pvalue))
    assert (one.p_adjusted <= LEVEL) is significant
    assert one.labels[-1] == "(other values)"


def test_categories_beyond_the_commonest_of_both_sides_are_compared_together_with_new_ones():
    reference = [f"{number:02}" for number in range(30) for _ in range(100)]
    one = one_of("category", reference, ["29"] * 1000 + ["new"] * 1000)
    assert one.labels[0] == "29"
    assert one.labels[-1] == "(other values)"
    assert (one.reference[0], one.reference[-1]) == (pytest.approx(1 / 30), pytest.approx(1 / 3))
    assert (one.batch[0], one.batch[-1]) == (0.5, 0.5)


@pytest.mark.parametrize("name", ["shuttle", "movielens"])
def test_false_alarms_of_one_population_stay_at_the_stated_level(tables, name, record_property):
    """Reference and batch are drawn from the same rows 200 times. An alarm is any column that is significant."""
    dataset, generator = datasets.get(name), np.random.default_rng(7)
    rows = pl.from_pandas(tables(name).raw).select(comparable(dataset))
    significant = flagged = 0
    for _ in range(RESAMPLES):
        order = generator.permutation(len(rows))
        found = compared(rows[order[:20_000]], rows[order[20_000:22_000]], scales(dataset))
        significant += any(one.p_adjusted <= LEVEL for one in found)
        flagged += any(one.drifted for one in found)
    record_property("significant", significant / RESAMPLES)
    record_property("false_alarms", flagged / RESAMPLES)
    # 9 or more of 200 have a probability below 0.001 where each has 0.01.
    assert significant <= 8
    assert flagged <= significant


def exact_distance(reference: list[float | None], batch: list[float | None]) -> float:
    """By SciPy, over the rows themselves, with the missing ones below all others, and above."""
    return max(
        stats.ks_2samp(*([end if v is None else v for v in side] for side in (reference, batch))).statistic
        for end in (-np.inf, np.inf)
    )


columns = st.lists(st.none() | st.integers(-40, 40).map(float) | st.floats(-50, 50), min_size=1, max_size=200)


@given(columns, columns, st.integers(2, 20))
def test_the_distance_of_a_sketch_is_the_exact_one_but_for_its_resolution(reference, batch, edges):
    tables = [pl.DataFrame({"x": side}, {"x": pl.Float64}) for side in (reference, batch)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlops.drift.sketch.EDGES", edges)
        known = sketch(tables[:1], marks(tables[0], {"x": "number"}))
    (one,) = compare(known, sketch(tables[1:], marks_of(known)), level=LEVEL, effect_threshold=EFFECT)
    exact, resolution = exact_distance(reference, batch), known["x"].resolution
    present = sum(value is not None for value in reference)
    assert resolution <= max(0, np.ceil((present - 1) / (edges - 1)) - 1) / len(reference) + 1e-9, "as many in each"
    assert exact - resolution - 1e-9 <= one.effect <= exact + 1e-9


@pytest.mark.parametrize("draw", ["normal", "lognormal", "tied"])
def test_of_many_rows_the_distance_is_exact_to_a_half_thousandth(draw):
    generator = np.random.default_rng(7)
    sides = [generator.normal(mean, 1, 100_000) for mean in (0.0, 0.03)]
    if draw != "normal":
        sides = [np.exp(side) if draw == "lognormal" else np.maximum(side, 0).round(2) for side in sides]
    tables = [pl.DataFrame({"x": side}) for side in sides]
    known = sketch(tables[:1], marks(tables[0], {"x": "number"}))
    (one,) = compare(known, sketch(tables[1:], marks_of(known)), level=LEVEL, effect_threshold=EFFECT)
    exact = stats.ks_2samp(*sides, method="asymp")
    assert known["x"].resolution <= 1 / 2047
    assert exact.statistic - known["x"].resolution <= one.effect <= exact.statistic + 1e-12
    assert one.p == pytest.approx(exact.pvalue, rel=0.2)


@pytest.mark.parametrize("scale", ["number", "category"])
@given(
    values=st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=30),
    others=st.lists(st.integers(0, 3), min_size=1),
)
def test_whatever_the_values_the_shares_add_up_and_the_numbers_are_finite(scale, values, others):
    cast = float if scale == "number" else str
    one = one_of(scale, *([None if v is None else cast(v) for v in side] for side in (values, others)))
    assert np.isfinite([one.p, one.effect]).all()
    assert 0 <= one.effect <= 1 + 1e-9
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


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.lists(st.sampled_from("abcde"), min_size=1))
def test_the_effect_of_a_category_is_the_least_share_of_rows_to_change(reference, batch):
    shares = [{v: side.count(v) / len(side) for v in "abcde"} for side in (reference, batch)]
    expected = sum(max(0.0, shares[1][v] - shares[0][v]) for v in "abcde")
    assert one_of("category", reference, batch).effect == pytest.approx(expected)


def test_infinities_are_numbers_like_others():
    one = one_of("number", [-np.inf, 0.0, 1.0, np.inf] * 25, [np.inf] * 100)
    assert one.effect == pytest.approx(0.75)
    assert sum(one.batch) == pytest.approx(1)


def test_a_million_rows_beside_a_million_take_less_than_a_twelfth_of_a_second():
    """The processor's time and not the clock's: other work on the machine is no fault of the comparison."""
    generator = np.random.default_rng(7)
    reference, batch = (pl.DataFrame({"x": generator.normal(mean, 1, 1_000_000)}) for mean in (0.0, 0.1))
    known = sketch(reference.iter_slices(1 << 17), marks(reference.head(1 << 17), {"x": "number"}))
    taken = []
    for _ in range(5):
        start = time.process_time()
        counted = sketch(batch.iter_slices(1 << 17), marks_of(known))
        compare(known, counted, level=LEVEL, effect_threshold=EFFECT)
        taken.append(time.process_time() - start)
    assert min(taken) < 0.08, "0.02 measured, 0.58 by the rows themselves"


def test_each_side_is_shown_as_what_it_is_and_each_test_by_its_name():
    reference = pl.DataFrame({"n": [0.0] * 30 + [1.0] * 10, "c": ["a"] * 30 + ["b"] * 10})
    batch = pl.DataFrame({"n": [0.0] * 10 + [1.0] * 30, "c": ["a"] * 10 + ["b"] * 30})
    found = compared(reference, batch, {"n": "number", "c": "category"})
    number, category = (next(one for one in found if one.column == name) for name in ("n", "c"))
    assert (number.test, category.test) == ("Kolmogorov-Smirnov", "chi-squared")
    assert (number.reference[0], number.batch[0]) == (0.75, 0.25)
    assert (category.labels, category.reference, category.batch) == (["a", "b"], [0.75, 0.25], [0.25, 0.75])


def test_what_is_no_number_or_not_there_is_missing_and_the_label_is_its_rule():
    shuttle = datasets.get("shuttle")
    plain = {column.name: ["1", "nan", "x", None] for column in shuttle.columns}
    read = pl.DataFrame(plain).select(comparable(shuttle))
    assert read["f1"].to_list() == [1.0, None, None, None]
    assert read["anomaly"].to_list() == ["anomaly = 1", None, None, None]
    adult = datasets.get("adult")
    read = pl.DataFrame({c.name: [">50K", "<=50K", None] for c in adult.columns}).select(comparable(adult))
    assert read["income"].to_list() == ["income = >50K", "not income = >50K", None]
    assert set(read.columns) == set(scales(adult))


@pytest.mark.parametrize(
    ("kind", "column", "later"),
    [
        ("binary", "price", pl.col("price") == "price >= 100"),
        ("multiclass", "type", pl.col("type") == "flat"),
        ("regression", "price", pl.col("price") > 100),
    ],
)
def test_the_label_is_watched_of_whatever_kind_it_is(kind, column, later):
    dataset = HOUSES[kind]
    rows = pl.from_pandas(houses(4_000), nan_to_null=True).select(comparable(dataset))
    found = {one.column: one for one in compared(rows, rows.filter(later), scales(dataset))}
    assert found[column].drifted
    assert found[column].effect > 0.2
