import zipfile

import pytest

from tests.conftest import ROOT, load_module

fetch = load_module(ROOT / "images/datasets/fetch.py")


def test_the_files_are_those_that_the_datasets_name(datasets_dir):
    from mlops import datasets

    packaged = {file.target for files in fetch.PACKAGES.values() for file in files}
    declared = {
        f"{name}/{file}" for name in ("adult", "movielens", "shuttle") for file in datasets.get(name).source.files
    }
    assert packaged == declared
    assert all((datasets_dir / target).is_file() for target in packaged)


def test_files_that_are_there_are_not_fetched_again(datasets_dir, tmp_path):
    fetch.fetch(datasets_dir, tmp_path / "no such folder of wheels")


def test_another_content_of_the_same_version_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "river-0.26.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("river/datasets/shuttle.csv.gz", b"something else")
    with pytest.raises(SystemExit, match=r"shuttle.csv.gz of river==0.26.1 has digest"):
        fetch.fetch(tmp_path / "target", tmp_path)
    assert not (tmp_path / "target").exists()
