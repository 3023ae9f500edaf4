"""Stored models: whatever is altered, one is refused or is the one that was registered, and nothing is imported."""

import copy
import inspect
import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.config import MLflowSettings
from mlops.datasets.declaration import LABEL
from mlops.result import EXIT_REFUSED, Failure
from mlops.serving import answers
from mlops.stores import model_files
from mlops.stores.model_files import DECLARATION, digests, faults
from mlops.stores.tracking import DIGESTS, Tracking, load_through
from mlops.training.families import sklearn
from tests.unit import small_models

MODEL = "sensor-failure"
# What Python tells of an import that has to be looked for, of a class that a pickle names, and of another program.
TOLD = {"import", "pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "ctypes.dlopen"}
_heard: list[tuple[str, str]] | None = None


def _hear(event: str, arguments: tuple) -> None:
    if _heard is not None and event in TOLD:
        _heard.append((event, str(arguments[0])))


sys.addaudithook(_hear)


@contextmanager
def hearing():
    """The events of the block, as (name, its first argument)."""
    global _heard
    _heard = []
    try:
        yield _heard
    finally:
        _heard = None


@pytest.fixture(scope="module")
def trained(tables):
    train = tables("shuttle").train.head(2000)
    features, labels = train.drop(columns=LABEL), train[LABEL]
    return small_models.fitted(features, labels), features


@pytest.fixture(scope="module")
def logged(module_platform, trained) -> str:
    """A run with a model."""
    model, features = trained
    return small_models.log(module_platform.tracking, model, features.head(2))


@pytest.fixture(scope="module")
def stored(module_platform, logged, tmp_path_factory) -> Path:
    """The folder of a model as it was logged."""
    folder = tmp_path_factory.mktemp("stored")
    return module_platform.tracking.download_model(f"runs:/{logged}/model", folder, sklearn.LAYOUT)


def parts(model) -> list[str]:
    """The classes of a pipeline, with those in it."""
    found = [type(model).__name__]
    for _, step in getattr(model, "steps", ()):
        found += parts(step)
    for _, step, _ in getattr(model, "transformers_", ()):
        found += parts(step)
    return found


def load(folder: Path, rows: pd.DataFrame):
    """What a task makes of a folder, and what the model server does: classes and predictions of the one, classes of the
    other, and its predictions, for which it takes the columns of the signature."""
    assert faults(folder, sklearn.LAYOUT) == []
    pipeline, signature = sklearn.load(folder), yaml.safe_load((folder / DECLARATION).read_text())["signature"]
    load_through(folder, sklearn.FILE, answers.__name__, {"family": "sklearn"}, answers.PROBABILITIES)
    served = mlflow.pyfunc.load_model(str(folder))
    assert type(served._model_impl) is answers.ServedModel
    predictions = sklearn.predict(pipeline, rows).values.tolist()
    return (
        parts(pipeline),
        predictions,
        parts(served._model_impl._model),
        signature,
        lambda: served.predict(rows).tolist(),
    )


# What a loader of MLflow reads somewhere, or might one day.
KEYS = st.sampled_from(
    [
        *(
            "code",
            "data",
            "config",
            "env",
            "loader_module",
            "model_path",
            "model_code_path",
            "predict_fn",
            "streamable",
        ),
        *("predict_stream_fn", "pickled_model", "serialization_format", "skops_trusted_types", "python_version"),
        *(
            "python_model",
            "artifacts",
            "path",
            "uri",
            "mlflow.external",
            "metadata",
            "resources",
            "env_vars",
            "sklearn",
        ),
        *("python_function", "flavors", "pyfunc", "langchain", "transformers", "signature", "params", "inputs", "<<"),
        *("saved_input_example_info", "artifact_path", "serving_input_path", "type", "prompts", "auth_policy", "x"),
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        [
            *(
                "cloudpickle",
                "pickle",
                "mlflow.pyfunc.model",
                "os",
                "shutil.rmtree",
                "tests.unit.evil",
                "code",
                ".",
                "/",
            ),
            *(
                "../..",
                "/etc",
                "model.pkl",
                "nested",
                "s3://logs/x",
                "http://127.0.0.1:9/x",
                "",
                None,
                True,
                False,
                0,
                -1,
            ),
            *(1.5, [], {}, ["shutil.rmtree"], ["builtins.eval"], {"code": "code"}, {"data": "nested"}, "__reduce__"),
            *('[{"type": "tensor"}]', '[{"type": "double", "name": "f1", "x": 1}]', "[" * 5000, "model.skops\x00"),
        ]
    ),
    st.text(max_size=20),
)


def places(value, at=()):
    """The way to each value in a tree."""
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*at, key))


@st.composite
def alterations(draw):
    """A function that alters what MLmodel declares, in one to three places."""
    steps = [
        (draw(st.integers(0, 10**6)), draw(KEYS), draw(VALUES), draw(st.integers(0, 3)))
        for _ in range(draw(st.integers(1, 3)))
    ]

    def alter(declared):
        for number, key, value, how in steps:
            ways = [at for at in places(declared) if at]
            *within, last = ways[number % len(ways)]
            parent = declared
            for step in within:
                parent = parent[step]
            if how == 0:
                del parent[last]
            elif how == 1 and isinstance(parent[last], dict):
                parent[last][key] = value
            elif how == 2 and isinstance(parent, dict):
                parent[key] = parent[last]
            else:
                parent[last] = value
            if not [at for at in places(declared) if at]:
                break
        return declared

    return alter


@pytest.fixture(scope="module")
def registered(stored, trained, tmp_path_factory):
    """Classes and predictions of the model as it was logged, and the imports that each loading looks for."""
    place = tmp_path_factory.mktemp("loaded")
    rows = trained[1].head(20)
    for number in range(2):
        with hearing() as heard:
            loaded = load(Path(shutil.copytree(stored, place / str(number))), rows)
    *found, signature, predict = loaded
    assert found[0] == found[2] and "Pipeline" in found[0]
    assert predict() == found[1]
    return found, signature, set(heard)


def judge(stored: Path, registered, rows: pd.DataFrame, place: Path, change) -> bool:
    """Whether an altered model is refused; it is the registered one where it is not. change: of its folder."""
    folder = place / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(stored, folder)
    change(folder)
    with hearing() as heard:
        refused = bool(faults(folder, sklearn.LAYOUT))
        loaded = None if refused else load(folder, rows)
    assert set(heard) <= registered[2]
    if not refused:
        *found, signature, predict = loaded
        assert found == registered[0]
        assert signature != registered[1] or predict() == found[1]
    return refused


FUZZ = settings(
    max_examples=int(os.environ.get("MAESTRO_FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(alter=alterations())
def test_whatever_mlmodel_says_a_model_is_refused_or_the_one_that_was_registered(
    stored, registered, trained, tmp_path, alter
):
    def change(folder: Path) -> None:
        file = folder / DECLARATION
        file.write_text(yaml.safe_dump(alter(copy.deepcopy(yaml.safe_load(file.read_text())))))

    judge(stored, registered, trained[1].head(20), tmp_path, change)


@FUZZ
@given(at=st.floats(0, 1), put=st.binary(max_size=8), gone=st.integers(0, 8))
def test_whatever_bytes_of_mlmodel_change_a_model_is_refused_or_the_one_that_was_registered(
    stored, registered, trained, tmp_path, at, put, gone
):
    def change(folder: Path) -> None:
        file = folder / DECLARATION
        content = file.read_bytes()
        place = int(at * len(content))
        file.write_bytes(content[:place] + put + content[place + gone :])

    judge(stored, registered, trained[1].head(20), tmp_path, change)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "evil.py").write_text("raise SystemExit"),
        lambda folder: (folder / "model.pkl").write_bytes(b"x"),
        lambda folder: (folder / "sitecustomize.py").write_text(""),
        lambda folder: (folder / "other.skops").write_bytes(b"x"),
        lambda folder: (
            shutil.copytree(folder, folder.parent / "n") and shutil.move(folder.parent / "n", folder / "nested")
        ),
        lambda folder: (folder / sklearn.FILE).unlink(),
        lambda folder: (folder / "requirements.txt").unlink(),
        lambda folder: (folder / "input_example.json").unlink(),
        lambda folder: (folder / DECLARATION).unlink(),
        lambda folder: (folder / DECLARATION).write_text(""),
        lambda folder: (folder / DECLARATION).write_bytes(b"\xff\xfe"),
        lambda folder: (folder / DECLARATION).write_text("a: " * (1 << 18)),
        lambda folder: (folder / DECLARATION).write_text("!!python/object/apply:os.system [id]"),
        lambda folder: (folder / DECLARATION).write_text((folder / DECLARATION).read_text() + "flavors: {}\n"),
        lambda folder: (folder / DECLARATION).write_text("a: &a [x]\nb: *a\n"),
        lambda folder: (folder / DECLARATION).write_text("[" * 10_000),
    ],
)
def test_a_file_too_many_one_too_few_or_one_that_readers_may_read_otherwise_is_refused(
    stored, registered, trained, tmp_path, change
):
    assert judge(stored, registered, trained[1].head(20), tmp_path, change)


def test_the_pickle_beside_a_model_that_says_skops_is_refused(stored, tmp_path):
    """The way round the check of before: a folder named by python_function.data, whose own MLmodel says pickle."""
    folder = Path(shutil.copytree(stored, tmp_path / "model"))
    declared = yaml.safe_load((folder / DECLARATION).read_text())
    shutil.copytree(stored, folder / "nested")
    declared["flavors"]["python_function"]["data"] = "nested"
    (folder / DECLARATION).write_text(yaml.safe_dump(declared))
    found = faults(folder, sklearn.LAYOUT)
    assert found == ["MLmodel.flavors.python_function has the key 'data', which nobody has looked at"]


def test_a_link_is_no_file_of_a_model(stored, tmp_path):
    folder = Path(shutil.copytree(stored, tmp_path / "model"))
    (folder / "requirements.txt").unlink()
    (folder / "requirements.txt").symlink_to("/etc/passwd")
    with pytest.raises(Failure, match=r"requirements\.txt of the model is no plain file"):
        digests(folder)


def test_what_mlflow_writes_is_all_that_is_looked_at(stored):
    """A key that a new version of MLflow writes makes this red: see what reads it."""
    assert faults(stored, sklearn.LAYOUT) == []
    declared = yaml.safe_load((stored / DECLARATION).read_text())
    assert {name: sorted(keys) for name, keys in declared["flavors"].items()} == {
        name: sorted(keys) for name, keys in sklearn.LAYOUT.flavors.items()
    }
    from mlflow.models import Model

    written = inspect.signature(Model).parameters.keys() - {"kwargs"}
    assert written <= {*model_files._DECLARED, "flavors"}


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "float32", "float64"])
def test_a_model_with_the_signature_that_mlflow_infers_as_early_releases_had_it_is_served(
    stored, registered, trained, tmp_path, dtype
):
    rows = trained[1].head(20)
    folder = Path(shutil.copytree(stored, tmp_path / "model"))
    declared = yaml.safe_load((folder / DECLARATION).read_text())
    inferred = mlflow.models.infer_signature(rows, np.zeros(20, dtype)).to_dict()["outputs"]
    declared["signature"]["outputs"] = inferred
    (folder / DECLARATION).write_text(yaml.safe_dump(declared))
    *found, _, predict = load(folder, rows)
    assert found == registered[0]
    assert predict() == found[1]


def test_the_copy_that_is_served_holds_the_model_and_what_is_written_here(stored, tmp_path):
    folder = Path(shutil.copytree(stored, tmp_path / "model"))
    load_through(folder, sklearn.FILE, answers.__name__, {"family": "sklearn"}, answers.PROBABILITIES)
    assert {path.name for path in folder.iterdir()} == {sklearn.FILE, DECLARATION}
    flavors = yaml.safe_load((folder / DECLARATION).read_text())["flavors"]
    assert flavors.keys() == {"python_function"}
    assert flavors["python_function"].keys() == {"loader_module", "config", "python_version"}


# ------------------------------------------------------------------------------------------ digests


def in_the_store(run_folder: Path, run_id: str) -> Path:
    """The folder of a run's model where the server keeps it, as one who can write to the bucket has it."""
    (model,) = mlflow.MlflowClient().get_run(run_id).outputs.model_outputs
    (found,) = run_folder.glob(f"mlflow-*/artifacts/**/{model.model_id}/artifacts")
    return found


@pytest.fixture
def run_of_ours(platform, trained) -> str:
    model, features = trained
    return small_models.log(platform.tracking, model, features.head(2))


def test_a_run_is_told_what_the_files_of_its_model_are(platform, run_of_ours, run_folder):
    recorded = json.loads(platform.tracking.run(run_of_ours).data.tags[DIGESTS])
    there = digests(in_the_store(run_folder, run_of_ours))
    assert recorded == {f"model/{name}": value for name, value in there.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / sklearn.FILE).write_bytes(b"x"), "model.skops was altered"),
        (lambda folder: (folder / "requirements.txt").write_text("evil\n"), "requirements.txt was altered"),
        (lambda folder: (folder / "input_example.json").write_text("{}"), "input_example.json was altered"),
        (
            lambda folder: (folder / DECLARATION).write_text(
                (folder / DECLARATION).read_text().replace("utc_time_created: '2", "utc_time_created: '3")
            ),
            "MLmodel was altered",
        ),
    ],
)
def test_a_model_whose_files_were_altered_in_the_bucket_is_not_loaded(platform, run_of_ours, run_folder, change, said):
    version = platform.tracking.register(MODEL, run_of_ours)
    for uri in (f"runs:/{run_of_ours}/model", f"models:/{MODEL}/{version}"):
        assert small_models.loaded(platform.tracking, uri) is not None
    change(in_the_store(run_folder, run_of_ours))
    for uri in (f"runs:/{run_of_ours}/model", f"models:/{MODEL}/{version}"):
        with pytest.raises(Failure, match=rf"{uri} is not what was logged: model/{said}"):
            small_models.loaded(platform.tracking, uri)


def test_a_model_of_before_is_loaded_with_a_warning_or_refused_as_values_say_until_it_is_sealed(
    platform, run_of_ours, run_folder, caplog, monkeypatch
):
    tracking = platform.tracking
    version = tracking.register(MODEL, run_of_ours)
    tracking.set_alias(MODEL, "production", version)
    mlflow.MlflowClient().delete_tag(run_of_ours, DIGESTS)
    uri = f"models:/{MODEL}/{version}"
    assert small_models.loaded(tracking, uri) is not None
    assert f"run {run_of_ours} does not say what the files of {uri} are" in caplog.text
    strict = Tracking(MLflowSettings(platform.mlflow.tracking_uri, require_digests="true"))
    with pytest.raises(Failure, match="run 'python -m mlops serving seal'"):
        small_models.loaded(strict, uri)
    assert platform.result_of("serving", "seal") == {"sealed": [f"{MODEL}/{version}"]}
    assert platform.result_of("serving", "seal") == {"sealed": []}
    assert small_models.loaded(strict, uri) is not None
    (in_the_store(run_folder, run_of_ours) / sklearn.FILE).write_bytes(b"x")
    with pytest.raises(Failure, match="is not what was logged"):
        small_models.loaded(strict, uri)


def test_a_model_that_is_not_safe_is_not_sealed(platform, trained):
    tracking = platform.tracking
    with tracking.new_run("shuttle", "pickled", {}) as run_id:
        mlflow.sklearn.log_model(trained[0], name="model", serialization_format="cloudpickle", pip_requirements=[])
    tracking.set_alias(MODEL, "production", tracking.register(MODEL, run_id))
    assert f"{MODEL}/1 cannot be sealed" in platform.failure_of("serving", "seal", code=EXIT_REFUSED)
    assert DIGESTS not in tracking.run(run_id).data.tags


def test_a_text_that_was_altered_in_the_bucket_is_not_read(tracking, run_folder):
    with tracking.new_run("clusters", "test", {}) as run_id:
        tracking.log_sealed_text(run_id, "clusters.json", "[1]")
    assert tracking.read_sealed_text(run_id, "clusters.json") == "[1]"
    (file,) = run_folder.glob(f"mlflow-*/artifacts/**/{run_id}/artifacts/clusters.json")
    file.write_text("[2]")
    with pytest.raises(Failure, match=r"is not what was logged: clusters\.json was altered"):
        tracking.read_sealed_text(run_id, "clusters.json")
