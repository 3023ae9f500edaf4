"""A Debian to build on where no registry is reached: made by debootstrap, cut down as Debian's own slim images are."""

from __future__ import annotations

import shutil
from pathlib import Path

RELEASE = "bookworm"
IMAGE = f"localhost/debian:{RELEASE}-slim"

# Packages that are installed later leave these out, too. Licences stay.
_DPKG_EXCLUDES = """\
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
"""
_APT_SETTINGS = """\
Acquire::Languages "none";
APT::Install-Recommends "false";
"""


def slim(root: Path) -> None:
    """Remove caches, manuals and what debootstrap took from this machine from a root; add security updates."""
    for folder in (
        "var/cache/apt",
        "var/lib/apt/lists",
        "var/log",
        "usr/share/info",
        "usr/share/locale",
        "usr/share/man",
    ):
        _empty(root / folder)
    for file in (root / "usr/share/doc").rglob("*"):
        if file.is_file() and file.name != "copyright":
            file.unlink()
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/hostname").write_text("")
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(_DPKG_EXCLUDES)
    (root / "etc/apt/apt.conf.d/slim").write_text(_APT_SETTINGS)
    _add_updates(root / "etc/apt/sources.list")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _add_updates(sources: Path) -> None:
    """The suites of updates and security updates, from the mirror that debootstrap has written there."""
    kind, mirror, release, *components = sources.read_text().split()
    lines = [
        (mirror, release),
        (mirror, f"{release}-updates"),
        (f"{mirror.rstrip('/')}-security", f"{release}-security"),
    ]
    sources.write_text("".join(f"{kind} {address} {suite} {' '.join(components)}\n" for address, suite in lines))
