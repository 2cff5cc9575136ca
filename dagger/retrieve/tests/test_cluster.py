"""A cluster of real Qdrant nodes: answers do not depend on shards, on the node asked, or on a lost one.

RAG_TEST_QDRANT_URL names the nodes, with commas between; with fewer than two these tests are skipped. The
last one kills a node: RAG_TEST_QDRANT_KILL and RAG_TEST_QDRANT_START are commands that kill the first node
and start it again.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_kit import HashedWords, whole
from qdrant_kit import REAL, Qdrant, real_qdrant

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings

NODES = [one.strip() for one in (REAL or "").split(",") if one.strip()]
DOCUMENTS, QUESTIONS = 120, 60
MODES = ["dense", "sparse", "hybrid"]
Answer = list[tuple[str, float]]  # passages and scores of one question, best first

pytestmark = pytest.mark.xdist_group("qdrant")


@pytest.fixture
def cluster() -> Iterator[Qdrant]:
    """The nodes of a real cluster."""
    if len(NODES) < 2:
        pytest.skip("RAG_TEST_QDRANT_URL names no two nodes of a real Qdrant cluster")
    real = real_qdrant()
    yield real
    real.clean()


def words(chance: random.Random, count: int) -> str:
    """Return words of which few are frequent and many are rare, as in a language."""
    return " ".join(f"word{int(chance.paretovariate(0.7)) % 3000}" for _ in range(count))


def corpus() -> list[LoadedDocument]:
    """Return documents of one to four passages."""
    chance = random.Random(7)
    return [
        LoadedDocument(f"d{n}", "", "d", words(chance, chance.randint(20, 400)), "text/plain")
        for n in range(DOCUMENTS)
    ]


def filled(retriever: Retriever, name: str) -> None:
    """Index the corpus, so that some documents were replaced and some deleted again."""
    documents, chance = corpus(), random.Random(8)
    before = [
        LoadedDocument(one.document_id, "", "d", words(chance, 200), "text/plain")
        for one in [*documents[:30], LoadedDocument("gone", "", "d", "", "text/plain")]
    ]
    retriever.ingest_documents(before, collection=name)
    retriever.ingest_documents(documents, collection=name)
    retriever.delete_documents(name, ["gone"])


def answers(retriever: Retriever, name: str, mode: str) -> list[Answer]:
    """Return what is found for each question, best first."""
    chance = random.Random(9)
    found = []
    for _ in range(QUESTIONS):
        fields = {
            "query": words(chance, chance.randint(2, 6)),
            "collection": name,
            "top_k": 10,
            "retrieve": {"mode": mode},
        }
        results = retriever.retrieve(RetrieveRequest.model_validate(fields)).results
        found.append([(one.chunk_id, one.score) for one in results])
    return found


def same(found: list[Answer], expected: list[Answer]) -> None:
    """The order is the same, and scores differ by the rounding of 32 bit at most."""
    for one, other in zip(found, expected, strict=True):
        assert [id_ for id_, _ in one] == [id_ for id_, _ in other]
        scores = [score for _, score in other]
        assert [score for _, score in one] == pytest.approx(scores, rel=1e-5, abs=1e-6)


def test_answers_of_real_nodes_do_not_depend_on_shards_or_on_who_is_asked(
    cluster: Qdrant, tmp_path: Path
) -> None:
    """One shard, several with two copies, and the embedded store find the same, through each node."""
    embedder = HashedWords()
    with Retriever(RetrieveSettings(home=tmp_path), embedder=embedder) as embedded:
        filled(embedded, "test")
        expected = {mode: answers(embedded, "test", mode) for mode in MODES}
        assert all(any(one) for one in expected["sparse"])
    spread: list[dict[str, Any]] = [
        {"qdrant_shard_number": 1},
        {"qdrant_shard_number": 2 * len(NODES), "qdrant_replication_factor": 2},
    ]
    for number, options in enumerate(spread):
        name = f"{cluster.name}-{number}"
        with Retriever(cluster.settings(**options), embedder=embedder) as retriever:
            filled(retriever, name)
        for node in NODES:
            with Retriever(cluster.settings(qdrant_url=node), embedder=embedder) as reader:
                for mode in MODES:
                    same(answers(reader, name, mode), expected[mode])
                assert reader.checkup(name).problems == []


def test_a_lost_real_node_stops_neither_questions_nor_indexing(cluster: Qdrant) -> None:
    """With two copies of each shard, what was there is found, and what is indexed is there at the end."""
    kill, start = (os.environ.get(f"RAG_TEST_QDRANT_{name}") for name in ("KILL", "START"))
    if not kill or not start:
        pytest.skip("RAG_TEST_QDRANT_KILL and RAG_TEST_QDRANT_START name no commands")
    options = {"qdrant_shard_number": 2 * len(NODES), "qdrant_replication_factor": 2}
    name = f"{cluster.name}-lost"
    with Retriever(cluster.settings(**options), embedder=HashedWords()) as retriever:
        filled(retriever, name)
        before = {mode: answers(retriever, name, mode) for mode in MODES}
        subprocess.run(kill, shell=True, check=True)
        try:
            for mode in MODES:
                same(answers(retriever, name, mode), before[mode])
            more = [LoadedDocument("late", "", "d", "word1 later", "text/plain")]
            assert retriever.ingest_documents(more, collection=name).added == ["late"]
        finally:
            subprocess.run(start, shell=True, check=True)
        assert len(whole(retriever, name)) == DOCUMENTS + 1
        assert retriever.checkup(name).problems == []
