import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlops.result import Failure, Refused
from mlops.sensor_trainer.model import scoring
from mlops.sensor_trainer.model.clusters import FEWEST_ROWS, Fitted, fence, fit, judge, large, wilson
from mlops.sensor_trainer.model.comparison import (
    F1_MARGIN,
    Evaluation,
    Flagged,
    auc_and_f1,
    not_worse,
    quality,
    rivals,
    told_from_shuffled,
)
from mlops.sensor_trainer.model.scoring import ClusterModel

COLUMNS = ["a", "b"]
NAN = float("nan")


def readings(seed: int = 1) -> tuple[pd.DataFrame, np.ndarray]:
    """Two healthy states of 900 and 600 readings, one of 100 failing ones, and what is true of each."""
    generator = np.random.default_rng(seed)
    groups = [((0, 0), 900), ((10, 10), 600), ((-30, 30), 100)]
    values = np.concatenate([generator.normal(middle, 1.0, (rows, 2)) for middle, rows in groups])
    truth = np.repeat([0.0, 0.0, 1.0], [rows for _, rows in groups])
    order = generator.permutation(len(values))
    return pd.DataFrame(values[order], columns=COLUMNS), truth[order]


def unlabelled(values: pd.DataFrame) -> np.ndarray:
    return np.full(len(values), NAN)


@pytest.fixture(scope="module")
def known() -> tuple[pd.DataFrame, np.ndarray]:
    return readings()


@pytest.fixture(scope="module")
def fitted(known: tuple[pd.DataFrame, np.ndarray]) -> Fitted:
    return fit(*known, seed=7)


def cluster_of(model: ClusterModel, *point: float) -> int:
    return int(model.score(np.array([point], dtype=float)).cluster[0])


def test_the_number_of_clusters_is_that_of_the_groups(fitted):
    assert len(fitted.model.centres) == 3
    assert fitted.criterion[3] == min(fitted.criterion.values())
    assert set(fitted.criterion) == set(range(2, 13))


def test_the_cluster_whose_labels_fail_is_failure_prone_and_the_others_are_healthy(fitted):
    failing = cluster_of(fitted.model, -30, 30)
    assert fitted.model.failure_prone.tolist() == [number == failing for number in range(3)]
    assert (fitted.model.healthy == ~fitted.model.failure_prone).all()


def test_without_labels_the_small_cluster_is_not_healthy_and_distance_alone_finds_its_failures(known):
    values, truth = known
    model = fit(values, unlabelled(values), seed=7).model
    assert not model.failure_prone.any()
    assert not model.healthy[cluster_of(model, -30, 30)]
    scores = model.score(values.to_numpy())
    assert (scores.failure == (scores.anomaly > 1)).all()
    assert scores.failure[truth == 1].all()
    assert scores.failure[truth == 0].mean() < 0.01


def test_labels_of_one_class_only_count_as_none(known):
    values, truth = known
    for only in (0.0, 1.0):
        model = fit(values, np.where(truth == only, only, NAN), seed=7).model
        assert not model.failure_prone.any()
        assert not model.healthy[cluster_of(model, -30, 30)]


def test_a_few_labels_are_enough_and_too_few_are_not(known):
    values, truth = known
    for shown, told in ((20, True), (2, False)):
        labels = unlabelled(values)
        for truth_of_class in (0.0, 1.0):
            chosen = np.flatnonzero(truth == truth_of_class)[:shown]
            labels[chosen] = truth_of_class
        model = fit(values, labels, seed=7).model
        assert model.failure_prone[cluster_of(model, -30, 30)] == told


def test_a_cluster_in_which_failures_are_more_common_but_rarer_than_one_half_is_not_flagged_as_a_whole(known):
    values, _ = known
    model = fit(values, unlabelled(values), seed=7).model
    cluster = model.score(values.to_numpy()).cluster
    share = np.where(cluster == cluster_of(model, 10, 10), 0.3, 0.01)
    labels = (np.random.default_rng(3).random(len(values)) < share).astype(float)
    assert not judge(model, values.to_numpy(), labels).failure_prone.any()


def test_a_small_cluster_that_labels_call_healthy_is_healthy(known):
    values, truth = known
    model = fit(values, 1 - truth, seed=7).model  # the small group is the one that does not fail
    assert model.healthy.tolist() == [number == cluster_of(model, -30, 30) for number in range(3)]


def test_a_reading_in_a_failing_cluster_is_a_failure_however_near_it_lies(fitted):
    near = ClusterModel(**{**vars(fitted.model), "threshold": 1e9})
    scores = near.score(np.array([[-30.0, 30.0], [0.0, 0.0]]))
    assert scores.failure.tolist() == [True, False]
    assert (scores.anomaly < 1).all()


def test_the_anomaly_score_is_the_distance_to_the_nearest_healthy_centre_and_the_distance_that_to_its_own(fitted):
    model, points = fitted.model, np.array([[0.0, 0.0], [10.0, 11.0], [-30.0, 30.0], [3.0, -90.0]])
    scaled = np.arcsinh((points - model.middle) / model.scale)
    all_distances = np.array([[np.linalg.norm(point - centre) for centre in model.centres] for point in scaled])
    scores = model.score(points)
    assert scores.cluster.tolist() == all_distances.argmin(axis=1).tolist()
    assert scores.distance == pytest.approx(all_distances.min(axis=1))
    assert scores.anomaly * model.threshold == pytest.approx(all_distances[:, model.healthy].min(axis=1))


def test_the_arrays_say_the_same_cluster_as_the_pipeline_of_scikit_learn(fitted):
    other, _ = readings(seed=2)
    assert fitted.pipeline.predict(other).tolist() == fitted.model.score(other.to_numpy()).cluster.tolist()
    distances = fitted.pipeline.transform(other)
    assert fitted.model.distances(other.to_numpy()) == pytest.approx(distances)


def test_the_same_readings_give_the_same_model(known, fitted):
    assert fit(*known, seed=7).model.to_json() == fitted.model.to_json()


def test_the_unit_of_a_sensor_changes_no_score(known, fitted):
    values, truth = known
    scaled = fit(values * [1000.0, 0.001], truth, seed=7).model.score((values * [1000.0, 0.001]).to_numpy())
    assert scaled.anomaly == pytest.approx(fitted.model.score(values.to_numpy()).anomaly, rel=1e-6)


def test_a_sensor_that_mostly_rests_is_scaled_by_how_it_moves(known):
    values, truth = known
    resting = values.assign(c=np.where(np.arange(len(values)) % 3 == 0, 1e-6, 0.0))
    model = fit(resting, truth, seed=7).model
    assert model.scale[2] == pytest.approx(1.4826e-6)


@pytest.mark.parametrize("rows", [1, 4_095, 4_096, 4_097, 8_193])
def test_no_row_is_left_out_where_a_chunk_ends(fitted, rows):
    """Rows are scored 4,096 at once; scikit-learn's pipeline takes all of them."""
    assert scoring._CHUNK == 4_096
    points = pd.DataFrame(np.random.default_rng(1).normal(0, 30, (rows, 2)), columns=COLUMNS)
    assert fitted.model.distances(points.to_numpy()) == pytest.approx(fitted.pipeline.transform(points))


def test_many_rows_score_as_each_row_alone(fitted):
    points = np.random.default_rng(1).normal(0, 30, (9_000, 2))
    together = fitted.model.score(points)
    for row in (0, 4_095, 4_096, 8_999):
        alone = fitted.model.score(points[row : row + 1])
        assert [part[0] for part in alone] == pytest.approx([part[row] for part in together])


@given(arrays.arrays(float, (3, 2), elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_any_finite_reading_has_a_finite_score(points):
    model = fit(*readings(), seed=7).model if not MODEL else MODEL[0]
    MODEL[:] = [model]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = model.score(points)
    assert np.isfinite(scores.distance).all()
    assert np.isfinite(scores.anomaly).all()
    assert (scores.distance >= 0).all()


MODEL: list[ClusterModel] = []


def test_a_reading_farther_out_is_stranger(fitted):
    points = np.array([[0.0, -(10.0**power)] for power in range(1, 12)])
    assert (np.diff(fitted.model.score(points).anomaly) > 0).all()


def test_one_wild_value_neither_scales_the_others_away_nor_breaks_the_fit(known, fitted):
    values, truth = known
    wild = values.copy()
    wild.iloc[0, 0] = 1.7e308
    model = fit(wild, truth, seed=7).model
    assert model.scale == pytest.approx(fitted.model.scale, rel=0.01)
    assert model.score(np.array([[-30.0, 30.0], [0.0, 0.0], [10.0, 10.0]])).failure.tolist() == [True, False, False]


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_readings_that_are_all_alike_make_a_model_that_finds_any_other_strange(distinct):
    values = pd.DataFrame({"a": np.arange(60.0) % distinct, "b": np.ones(60)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit(values, unlabelled(values), seed=7).model
    scores = model.score(np.array([[0.0, 1.0], [0.0, 50.0]]))
    assert scores.failure.tolist() == [False, True]
    assert np.isfinite(scores.anomaly).all()
    assert ClusterModel.from_json(model.to_json()).score(values.to_numpy()).cluster.max() == distinct - 1


def test_too_few_readings_are_refused(known):
    values, truth = known
    with pytest.raises(Refused, match=f"49 readings to cluster, at least {FEWEST_ROWS} are needed"):
        fit(values.head(49), truth[:49], seed=7)
    assert len(fit(values.head(50), truth[:50], seed=7).model.centres) > 0


def test_readings_of_another_width_are_an_error_that_names_the_columns(fitted):
    with pytest.raises(ValueError, match="for a model of the columns a, b"):
        fitted.model.score(np.zeros((1, 3)))


def test_a_model_survives_its_json(fitted):
    again = ClusterModel.from_json(fitted.model.to_json())
    points = np.random.default_rng(1).normal(0, 30, (100, 2))
    for ours, theirs in zip(fitted.model.score(points), again.score(points), strict=True):
        assert (ours == theirs).all()
    assert again.columns == ("a", "b")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "have format 2, this code reads 1"),
        ({"threshold": 0.0}, "not positive"),
        ({"threshold": float("inf")}, "not finite"),
        ({"scale": [0.0, 1.0]}, "not positive"),
        ({"centres": [[0.0]]}, "do not fit"),
        ({"middle": "x"}, "these are no clusters"),
        ({"healthy": [False, False, False]}, "none is healthy"),
        ({"columns": ["a"]}, "do not fit"),
        ({"columns": None}, "these are no clusters"),
    ],
)
def test_a_file_that_is_no_model_is_refused_with_the_remedy(fitted, change, said):
    text = json.dumps({**json.loads(fitted.model.to_json()), **change})
    with pytest.raises(Failure, match=rf"{said}.*POST /train"):
        ClusterModel.from_json(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "1"])
def test_a_text_that_is_no_model_is_refused(text):
    with pytest.raises(Failure, match="these are no clusters"):
        ClusterModel.from_json(text)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([100], [True]), ([90, 10], [True, False]), ([50, 39, 11], [True, True, True]), ([5, 95], [False, True])],
)
def test_the_large_clusters_hold_nine_tenths(sizes, expected):
    assert large(np.array(sizes)).tolist() == expected


def test_the_interval_of_a_share_is_wilsons():
    """Against the worked example of Newcombe (1998): 81 of 263."""
    lower, upper = wilson(np.array([81, 0]), np.array([263, 0]))
    assert (lower[0], upper[0]) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert (lower[1], upper[1]) == (0.0, 1.0)


def test_the_fence_lies_three_quartile_distances_above():
    assert fence(np.arange(5.0)) == 3 + 3 * 2


# ------------------------------------------------------------------------------------------------- comparisons


def test_auc_and_f1_are_of_the_labelled_readings_only():
    anomaly = np.concatenate([np.arange(20.0), [1e9]])
    labels = np.concatenate([np.repeat([0.0, 1.0], 10), [NAN]])
    assert auc_and_f1(Flagged(anomaly, anomaly > 9), labels) == (1.0, 1.0)


def test_with_fewer_than_ten_of_a_class_there_is_no_auc():
    anomaly, labels = np.arange(20.0), np.repeat([0.0, 1.0], [11, 9])
    assert np.isnan(auc_and_f1(Flagged(anomaly, anomaly > 9), labels)).all()


def test_a_model_of_other_readings_is_told_from_a_right_one_without_labels(known, fitted):
    """The two sensors go together; a model that learned them shuffled knows each, and not that."""
    generator = np.random.default_rng(4)
    line = generator.normal(0, 10, 2_000)
    values = np.column_stack([line, line]) + generator.normal(0, 0.1, (2_000, 2))
    right = fit(pd.DataFrame(values, columns=COLUMNS), unlabelled(values), seed=7).model
    wrong = fit(pd.DataFrame(generator.permuted(values, axis=0), columns=COLUMNS), unlabelled(values), seed=7).model
    assert told_from_shuffled(right, values, 1) > told_from_shuffled(wrong, values, 1) + 0.1


@pytest.mark.parametrize(
    ("challenger", "champion", "replaces"),
    [
        (Evaluation(0.9, 0.8, 0.6), Evaluation(0.9, 0.8, 0.9), True),
        (Evaluation(0.899, 0.8, 0.9), Evaluation(0.9, 0.8, 0.6), False),
        (Evaluation(0.95, 0.8 - F1_MARGIN - 0.001, 0.6), Evaluation(0.9, 0.8, 0.6), False),
        (Evaluation(0.95, 0.8 - F1_MARGIN + 0.001, 0.6), Evaluation(0.9, 0.8, 0.6), True),
        (Evaluation(NAN, NAN, 0.6), Evaluation(NAN, NAN, 0.6), True),
        (Evaluation(NAN, NAN, 0.59), Evaluation(NAN, NAN, 0.6), False),
    ],
)
def test_a_challenger_replaces_the_champion_only_when_it_is_not_worse(challenger, champion, replaces):
    verdict = not_worse(challenger, champion, "3")
    assert verdict.replaces == replaces
    assert "version 3" in verdict.reason
    assert ("worse, so it is not served" in verdict.reason) != replaces


def test_the_metrics_of_a_window_without_labels_leave_out_what_is_unknown(fitted):
    values, _ = readings(seed=2)
    assert set(quality(fitted.model, values.to_numpy(), unlabelled(values), 7).metrics("champion_")) == {
        "champion_label_free_auc"
    }


@pytest.mark.parametrize("rows", [60, 1_600])
def test_the_other_methods_find_a_far_group_and_say_the_same_again(known, fitted, rows):
    values, truth = known[0].head(rows), known[1][:rows]
    arguments = (values, values, fitted.pipeline[:-1], 0.0625, 7)
    found, again = rivals(*arguments), rivals(*arguments)
    assert set(found) == {"isolation_forest", "isolation_forest_told_share", "dbscan", "dbscan_large"}
    for name, flagged in found.items():
        assert (flagged.anomaly == again[name].anomaly).all()
        assert np.isfinite(flagged.anomaly).all()
    if rows == 1_600:
        assert auc_and_f1(found["dbscan_large"], truth)[0] > 0.99


def test_readings_that_are_all_alike_have_nothing_to_compare_and_break_nothing():
    values = pd.DataFrame(np.ones((60, 2)), columns=COLUMNS)
    model = fit(values, unlabelled(values), seed=7)
    assert "isolation_forest" in rivals(values, values, model.pipeline[:-1], 0.0, 7)
