"""Checks that each relative link of the Markdown files leads to a file here, and to a heading that it has.

python docs/links.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_EXAMPLE = re.compile(r"^( *)(```|~~~).*?^\1\2\s*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_ELSEWHERE = re.compile(r"[a-z]+:")


def broken(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    for target in _LINK.findall(_CODE.sub("", _EXAMPLE.sub("", page.read_text(encoding="utf-8")))):
        path, _, anchor = target.partition("#")
        if _ELSEWHERE.match(target):
            continue
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or not found.is_relative_to(ROOT):
            yield f"{page.relative_to(ROOT)}: there is no {target}"
        elif anchor and anchor not in anchors(found):
            yield f"{page.relative_to(ROOT)}: {path or 'this page'} has no heading #{anchor}"


@cache
def anchors(page: Path) -> frozenset[str]:
    """The names of a page's headings, as hosting pages make them."""
    if page.suffix != ".md":
        return frozenset()
    headings = re.findall(r"^#+ +(.+?) *$", _EXAMPLE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    faults = [fault for name in listed.split() for fault in broken(ROOT / name)]
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
