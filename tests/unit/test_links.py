"""docs/links.py: a link that leads nowhere is named, and one in an example is none."""

from pathlib import Path

import pytest

from tests.conftest import load_module

PAGE = """# A page: `code` and more

[a file](other.md), [a folder](folder), [here](#a-page-code-and-more), [a heading](other.md#second-part),
[elsewhere](https://example.com/x), `[no](link.md)`

```md
[no](link.md)
```
"""


@pytest.mark.parametrize(
    ("more", "faults"),
    [
        ("", []),
        ("[x](gone.md)", ["page.md: there is no gone.md"]),
        ("[x](../outside.md)", ["page.md: there is no ../outside.md"]),
        ("[x](#nothing)", ["page.md: this page has no heading #nothing"]),
        ("[x](other.md#third)", ["page.md: other.md has no heading #third"]),
    ],
)
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, more: str, faults: list[str]) -> None:
    links = load_module(Path(__file__).parents[2] / "docs/links.py")
    vars(links)["ROOT"] = tmp_path / "repository"
    (links.ROOT / "folder").mkdir(parents=True)
    (tmp_path / "outside.md").touch()
    (links.ROOT / "other.md").write_text("# Other\n\n## Second part\n")
    page = links.ROOT / "page.md"
    page.write_text(f"{PAGE}\n{more}\n")
    assert list(links.broken(page)) == faults
