"""The guides with their `dagger` blocks, on a real engine: references, versions, outputs.

The public address of the guides is a git server of this machine, with a tag for each module. Servers that
a reader has of their own are the doubles that tests/test_guides.py uses.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from engine_kit import QUIET, GitServer, commit, copy_of
from guide_doubles import GUIDES, LEFT, standing_in
from guide_kit import blocks, follow, session

ROOT = Path(__file__).resolve().parents[2]
TAG = "v9.9.8"
WITH_DAGGER = [guide for guide in GUIDES if any(block.calls_dagger for block in blocks(guide))]


@pytest.fixture(scope="module")
def published(git_server: GitServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """This repository behind a git address, with a version tag for each module and example."""
    repository = copy_of(ROOT, tmp_path_factory.mktemp("published"))
    modules = sorted([*ROOT.glob("dagger/*/dagger.json"), *ROOT.glob("examples/*/dagger.json")])
    commit(repository, *(f"{each.parent.relative_to(ROOT)}/{TAG}" for each in modules))
    return git_server.serve("guides", repository)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("guide", WITH_DAGGER, ids=lambda path: path.name)
def test_a_guide_works_with_an_engine(guide: Path, published: str, tmp_path: Path) -> None:
    """Every block is run, those that call `dagger` too, and prints what is shown."""
    with standing_in(guide) as (replacements, environment, look):
        meant = {**replacements, "github.com/OWNER/REPO": published, "@v0.1.0": f"@{TAG}"}
        if os.environ.get("RAG_TEST_UNPINNED"):  # its registry lacks the image of the engine's SDK
            meant["--sdk python"] = f"--sdk {published}/dagger/python-sdk@{TAG}"
        with session(
            tmp_path / "reader", tmp_path / "aside", meant, {**environment, **QUIET}
        ) as reader:
            ran = follow(guide, reader, LEFT.get(guide.name, {}), engine=True)
        look(reader)

    assert any(block.calls_dagger for block in ran)
