import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from mlops.datasets.declaration import LABEL
from mlops.models.network import DEFAULT, Config, parse
from mlops.result import Failure, Refused
from mlops.training.families import torch as family
from mlops.training.network import batches, loop, weights
from mlops.training.network.batches import in_order, shuffled
from mlops.training.network.encoding import UNKNOWN, Encoding
from mlops.training.network.weights import Network
from tests.processes import eventually
from tests.unit.clicks import COLUMNS, SMALL, Files, clicks, train, write

ROOT = Path(__file__).parents[2]


def digest(folder: Path, name: str = loop.BEST) -> str:
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def encoding(undisturbed: Path) -> Encoding:
    return Encoding.learned(undisturbed / "train.parquet", COLUMNS, 1)


def test_the_network_learns_what_is_there_to_be_learned(undisturbed):
    network = weights.unpacked((undisturbed / loop.BEST).read_bytes(), "it")
    said, truth = loop.scores(network, in_order(undisturbed / "validation.parquet", network.encoding, 100))
    clicked, not_clicked = said[truth == 1], said[truth == 0]
    assert (clicked[:, None] > not_clicked).mean() > 0.65, "the AUC, as the share of pairs in the right order"


def test_the_same_inputs_config_and_seed_give_the_same_weights(undisturbed, tmp_path):
    torch.manual_seed(99)  # what happened before in the process does not count
    train(tmp_path)
    assert digest(tmp_path) == digest(undisturbed)


def test_another_seed_gives_other_weights(undisturbed, tmp_path):
    train(tmp_path, replace(SMALL, seed=8))
    assert digest(tmp_path) != digest(undisturbed)


def test_a_process_that_is_killed_is_followed_by_one_that_ends_with_the_same_weights(undisturbed, tmp_path):
    program = [sys.executable, "-m", "tests.unit.clicks", str(tmp_path)]
    process = subprocess.Popen(program, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    eventually((tmp_path / loop.LAST).exists, 240)  # the first epoch has ended
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    told: list = []
    trained = train(tmp_path, told=told)
    assert trained.resumed_at is not None
    assert len(told) == SMALL.epochs, "the curves have each epoch once"
    assert digest(tmp_path) == digest(undisturbed)


class Dying(Files):
    """Its process dies after some writes."""

    def write(self, name: str, content: bytes) -> None:
        super().write(name, content)
        if (self.folder / "die").exists():
            raise KeyboardInterrupt


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_run_goes_on_in_the_epoch_in_which_it_ended(undisturbed, tmp_path, epochs):
    train(tmp_path, replace(SMALL, epochs=epochs))
    trained = train(tmp_path)
    assert trained.resumed_at == epochs + 1
    assert digest(tmp_path) == digest(undisturbed)


def test_a_process_that_dies_between_the_best_and_the_last_checkpoint_repeats_the_epoch(
    undisturbed, tmp_path, encoding
):
    data = write(tmp_path)
    train(tmp_path, replace(SMALL, epochs=1))
    (tmp_path / "die").touch()
    learned = Encoding.learned(data.train, COLUMNS, SMALL.least_count)
    with pytest.raises(KeyboardInterrupt):
        loop.train(data, learned, SMALL, Dying(tmp_path), lambda epoch, gave: None)
    (tmp_path / "die").unlink()
    assert train(tmp_path).resumed_at == 2
    assert digest(tmp_path) == digest(undisturbed)


@pytest.mark.parametrize("changed", [{"seed": 8}, {"learning_rate": 0.01}, {"hidden": (4,)}, {"hide": 0.2}])
def test_a_checkpoint_of_another_config_is_not_gone_on_from(tmp_path, changed):
    train(tmp_path, replace(SMALL, epochs=1))
    assert train(tmp_path, replace(SMALL, epochs=1, **changed)).resumed_at is None


@pytest.mark.parametrize(("before", "after"), [({}, {"epochs": 2}), ({"epochs": 30}, {"epochs": 30, "patience": 1})])
def test_a_checkpoint_that_went_on_for_longer_than_the_config_lets_it_gives_no_other_weights(tmp_path, before, after):
    """The config is an object in a bucket: a run that is cleared may find another one than it began with."""
    again, alone = tmp_path / "again", tmp_path / "alone"
    again.mkdir()
    alone.mkdir()
    train(again, replace(SMALL, **before))
    trained, expected = (train(folder, replace(SMALL, **after)) for folder in (again, alone))
    assert trained.progress.epoch == expected.progress.epoch
    assert digest(again) == digest(alone)


def test_more_patience_goes_on_where_there_was_no_more(tmp_path):
    trained = train(tmp_path, replace(SMALL, epochs=30, patience=1))
    assert train(tmp_path, replace(SMALL, epochs=30, patience=2)).resumed_at == trained.progress.epoch + 1


class Overwritten(Files):
    """Another process, as one that was taken for dead, writes weights of its own after the last checkpoint."""

    def write(self, name: str, content: bytes) -> None:
        super().write(name, content)
        if name == loop.LAST and len(weights.unpack(content, name)[1]["history"]) == SMALL.epochs:
            (self.folder / loop.BEST).write_bytes((self.folder / "other").read_bytes())


@pytest.mark.parametrize("stays", [True, False])
def test_weights_that_another_process_left_as_the_best_are_found_and_the_next_try_trains_anew(
    undisturbed, tmp_path, encoding, stays
):
    data = write(tmp_path)
    (tmp_path / "other").write_bytes((undisturbed / loop.BEST).read_bytes()[:-4] + bytes(4))
    learned = Encoding.learned(data.train, COLUMNS, SMALL.least_count)
    with pytest.raises(Failure, match=r"model_best.safetensors is gone .* or another process has written it"):
        loop.train(data, learned, SMALL, Overwritten(tmp_path), lambda epoch, gave: None)
    if not stays:
        (tmp_path / loop.BEST).unlink()
    assert train(tmp_path).resumed_at is None
    assert digest(tmp_path) == digest(undisturbed)


def test_training_ends_where_the_validation_set_has_gained_nothing_for_as_long_as_is_waited(tmp_path):
    trained = train(tmp_path, replace(SMALL, epochs=30, patience=2))
    history = [each["val_auc"] for each in trained.progress.history]
    assert len(history) == trained.progress.best + 2 < 30
    assert history[trained.progress.best - 1] == max(history)


def test_without_a_validation_set_the_last_epoch_counts_and_is_gone_on_from(undisturbed, tmp_path, encoding):
    def trained(folder: Path, epochs: int) -> loop.Trained:
        folder.mkdir(exist_ok=True)
        data = loop.Data(undisturbed / "train.parquet", None, "clicks")
        return loop.train(data, encoding, replace(SMALL, epochs=epochs), Files(folder), lambda epoch, gave: None)

    assert trained(tmp_path / "whole", 3).progress.best == 3
    trained(tmp_path / "halted", 1)
    assert trained(tmp_path / "halted", 3).resumed_at == 2
    assert digest(tmp_path / "halted") == digest(tmp_path / "whole")


def test_a_network_that_texts_were_hidden_from_knows_better_what_to_say_of_who_was_never_seen(tmp_path):
    rows = clicks(2000, seed=2).with_columns(user_id=pl.lit("nobody"))
    losses = {}
    for hide in (0.0, 0.4):
        folder = tmp_path / str(hide)
        folder.mkdir()
        network = train(folder, replace(SMALL, hide=hide)).network
        said = family.predict(network, rows.to_pandas()).probabilities[np.arange(len(rows)), rows[LABEL].to_numpy()]
        losses[hide] = -np.log(said).mean()
    assert losses[0.4] < losses[0.0]


def test_files_that_are_joined_have_all_rows_in_their_order_and_the_same_bytes_each_time(tmp_path):
    parts = [clicks(20_000), clicks(500, seed=1)]
    paths = [tmp_path / f"{place}.parquet" for place in range(len(parts))]
    for part, path in zip(parts, paths, strict=True):
        part.write_parquet(path)
    whole, again = tmp_path / "whole.parquet", tmp_path / "again.parquet"
    batches.concatenate(paths, whole)
    batches.concatenate(paths, again)
    assert_frame_equal(pl.read_parquet(whole), pl.concat(parts))
    assert whole.read_bytes() == again.read_bytes()


def test_each_row_comes_once_an_epoch_in_another_order_each_time(undisturbed, encoding):
    path = undisturbed / "train.parquet"
    expected = np.sort(clicks(2000)["item_events"].fill_null(-1).to_numpy())

    def numbers(seed: tuple[int, int]) -> np.ndarray:
        drawn = list(shuffled(path, encoding, 64, 500, seed))
        assert {len(batch) for batch in drawn[:-1]} == {64}
        return np.concatenate([batch.numbers[:, 0] for batch in drawn])

    first, again, second = numbers((7, 1)), numbers((7, 1)), numbers((7, 2))
    assert len(first) == len(expected)
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    np.testing.assert_array_equal(np.sort(first), np.sort(second))


def test_a_batch_holds_rows_of_more_than_one_row_group(undisturbed, encoding):
    """Or rows that lie together, as those of one day do, would be learned from together."""
    table = pl.DataFrame({**clicks(1000).to_dict(as_series=True), "item_events": np.arange(1000.0)})
    path = undisturbed / "ordered.parquet"
    table.write_parquet(path, row_group_size=100)
    learned = Encoding.learned(path, COLUMNS, 1)
    drawn = next(shuffled(path, learned, 64, 1000, (7, 1)))
    mean, std = learned.numbers["item_events"]
    groups = np.floor(np.expm1(drawn.numbers[:, 0].astype(float) * std + mean) / 100).round()
    assert len(set(groups)) > 5


def test_no_more_rows_are_held_than_are_shuffled_however_many_the_file_has(tmp_path, encoding, monkeypatch):
    path, read = tmp_path / "many.parquet", 0
    clicks(20_000).write_parquet(path, row_group_size=5000)
    encoded = batches._encoded

    def counted(part, of):
        nonlocal read
        read += part.num_rows
        return encoded(part, of)

    monkeypatch.setattr(batches, "_encoded", counted)
    monkeypatch.setattr(batches, "_READ_ROWS", 100)
    given = most = 0
    for batch in shuffled(path, encoding, 64, 1000, (7, 1)):
        most = max(most, read - given)
        given += len(batch)
    assert given == read == 20_000
    assert most <= 1000 + 100 + 64


def test_values_never_seen_rare_or_missing_share_one_place_and_are_scored(undisturbed):
    network = weights.unpacked((undisturbed / loop.BEST).read_bytes(), "it")
    rows = pl.DataFrame(
        {"user_id": ["nobody", None, "1"], "item_id": ["1", "1", "1"], "item_events": [None, float("nan"), 3.0]}
    )
    encoded = network.encoding.encode(rows)
    assert encoded.places[:2, 0].tolist() == [UNKNOWN, UNKNOWN]
    assert encoded.places[2, 0] != UNKNOWN
    assert encoded.numbers[:, 1].tolist() == [1, 1, 0], "whether it is missing"
    found = family.predict(network, rows.to_pandas())
    assert found.probabilities[0].tolist() == found.probabilities[1].tolist()
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)


def test_a_rare_identifier_has_no_place_of_its_own(tmp_path):
    rows = pl.DataFrame({"user_id": ["a"] * 5 + ["b"], "item_id": ["c"] * 6, "item_events": [1.0] * 6})
    rows.write_parquet(tmp_path / "rows.parquet")
    assert Encoding.learned(tmp_path / "rows.parquet", COLUMNS, 5).texts["user_id"] == ("a",)


def test_what_is_saved_is_what_is_loaded_and_says_the_same(undisturbed, tmp_path):
    network = weights.unpacked((undisturbed / loop.BEST).read_bytes(), "it")
    (tmp_path / family.FILE).write_bytes(family.save(network).arguments["content"])
    rows = clicks(100, seed=2).drop(LABEL).to_pandas()
    expected, found = family.predict(network, rows), family.predict(family.load(tmp_path), rows)
    np.testing.assert_array_equal(expected.probabilities, found.probabilities)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x05}q\x00.", b"\xff" * 100, (10**9).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"{}"],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / family.FILE).write_bytes(content)
    with pytest.raises(Failure, match="no file of this family"):
        family.load(tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path, encoding):
    network = Network.of(encoding, 4, (8,), 0.0)
    said = {"encoding": encoding.as_json(), "architecture": {"embedding": 5, "hidden": [8], "dropout": 0.0}}
    (tmp_path / family.FILE).write_bytes(weights.pack(network.model.state_dict(), said))
    with pytest.raises(Failure, match="does not fit together"):
        family.load(tmp_path)


def test_the_default_config_is_what_is_trained_without_one():
    assert parse(DEFAULT.read_text(), DEFAULT.name) == Config()
    assert parse(Config().yaml(), "its own words") == Config()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch: 3", "'epoch' is no key"),
        ("epochs: '3'", "epochs is '3', it must be an integer"),
        ("epochs: true", "epochs is True"),
        ("epochs: 3.0", "epochs is 3.0"),
        ("epochs: 0", "epochs is 0, it must be an integer from 1"),
        ("dropout: 1.0", "dropout is 1.0, it must be a number from 0 to below 1"),
        ("learning_rate: 1e-3", "learning_rate is '1e-3'"),
        ("learning_rate: .nan", "learning_rate is nan"),
        ("hide: 1.0", "hide is 1.0, it must be a number from 0 to below 1"),
        ("refit: 1", "refit is 1, it must be true or false"),
        ("hidden: 64", "hidden is 64, it must be a list"),
        ("hidden: [64, x]", "hidden is"),
        ("- epochs", "holds no mapping"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_config_with_an_unknown_key_or_a_wrong_type_is_refused(text, said):
    with pytest.raises(Refused, match=r"^my\.yaml") as refused:
        parse(text, "my.yaml")
    assert said in str(refused.value)
