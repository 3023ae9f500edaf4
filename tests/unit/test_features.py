import operator
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import isfinite, isnan

import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import datasets
from mlops.datasets.declaration import EVENT_TIME, GROUP, LABEL, Column, Derived, Label, SplitByKey, SplitByTime
from mlops.features.engineer import engineer
from mlops.features.split import hashes, is_test_row, split
from mlops.result import Failure
from mlops.training.derive import Derive
from tests.conftest import cleaned

SHUTTLE, MOVIELENS, ADULT = (datasets.get(name) for name in ("shuttle", "movielens", "adult"))
START = datetime(2026, 1, 1, tzinfo=UTC)
UTC_TIME = pl.Datetime("us", "UTC")
moments = st.lists(st.integers(min_value=0, max_value=50), min_size=2, max_size=60)
fractions = st.floats(min_value=0.05, max_value=0.95)


def rows_in_test(table: pl.DataFrame, dataset) -> pl.Series:
    return table.lazy().select(is_test_row(table.lazy(), dataset)).collect().to_series()


@given(moments, fractions)
def test_a_split_by_time_puts_every_training_row_before_every_test_row(minutes, fraction):
    times = pl.Series(EVENT_TIME, [START + timedelta(minutes=minute) for minute in minutes])
    in_test = rows_in_test(times.to_frame(), replace(SHUTTLE, split=SplitByTime(fraction)))
    assert in_test.any()
    assert (~in_test).sum() <= len(times) * (1 - fraction)
    cutoff = int(len(times) * (1 - fraction))
    assert (~in_test).sum() == (times < times.sort()[cutoff]).sum(), "no row more is kept from training"
    if not in_test.all():
        assert times.filter(~in_test).max() < times.filter(in_test).min()


@given(st.lists(st.none() | st.integers(0, 50), max_size=60), fractions)
def test_a_row_without_a_time_is_one_of_the_training_set_and_moves_no_other(minutes, fraction):
    times = pl.Series(EVENT_TIME, [None if m is None else START + timedelta(minutes=m) for m in minutes], UTC_TIME)
    dataset = replace(SHUTTLE, split=SplitByTime(fraction))
    in_test = rows_in_test(times.to_frame(), dataset)
    assert in_test.null_count() == 0
    assert not in_test.filter(times.is_null()).any()
    known = times.drop_nulls()
    assert in_test.filter(times.is_not_null()).to_list() == rows_in_test(known.to_frame(), dataset).to_list()


def keyed(*names: str, by: tuple[str, ...] = (), fraction: float = 0.2, seed: int = 7):
    """A data set of two numbers and two texts, of which `names` are the key."""
    columns = (Column("n", "integer", nullable=True), Column("x", "number", nullable=True), Column("s", "identifier"))
    group, label = Column("g", "identifier"), Column("y", "integer", feature=False)
    return replace(
        SHUTTLE,
        columns=(*columns, group, label),
        label=Label("y", equals=1),
        event_time=None,
        entity=None,
        key=names,
        split=SplitByKey(fraction, by, seed),
    )


cells = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-(2**53), 2**53),
        "x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "s": st.none() | st.text(max_size=20),
        "g": st.sampled_from(["a", "b", "c"]),
        "y": st.integers(0, 1),
    }
)
SCHEMA = {"n": pl.Int64, "x": pl.Float64, "s": pl.String, "g": pl.String, "y": pl.Int64}


@given(st.lists(cells, min_size=1, max_size=40), st.lists(cells, max_size=40), st.randoms(use_true_random=False))
def test_a_row_stays_in_its_part_whatever_rows_come_and_in_whatever_order(rows, more, random):
    before = pl.DataFrame(rows, schema=SCHEMA)
    shuffled = [*range(len(rows) + len(more))]
    random.shuffle(shuffled)
    after = pl.DataFrame([*rows, *more], schema=SCHEMA)[shuffled]
    for dataset in (keyed("n", "x", "s"), keyed("s", by=("g",)), keyed()):
        alone = rows_in_test(before, dataset).to_list()
        among = dict(zip(shuffled, rows_in_test(after, dataset), strict=True))
        assert [among[place] for place in range(len(rows))] == alone
        assert rows_in_test(after.head(0), dataset).to_list() == []


@pytest.mark.parametrize("column", ["n", "x"])
def test_a_number_is_the_same_whatever_carries_it(column):
    carriers = [
        pl.Series(column, [5, -3, 0, None], dtype=dtype) for dtype in (pl.Int64, pl.Int8, pl.Float64, pl.Float32)
    ]
    carriers += [pl.Series(column, values) for values in (["5", "-3", "0", None], ["5.0", "-3.00", "-0.0", None])]
    carriers.append(pl.Series(column, [5.0, -3.0, -0.0, float("nan")]))
    found = [hashes([carrier], [True], 7).tolist() for carrier in carriers]
    assert found == [found[0]] * len(found)
    assert len(set(found[0])) == 4


def test_a_text_is_the_same_whatever_carries_it():
    texts = ["5", "-3", "12345678901234567890", None]
    carriers = [pl.Series("s", texts[:2] + texts[3:]), pl.Series("s", [5, -3, None]), pl.Series("s", [5.0, -3.0, None])]
    carriers.append(carriers[0].cast(pl.Categorical))
    found = [hashes([carrier], [False], 7).tolist() for carrier in carriers]
    assert found == [found[0]] * len(found)
    long = hashes([pl.Series("s", texts)], [False], 7)
    assert len(set(long.tolist())) == 4
    assert hashes([pl.Series("s", [5.5, float("nan")])], [False], 7).tolist() == (
        hashes([pl.Series("s", ["5.5", None])], [False], 7).tolist()
    )


def test_the_hash_is_this_one_and_no_other():
    """Were it another one, all rows of all sets would change sides: computed here once more, a word at a time."""

    def mix(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    def hash_of(number: float | None, text: str | None) -> int:
        state = mix(mix(7) ^ (2**64 - 1 if number is None else int.from_bytes(struct.pack("<d", number), "little")))
        if text is None:
            return mix(state ^ (2**64 - 1))
        content = text.encode()
        state = mix(state ^ len(content))
        for start in range(0, len(content), 8):
            state = mix(state ^ int.from_bytes(content[start : start + 8], "little"))
        return state

    numbers = [1.5, None, -2.0, 1e300, 0.0]
    texts = ["Zürich", "", None, "exactly8", "more than sixteen bytes"]
    found = hashes([pl.Series(numbers), pl.Series(texts)], [True, False], 7)
    assert found.tolist() == [hash_of(*pair) for pair in zip(numbers, texts, strict=True)]
    assert hashes([pl.Series(["a"])], [False], 7).tolist() == [6583217003421279749]


@pytest.mark.parametrize("fraction", [0.02, 0.2, 0.5])
@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_the_test_sets_share_is_that_of_a_draw(fraction, seed):
    """Of keys that follow one another, which a weak hash would not spread: within 4.5 standard deviations."""
    rows = 50_000
    numbers = pl.DataFrame({"n": range(rows)})
    texts = numbers.select(pl.format("user-{}", "n").alias("s"))
    for table, dataset in ((numbers, keyed("n")), (texts, keyed("s"))):
        dataset = replace(dataset, split=SplitByKey(fraction, seed=seed))
        share = rows_in_test(table, dataset).mean()
        assert abs(share - fraction) < 4.5 * (fraction * (1 - fraction) / rows) ** 0.5


def test_a_larger_test_set_keeps_the_rows_of_a_smaller_one_and_another_seed_draws_others():
    table = pl.DataFrame({"n": range(2000)})
    small, large = (rows_in_test(table, keyed("n", fraction=fraction)) for fraction in (0.2, 0.4))
    assert (large | ~small).all()
    other = rows_in_test(table, keyed("n", seed=8))
    assert 0.1 < other.filter(small).mean() < 0.3, "drawn independently"


def test_rows_of_one_group_lie_in_one_part_and_say_which():
    table = pl.DataFrame(
        {"n": range(900), "g": [f"block {row // 9}" for row in range(900)], "s": "x", LABEL: [0, 1, 1] * 300}
    )
    for dataset in (keyed("n", by=("g",)), replace(keyed("n"), entity="g")):
        train, test = (part.collect() for part in split(table.lazy(), dataset))
        assert not set(train["g"]) & set(test["g"])
        assert 0.1 < len(test) / len(table) < 0.3
        for part in (train, test):
            assert (
                part.group_by("g").agg(pl.col(GROUP).n_unique()).get_column(GROUP).to_list()
                == [1] * part["g"].n_unique()
            )
            assert part[GROUP].n_unique() == part["g"].n_unique()
        seen = engineer(test.lazy().with_columns(x=0.0), dataset).collect_schema().names()
        assert seen == ["n", "x", "s", "g", GROUP, LABEL]


def test_the_label_moves_no_row_unless_it_is_a_key():
    assert "y" not in keyed().split_key and keyed().split_key == ("n", "x", "s", "g")
    assert keyed("y").split_key == ("y",)
    assert SHUTTLE.split_key == ()


@given(st.data(), st.sampled_from([SplitByTime(0.3), SplitByKey(0.3, by=("row",))]))
def test_training_and_test_set_are_disjoint_and_cover_all_rows(data, declared):
    minutes = data.draw(st.lists(st.integers(0, 300), min_size=20, max_size=80))
    table = pl.DataFrame(
        {
            "row": range(len(minutes)),
            EVENT_TIME: [START + timedelta(minutes=minute) for minute in minutes],
            LABEL: data.draw(st.lists(st.integers(0, 1), min_size=len(minutes), max_size=len(minutes))),
        }
    )
    dataset = replace(SHUTTLE, columns=(*SHUTTLE.columns, Column("row", "integer", feature=False)), split=declared)
    try:
        train, test = (part.drop(GROUP, strict=False).collect() for part in split(table.lazy(), dataset))
    except Failure as failure:
        assert "of the classes, of two at least" in str(failure)
        return
    polars.testing.assert_frame_equal(pl.concat([train, test]).sort("row"), table)
    for part in (train, test):
        assert part["row"].is_sorted()


def clock(labels: list) -> pl.LazyFrame:
    times = [START + timedelta(minutes=minute) for minute in range(len(labels))]
    return pl.LazyFrame({EVENT_TIME: times, LABEL: labels})


def test_a_training_set_of_one_class_is_refused_as_well():
    with pytest.raises(Failure, match=r"the training set has 8 rows and 1 of the classes, of two at least"):
        split(clock([0] * 8 + [0, 1]), SHUTTLE)


def test_a_test_set_of_one_class_is_refused_with_the_remedy():
    with pytest.raises(
        Failure, match=r"the test set has 2 rows and 1 of the classes, .* declaration of dataset shuttle"
    ):
        split(clock([0, 1] * 4 + [0, 0]), SHUTTLE)


def test_a_test_set_that_lacks_all_rows_is_refused():
    table = pl.DataFrame({"n": [1] * 9, LABEL: [0, 1, 0] * 3})
    with pytest.raises(Failure, match=r"the (test|training) set has 0 rows and 0 of the classes"):
        split(table.lazy(), keyed("n"))


def test_a_class_that_only_the_test_set_has_is_refused():
    dataset = replace(
        SHUTTLE,
        columns=(*SHUTTLE.columns, Column("type", "category", values=("a", "b", "c"), feature=False)),
        label=Label("type", kind="multiclass"),
    )
    with pytest.raises(Failure, match="no row of the training set is of the class 'c', and some of the test set"):
        split(clock(["a", "b"] * 4 + ["c", "a"]), dataset)
    split(clock(["a", "b", "c", "a", "b", "c", "a", "b", "c", "a"]), dataset)


def test_numbers_are_split_where_they_differ():
    dataset = replace(
        SHUTTLE,
        label=Label("f1", kind="regression"),
        columns=tuple(replace(column, feature=False) if column.name == "f1" else column for column in SHUTTLE.columns),
    )
    split(clock([float(row) for row in range(10)]), dataset)
    with pytest.raises(Failure, match="the test set has 2 rows and 1 of the values of the label, of two at least"):
        split(clock([*map(float, range(8)), 1.0, 1.0]), dataset)


def test_the_real_sets_are_split_as_declared(tables):
    for name, share in (("shuttle", 0.2), ("movielens", 0.2), ("adult", 0.2)):
        made = tables(name)
        assert len(made.train) + len(made.test) == len(made.clean)
        assert len(made.test) / len(made.clean) == pytest.approx(share, abs=0.001 if name != "adult" else 0.006)


def test_what_a_champion_trained_on_is_in_no_later_test_set(tables):
    """Drawn by chance within each class, as before, 4 of 5 rows of the larger set's test part were trained on."""
    clean = pl.from_pandas(tables("adult").clean)
    for rows in (2_000, 20_000, len(clean) - 1):
        train, _ = split(clean.head(rows).lazy(), ADULT)
        _, test = split(clean.lazy(), ADULT)
        assert not len(train.collect().join(test.collect(), on=list(ADULT.split_key), how="semi", nulls_equal=True))


def test_preprocessing_drops_repeated_rows_and_keeps_the_latest(tables):
    raw = tables("movielens").raw
    again = raw.head(1).assign(
        rating=1, timestamp=900_000_000, event_time=pd.Timestamp(900_000_000, unit="s", tz="UTC")
    )
    clean = cleaned(pd.concat([again, raw], ignore_index=True), MOVIELENS)
    assert len(clean) == len(raw)
    kept = clean[(clean["user_id"] == again["user_id"].iloc[0]) & (clean["item_id"] == again["item_id"].iloc[0])]
    assert kept["rating"].tolist() == [1]
    assert clean[EVENT_TIME].is_monotonic_increasing


def test_preprocessing_keeps_repeated_rows_where_they_are_allowed(tables):
    raw = tables("adult").raw
    assert len(cleaned(raw, replace(ADULT, duplicates=None))) == len(raw)


def test_preprocessing_leaves_missing_what_the_model_is_to_fill(tables):
    made = tables("adult")
    for table in (made.clean, pd.concat([made.train, made.test])):
        assert made.raw["workclass"].isna().sum() - 52 <= table["workclass"].isna().sum() > 0
        assert not (table["workclass"] == "unknown").any()


def test_preprocessing_adds_the_label_and_drops_rows_without_one(tables):
    raw = tables("shuttle").raw.head(1000).copy()
    raw["anomaly"] = raw["anomaly"].astype(float)
    raw.loc[:9, "anomaly"] = np.nan
    clean = cleaned(raw, SHUTTLE)
    assert len(clean) == 990
    assert clean[LABEL].tolist() == raw["anomaly"].iloc[10:].astype(int).tolist()


def test_each_row_is_preprocessed_by_itself(tables):
    raw = tables("adult").raw
    alone = cleaned(raw.head(500), ADULT)
    together = cleaned(raw, replace(ADULT, duplicates=None)).head(500)
    pd.testing.assert_frame_equal(cleaned(raw.head(500), replace(ADULT, duplicates=None)), together)
    assert len(alone) <= 500


def test_the_model_sees_the_features_and_the_label_only(tables):
    for dataset in (SHUTTLE, MOVIELENS, ADULT):
        train = tables(dataset.name).train
        assert list(train.columns) == [
            *(column.name for column in dataset.features),
            *(each.name for each in dataset.derived),
            LABEL,
        ]
        assert dataset.label.column not in train.columns
        assert all(train[column.name].dtype == np.float64 for column in dataset.features if column.numeric)


def test_the_training_set_does_not_depend_on_the_rows_of_the_test_set(tables):
    clean = pl.from_pandas(tables("shuttle").clean)
    before, test = split(clean.lazy(), SHUTTLE)
    first = test.collect()[EVENT_TIME].min()
    names = ["f1", "f2", "f9"]
    changed = clean.with_columns(pl.when(pl.col(EVENT_TIME) >= first).then(0.0).otherwise(pl.col(names)).name.keep())
    after, _ = split(changed.lazy(), SHUTTLE)
    polars.testing.assert_frame_equal(engineer(before, SHUTTLE).collect(), engineer(after, SHUTTLE).collect())


def test_the_commands_hand_on_keys_and_counts(platform, tables):
    platform.data.write_table("runs/raw.parquet", tables("adult").raw)
    clean = platform.result_of("features", "preprocess", "--dataset", "adult", "--data", "runs/raw.parquet")
    assert (clean["rows"], clean["dropped"]) == (48_790, 52)
    made = platform.result_of("features", "engineer", "--dataset", "adult", "--data", str(clean["data"]))
    assert made["features"] == len(ADULT.features) + 1, "one is derived"
    pd.testing.assert_frame_equal(platform.data.read_table(str(made["train"])), tables("adult").train)
    pd.testing.assert_frame_equal(platform.data.read_table(str(made["test"])), tables("adult").test)


OPERATIONS = {"sum": operator.add, "difference": operator.sub, "product": operator.mul, "ratio": operator.truediv}
values = st.none() | st.sampled_from([0.0, -0.0, 3.0]) | st.floats()


@given(st.lists(st.tuples(values, values), min_size=1, max_size=20), st.sampled_from(sorted(OPERATIONS)))
def test_a_derived_column_is_what_python_computes_and_the_same_in_a_request(rows, operation):
    derived = Derived("made", operation, ("a", "b"))
    table = pl.DataFrame(rows, schema={"a": pl.Float64, "b": pl.Float64}, orient="row")
    in_training = table.select(derived.expression)["made"].to_list()
    in_a_request = Derive.of([derived]).transform(table.to_pandas())["made"].tolist()
    for (first, second), made, asked in zip(rows, in_training, in_a_request, strict=True):
        known = all(value is not None and isfinite(value) for value in (first, second))
        expected = OPERATIONS[operation](first, second) if known and (operation != "ratio" or second) else None
        assert made == (expected if expected is not None and isfinite(expected) else None)
        assert made == asked or (made is None and isnan(asked))


def test_engineering_adds_the_derived_columns_behind_the_others(tables):
    test = tables("adult").test
    assert list(test.columns) == [*(column.name for column in ADULT.features), "capital_result", LABEL]
    assert (test["capital_result"] == test["capital_gain"] - test["capital_loss"]).all()
    assert test["capital_result"].nunique() > 100


@pytest.mark.parametrize(
    ("derived", "cause"),
    [
        (Derived("x", "difference", ("capital_gain", "gender")), "two columns that are features and numbers; gender"),
        (Derived("x", "difference", ("capital_gain", "fnlwgt")), "features and numbers; fnlwgt"),
        (Derived("x", "difference", ("capital_gain", "nothing")), "features and numbers; nothing"),
        (Derived("x", "power", ("capital_gain", "age")), "x is derived by 'power', none of sum, difference"),
        (Derived("age", "sum", ("capital_gain", "age")), "a name of its own: age"),
        (Derived("label", "sum", ("capital_gain", "age")), "a name of its own: label"),
    ],
)
def test_what_cannot_be_derived_is_refused_where_it_is_declared(derived, cause):
    with pytest.raises(ValueError, match=cause):
        replace(ADULT, derived=(derived,))
