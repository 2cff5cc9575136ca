"""Dependencies that fit no common environment work in one pipeline: each stays in its own container."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_kit import Dagger, Session
from qdrant_double import QdrantDouble


@pytest.fixture
def news(tmp_path: Path) -> Path:
    """Two notes that say the same of two years; the newer one is the one recency prefers."""
    docs = tmp_path / "news"
    docs.mkdir()
    for year, days in ((2019, 25), (2026, 30)):
        note = f"---\ndate: {year}-01-01\ncategory: hr\n---\n# Leave\n\nEveryone has {days} days of leave.\n"
        (docs / f"leave-{year}.md").write_text(note)
    return docs


def weighed(dagger_cli: Dagger, news: Path, weights: dict[str, float], *options: str) -> list[str]:
    """Search with weights; return the documents in order."""
    request = {"query": "How many days of leave?", "retrieve": {"weights": weights}}
    found = dagger_cli(
        *("call", "rag", "--docs", str(news), "--retriever", "superlinked", *options),
        *("search", "--input-json", json.dumps(request)),
    ).json
    assert found["provenance"]["retrieve"]["retriever"] == "superlinked"
    return [each["document_id"] for each in found["results"]]


def test_the_superlinked_retriever_ranks_by_weights_of_the_question(
    dagger_cli: Dagger, news: Path
) -> None:
    """`--retriever superlinked` puts the newer note first when recency counts."""
    order = weighed(dagger_cli, news, {"text": 0.2, "recency": 1.0})

    assert order == ["docs/leave-2026.md", "docs/leave-2019.md"]


def test_superlinked_keeps_its_index_on_the_qdrant_server(dagger_cli: Dagger, news: Path) -> None:
    """Both retrievers share one server; each has collections of its own there."""
    with QdrantDouble() as qdrant:
        port = qdrant.url.rpartition(":")[2]
        at = ("--qdrant", f"tcp://127.0.0.1:{port}", "--qdrant-url", f"http://qdrant:{port}")
        ingested = dagger_cli("call", "rag", "--docs", str(news), *at, "ingest").json
        order = weighed(dagger_cli, news, {"text": 0.2, "recency": 1.0}, *at)
        names = set(qdrant.collections)

    assert len(ingested["added"]) == 2
    assert order == ["docs/leave-2026.md", "docs/leave-2019.md"]
    assert any(name.startswith("superlinked-") for name in names)


def test_the_two_environments_cannot_be_one_and_run_side_by_side(session: Session) -> None:
    """The SDK's module process and Superlinked's image hold versions of beartype that exclude each other."""
    probe = ["python", "-c", "from importlib.metadata import version as v; print(v('beartype'))"]
    session.load("dagger/retrieve")
    query = "query($p: [String!]!) { retrieve { superlinkedContainer { withExec(args: $p) { stdout } } } }"

    printed = session.ask(query, p=probe)["retrieve"]["superlinkedContainer"]["withExec"]["stdout"]

    assert tuple(map(int, printed.split(".")[:2])) < (0, 22)
