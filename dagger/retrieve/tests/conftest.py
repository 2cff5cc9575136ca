"""Fixtures of the retrieve step: one loaded model for the session, a fresh home for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_double import QdrantDouble
from qdrant_kit import SERVERS, Qdrant, real_qdrant

from rag_retrieve import Retriever, RetrieveSettings
from rag_retrieve.index.embedders import Embedder, open_embedder


@pytest.fixture(scope="session", autouse=True)
def environment_without_settings() -> Iterator[None]:
    """Take the caller's own settings out of the environment; those of the tests stay."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("RAG_") and not name.startswith(("RAG_TEST_", "RAG_DATA")):
                patch.delenv(name)
        yield


@pytest.fixture
def double() -> Iterator[QdrantDouble]:
    """A double of the Qdrant REST API on loopback."""
    with QdrantDouble() as running:
        yield running


@pytest.fixture(params=SERVERS)
def qdrant(request: pytest.FixtureRequest) -> Iterator[Qdrant]:
    """A double of a Qdrant server, and a real one where there is one."""
    if request.param == "double":
        double = request.getfixturevalue("double")
        yield Qdrant(double.url, None, "test", double)
        return
    real = real_qdrant()
    yield real
    real.clean()


@pytest.fixture(scope="session")
def minilm() -> Embedder:
    """The packaged embedder, loaded once."""
    return open_embedder(RetrieveSettings())


@pytest.fixture
def settings(tmp_path: Path) -> RetrieveSettings:
    """Settings with an embedded store in a folder of the test's own."""
    return RetrieveSettings(home=tmp_path / "home")


@pytest.fixture
def retriever(settings: RetrieveSettings, minilm: Embedder) -> Iterator[Retriever]:
    """An open retriever on an empty home."""
    with Retriever(settings, embedder=minilm) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `notes` of three short documents."""
    root = tmp_path / "notes"
    root.mkdir()
    (root / "moon.md").write_text("# The Moon\n\nThe Moon orbits the Earth once in 27.3 days.\n")
    (root / "mars.md").write_text("# Mars\n\nMars has two moons, Phobos and Deimos.\n")
    (root / "tea.txt").write_text("Green tea is best brewed at 80 degrees Celsius.\n")
    return root
