"""Every relative link of the documents leads to a file, and to a heading where it names one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(path for folder in (".", "docs", "protos", "deploy") for path in (ROOT / folder).glob("*.md"))


def anchors(document):
    """Of its headings, as GitHub makes them: small letters, digits, hyphens for blanks, and nothing else."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    kept = ("".join(c for c in heading.strip().lower() if c.isalnum() or c in " -_") for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = document.parent / file if file else document
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert not broken


def test_the_files_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for folder, section in re.findall(r"^### `(\w+)/`(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL):
        named = re.findall(r"`([\w/]+(?:\.\w+|/))`", section)
        assert len(named) > 5 and [name for name in named if not (ROOT / folder / name).exists()] == []
