"""The formats people are told they may add are those with a loader, in every text that lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rag_kit.formats import FORMATS, listed
from rag_retrieve.documents import CONTAINERS, READERS

LOADERS = {**READERS, **CONTAINERS}
ROOT = Path(__file__).resolve().parent.parent
TEXTS = {
    "README.md": ", ".join(FORMATS),
    "contract/reference/cli.md": ", ".join(FORMATS),
    "contract/reference/modules.md": listed(),
    "service/src/rag_service/page/index.html": ", ".join(FORMATS),
    "service/src/rag_service/page/api.js": listed("or"),
}


def test_every_loader_is_among_the_formats() -> None:
    """One of its extensions is: a new loader needs a new word in `rag_kit.formats`."""
    told = {LOADERS[f".{name}"].partition(":")[0] for name in FORMATS}

    assert told == {reader.partition(":")[0] for reader in LOADERS.values()}


@pytest.mark.parametrize(("path", "sentence"), TEXTS.items(), ids=TEXTS)
def test_every_text_lists_the_formats(path: str, sentence: str) -> None:
    """The same ones in the same order."""
    lists = re.findall(r"txt, md\b(?:,? (?:(?:and|or) )?[a-z]+\b)*", (ROOT / path).read_text())

    assert lists
    assert all(one.startswith(sentence) for one in lists)


def test_the_guide_lists_every_extension() -> None:
    """The table of docs/documents.md has each extension with a loader, and no other."""
    table = (ROOT / "docs/documents.md").read_text().partition("| Format |")[2].partition("\n\n")[0]

    assert sorted(re.findall(r"`(\.\w+)`", table)) == sorted(LOADERS)
