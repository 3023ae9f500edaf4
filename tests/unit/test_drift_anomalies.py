import numpy as np
import pandas as pd
import pytest

from mlops import datasets
from mlops.data_quality.window import earliest, latest
from mlops.drift.anomalies import contamination, detect
from mlops.drift.columns import comparable

SHUTTLE = datasets.get("shuttle")
THRESHOLD = 0.10


def detected(reference: pd.DataFrame, batch: pd.DataFrame, name: str = "shuttle"):
    dataset = datasets.get(name)
    share = contamination(dataset.label.of(reference), THRESHOLD)
    return detect(comparable(reference, dataset), comparable(batch, dataset), dataset, share)


def test_the_rate_of_a_batch_like_the_reference_is_that_of_its_label(tables):
    raw = tables("shuttle").raw
    found = detected(earliest(raw, 0.6), latest(raw, 24, 0.2))
    assert found.contamination == pytest.approx(0.0724, abs=0.0001)
    assert found.rate == pytest.approx(0.0708, abs=0.01)
    assert found.rate < THRESHOLD


def test_the_rows_that_it_finds_are_the_labelled_ones(tables):
    raw = tables("shuttle").raw
    batch = latest(raw, 168, 0.2)
    strange = detected(earliest(raw, 0.6), batch).scores < 0
    labelled = batch["anomaly"] == 1
    assert (strange & labelled).sum() / labelled.sum() > 0.9
    assert (strange & labelled).sum() / strange.sum() > 0.9


def test_a_batch_with_more_anomalies_than_the_reference_has_a_higher_rate(tables):
    raw = tables("shuttle").raw
    batch = latest(raw, 24, 0.2).copy()
    spoiled = batch.index[::5]
    batch.loc[spoiled, "f1"] = 190
    batch.loc[spoiled, "f9"] = 900
    assert detected(earliest(raw, 0.6), batch).rate == pytest.approx(0.2 + 0.8 * 0.07, abs=0.02)


def test_the_same_rows_are_scored_the_same_again(tables):
    raw = tables("shuttle").raw
    first, second = (detected(earliest(raw, 0.1), latest(raw, 24, 0.2)) for _ in range(2))
    pd.testing.assert_series_equal(first.scores, second.scores)


def test_categories_are_scored_by_how_rare_they_are(tables):
    raw = tables("adult").raw
    batch = raw.tail(2000).copy()
    usual = detected(raw.head(20_000), batch, "adult").rate
    for column in ("race", "workclass", "marital_status", "relationship", "occupation", "education"):
        batch[column] = "never seen"
    assert detected(raw.head(20_000), batch, "adult").rate > usual + 0.3


def test_missing_numbers_are_scored(tables):
    raw = tables("shuttle").raw
    batch = latest(raw, 24, 0.2).astype({"f1": float})
    batch.loc[batch.index[:10], "f1"] = np.nan
    assert detected(earliest(raw, 0.1), batch).scores.notna().all()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1] * 7 + [0] * 93, 0.07), ([1, 0], 0.05), ([1] + [0] * 9, 0.05), ([0] * 10, 0.05), ([None] * 3, 0.05)],
    ids=["rare positives", "a class", "as many as an alarm", "no positives", "no labels"],
)
def test_positives_count_as_anomalies_only_where_they_are_rare(labels, expected):
    assert contamination(pd.Series(labels, dtype="Int64"), THRESHOLD) == pytest.approx(expected)
