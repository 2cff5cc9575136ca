"""The journal of an ingest into an embedded store, and what a commit prepares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from crash_kit import HashedWords, whole

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings
from rag_retrieve.index.embedders import Vectors
from rag_retrieve.stores.embedded.database import EdgeStores


class Recorder(HashedWords):
    """`HashedWords` that remembers what it embedded, call by call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        return super().embed(texts)


def notes(count: int) -> list[LoadedDocument]:
    return [LoadedDocument(f"d{n}", "", "d", f"Note {n}.", "text/plain") for n in range(count)]


def test_the_journal_tells_all_that_is_uncertain(settings: RetrieveSettings) -> None:
    """Two commits before one checkpoint: the second journal holds the versions of both."""
    journals: list[dict[str, Any]] = []

    def on_step(name: str) -> None:
        if name == "journal":
            journals.append(stores.read_journal("default") or {})

    with Retriever(settings, embedder=HashedWords(), on_step=on_step) as retriever:
        stores = retriever._stores
        assert isinstance(stores, EdgeStores)
        retriever.ingest_documents(notes(40))
        collection = retriever._collection("default")
        after = stores.read_journal("default")

    versions = collection.manifest.documents
    assert [len(journal["versions"]) for journal in journals] == [32, versions] == [32, 40]
    assert sorted(name for name, _, _ in journals[1]["versions"]) == sorted(
        note.document_id for note in notes(40)
    )
    assert after is None


def test_a_question_between_two_commits_does_not_lose_their_count(
    settings: RetrieveSettings,
) -> None:
    """What is written at the next checkpoint counts more than the manifest of the last."""

    def on_step(name: str) -> None:
        if name in ("journal", "swept"):
            retriever._collection("default").refresh()

    with Retriever(settings, embedder=HashedWords(), on_step=on_step) as retriever:
        retriever.ingest_documents(notes(40))

        assert retriever.collections()[0].documents == 40
        assert len(whole(retriever)) == 40


def test_a_long_document_is_embedded_in_batches_and_every_passage_keeps_its_own_vectors(
    settings: RetrieveSettings,
) -> None:
    """Each text once, at most 64 a call, in order; a word of one passage finds that passage."""
    words = [f"word{n:04d}" for n in range(150)]
    text = "\n\n".join(f"{word} {'filling ' * 20}".strip() + "." for word in words)
    recorder = Recorder()
    small = settings.model_copy(update={"chunk_tokens": 32, "chunk_overlap_tokens": 0})
    with Retriever(small, embedder=recorder) as retriever:
        report = retriever.ingest_documents([LoadedDocument("long", "", "", text, "text/plain")])
        passages = [
            passage for part in retriever._collection("default").passages(50) for passage in part
        ]
        request = RetrieveRequest.model_validate(
            {"query": words[140], "retrieve": {"mode": "sparse"}, "top_k": 1}
        )
        (found,) = retriever.retrieve(request).results

    texts = [each for call in recorder.calls for each in call]
    assert len(texts) == len(set(texts)) == len(passages) == report.chunks > 128
    assert [len(call) for call in recorder.calls[:-1]] == [64] * (len(texts) // 64)
    assert 0 < len(recorder.calls[-1]) < 64
    for passage in passages:
        (own,) = (each for each in texts if each.endswith(passage.payload["text"]))
        assert passage.dense is not None
        assert np.allclose(passage.dense, HashedWords().embed_query(own), atol=1e-6)
    assert words[140] in found.text
