"""The example of docs/tutorial.md, as a newcomer would use it."""

import re
import shutil
import zipfile

import pytest

from mlops import datasets, models
from tests.conftest import ROOT


@pytest.fixture
def example(tmp_path, monkeypatch, datasets_dir):
    """The tutorial's files, added to the datasets and the models, and the folder that holds its data."""
    tutorial = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    example = tutorial.partition("runs this example on the real set -->")[2]
    for package, name, code in zip(
        (datasets, models),
        ("datasets/phishing.py", "models/phishing_page.py"),
        re.findall(r"```python\n(.*?)```", example, re.DOTALL)[:2],
        strict=True,
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(code, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str((tmp_path / name).parent)])
    (tmp_path / "files/phishing").mkdir(parents=True)
    wheel = river_wheel()
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open("river/datasets/phishing.csv.gz") as packed,
        (tmp_path / "files/phishing/phishing.csv.gz").open("wb") as file,
    ):
        shutil.copyfileobj(packed, file)
    return tmp_path / "files"


def river_wheel():
    from tests.conftest import load_module

    fetch = load_module(ROOT / "images/datasets/fetch.py")
    return fetch.wheel("river==0.26.1", ROOT / ".build/wheels")


def test_the_dataset_of_the_tutorial_goes_from_its_file_to_a_model_that_passes(platform, example):
    assert "phishing" in datasets.names()
    named, model = ("--dataset", "phishing"), ("--model", "phishing-page")
    assert platform.result_of("ingestion", "load", *named, "--folder", str(example)) == {
        "phishing": {"written": 1, "unchanged": 0}
    }
    raw = platform.result_of("ingestion", "download", *named)
    assert raw["rows"] == 1_250
    assert platform.result_of("data-quality", "validate", *named, "--data", str(raw["data"]))["passed"]
    clean = platform.result_of("features", "preprocess", *named, "--data", str(raw["data"]))
    made = platform.result_of("features", "engineer", *named, "--data", str(clean["data"]))
    fitted = platform.result_of(
        *("training", "fit", *model, "--train", str(made["train"]), "--data-version", str(raw["data_version"]))
    )
    result = platform.result_of(
        *("training", "evaluate", *model, "--run-id", str(fitted["run_id"]), "--test", str(made["test"])),
    )
    assert result["passed"], result["reasons"]
