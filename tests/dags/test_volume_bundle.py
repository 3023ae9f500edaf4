"""Airflow's view of the volume of DAG files: which folder it reads for whom, and what it says where there is none."""

from pathlib import Path

import pytest
from airflow.dag_processing.bundles.base import BundleVersion
from airflow.sdk.exceptions import AirflowException

from mlops.airflow.administration.dags import bring
from mlops.airflow.bundles.versions import DagVersions
from mlops.airflow.bundles.volume import VolumeDagBundle


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def put(volume: Path, tmp_path: Path, text: str) -> str:
    (tmp_path / text).mkdir(exist_ok=True)
    (tmp_path / text / "a.py").write_text(text)
    return bring(DagVersions(volume), tmp_path / text)


def bundle(volume: Path, version: str | None = None) -> VolumeDagBundle:
    return VolumeDagBundle(name="dags-folder", path=str(volume), version=version)


def test_who_follows_reads_one_version_until_it_looks_again(volume: Path, tmp_path: Path) -> None:
    one = put(volume, tmp_path, "one")
    following = bundle(volume)
    following.initialize()
    two = put(volume, tmp_path, "two")
    assert following.get_current_version() == BundleVersion(one)
    assert (following.path / "a.py").read_text() == "one"
    following.refresh()
    assert following.get_current_version() == BundleVersion(two)
    assert (following.path / "a.py").read_text() == "two"


def test_a_task_reads_the_version_of_its_run_whatever_is_current(volume: Path, tmp_path: Path) -> None:
    one = put(volume, tmp_path, "one")
    put(volume, tmp_path, "two")
    of_run = bundle(volume, one)
    of_run.initialize()
    assert (of_run.path / "a.py").read_text() == "one"
    assert of_run.get_current_version() == BundleVersion(one)
    with pytest.raises(AirflowException, match=f"version {one} of the DAG files is fixed"):
        of_run.refresh()


def test_a_version_that_is_gone_and_an_empty_volume_are_named_with_what_to_do(volume: Path, tmp_path: Path) -> None:
    with pytest.raises(AirflowException, match=r"no DAG files on the volume .*: the Job airflow-dags brings them"):
        bundle(volume).initialize()
    put(volume, tmp_path, "one")
    with pytest.raises(AirflowException, match=r"version gone of .* set airflow.dags.persistence.versions higher"):
        bundle(volume, "gone").initialize()


def test_a_bundle_is_made_where_no_volume_is_as_who_shows_dags_does(tmp_path: Path) -> None:
    assert VolumeDagBundle(name="dags-folder", path=str(tmp_path / "nowhere")).get_current_version() is None
    assert bundle(tmp_path / "nowhere", "any").get_current_version() == BundleVersion("any")
