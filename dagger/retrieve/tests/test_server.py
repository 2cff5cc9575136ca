"""The whole retriever over a Qdrant server: the double of its REST API, or a real one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_double import QdrantDouble

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings, StepError
from rag_retrieve.embedders import Embedder
from rag_retrieve.stores.aliases import ServerStores

REAL = os.environ.get("RAG_TEST_QDRANT_URL")
QUESTIONS = ["How many moons has Mars?", "temperature for green tea", "orbit of the Moon"]


@pytest.fixture(params=["double", "real"])
def served(request: pytest.FixtureRequest) -> Iterator[RetrieveSettings]:
    """Settings for a server without a collection `test-notes`."""
    if request.param == "real" and not REAL:
        pytest.skip("RAG_TEST_QDRANT_URL names no real Qdrant server")
    url = REAL if request.param == "real" else request.getfixturevalue("double").url
    yield RetrieveSettings(store="qdrant", qdrant_url=url, qdrant_timeout_s=20)
    stores = ServerStores(str(url), timeout_s=20)
    if stores.exists("test-notes"):
        stores.delete("test-notes")
    stores.close()


def answers(retriever: Retriever, mode: str) -> list[list[tuple[str, str, float]]]:
    """Return (chunk id, text, score) of the results of every question."""
    found = []
    for query in QUESTIONS:
        fields = {"query": query, "collection": "test-notes", "retrieve": {"mode": mode}}
        results = retriever.retrieve(RetrieveRequest.model_validate(fields)).results
        found.append([(r.chunk_id, r.text, pytest.approx(r.score, abs=1e-4)) for r in results])
    return found


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_both_stores_give_the_same_results_and_digest(
    served: RetrieveSettings, settings: RetrieveSettings, minilm: Embedder, folder: Path, mode: str
) -> None:
    """The same documents are found alike in both stores, score for score."""
    found, digests = [], []
    for chosen in (settings, served):
        with Retriever(chosen, embedder=minilm) as retriever:
            retriever.ingest([folder], collection="test-notes")
            found.append(answers(retriever, mode))
            digests.append(retriever.collections()[0].corpus_digest)

    assert found[0] == found[1]
    assert digests[0] == digests[1]


def test_an_update_and_a_prune_leave_both_stores_with_the_same_passages(
    served: RetrieveSettings, settings: RetrieveSettings, minilm: Embedder, folder: Path
) -> None:
    """By vectors both find the same; a server's BM25 counts replaced passages until it vacuums."""
    found, digests = [], []
    for chosen in (settings, served):
        (folder / "tea.txt").write_text("Green tea is best brewed at 80 degrees Celsius.\n")
        (folder / "gone.txt").write_text("This note about Mars is deleted later.\n")
        with Retriever(chosen, embedder=minilm) as retriever:
            retriever.ingest([folder], collection="test-notes")
            (folder / "tea.txt").write_text("Green tea is best brewed at 70 degrees Celsius.\n")
            (folder / "gone.txt").unlink()
            report = retriever.ingest([folder], collection="test-notes", prune=True)
            found.append(answers(retriever, "dense"))
            digests.append(retriever.collections()[0].corpus_digest)
        assert (report.updated, report.deleted) == (["notes/tea.txt"], ["notes/gone.txt"])

    assert found[0] == found[1]
    assert digests[0] == digests[1]


def test_a_second_process_reads_what_the_first_wrote(
    served: RetrieveSettings, minilm: Embedder, folder: Path
) -> None:
    """A server has many readers; a new version is seen without opening anything again."""
    with (
        Retriever(served, embedder=minilm) as writer,
        Retriever(served, embedder=minilm) as reader,
    ):
        writer.ingest([folder], collection="test-notes")
        assert answers(reader, "hybrid") == answers(writer, "hybrid")
        (folder / "sun.md").write_text("The Sun is orbited by Mars and by the Moon's planet.\n")
        writer.ingest([folder], collection="test-notes")

        texts = {text for found in answers(reader, "hybrid") for _, text, _ in found}
        assert any("The Sun" in text for text in texts)
        assert answers(reader, "hybrid") == answers(writer, "hybrid")
        assert reader.collections() == writer.collections()


def test_passages_of_an_unpublished_version_are_not_found(
    double: QdrantDouble, minilm: Embedder, folder: Path
) -> None:
    """A writer that died before publishing leaves passages that no reader sees, and a retry clears."""
    settings = RetrieveSettings(store="qdrant", qdrant_url=double.url, qdrant_timeout_s=20)

    class DiedError(Exception):
        pass

    def die(step: str) -> None:
        if step == "upserted":
            raise DiedError

    with Retriever(settings, embedder=minilm) as retriever:
        retriever.ingest([folder], collection="test-notes")
    (folder / "tea.txt").write_text("Green tea is best brewed at 70 degrees Celsius.\n")
    with Retriever(settings, embedder=minilm, on_step=die) as dying, pytest.raises(DiedError):
        dying.ingest([folder], collection="test-notes")

    with Retriever(settings, embedder=minilm) as retriever:
        texts = {text for found in answers(retriever, "hybrid") for _, text, _ in found}
        assert any("80 degrees" in text for text in texts)
        assert not any("70 degrees" in text for text in texts)
        retriever.ingest([folder], collection="test-notes")
        texts = {text for found in answers(retriever, "hybrid") for _, text, _ in found}
        assert any("70 degrees" in text for text in texts)
        assert not any("80 degrees" in text for text in texts)


def test_a_second_writer_is_told_to_wait(
    double: QdrantDouble, minilm: Embedder, folder: Path
) -> None:
    """Another process's young journal refuses a write; an old one is a dead process's."""
    settings = RetrieveSettings(store="qdrant", qdrant_url=double.url, qdrant_timeout_s=20)
    stores = ServerStores(double.url, timeout_s=20)
    with Retriever(settings, embedder=minilm) as retriever:
        retriever.ingest([folder], collection="test-notes")
        journal = {"owner": "process 1 on elsewhere", "started": time.time(), "versions": []}
        stores.write_journal("test-notes", journal)
        document = LoadedDocument("new", "", "new", "Something new.", "text/plain")

        with pytest.raises(StepError) as caught:
            retriever.ingest_documents([document], collection="test-notes")

        assert caught.value.code == "in_progress"
        assert "process 1 on elsewhere" in caught.value.message
        stores.write_journal("test-notes", {**journal, "started": time.time() - 1000})
        report = retriever.ingest_documents([document], collection="test-notes")
        assert report.added == ["new"]
    stores.close()


def test_reindex_swaps_on_the_server(
    served: RetrieveSettings, minilm: Embedder, folder: Path
) -> None:
    """The new generation takes the alias; a reader that was open follows it."""
    other = served.model_copy(update={"chunk_tokens": 32})
    with Retriever(served, embedder=minilm) as first:
        first.ingest([folder], collection="test-notes")
    with Retriever(other, embedder=minilm) as second:
        second.reindex("test-notes")

        assert answers(second, "hybrid")[0][0][1].startswith("# Mars")
    with Retriever(served, embedder=minilm) as first, pytest.raises(StepError) as caught:
        answers(first, "hybrid")
    assert caught.value.code == "collection_mismatch"


def test_a_search_is_a_constant_number_of_requests(
    double: QdrantDouble, minilm: Embedder, folder: Path
) -> None:
    """One question asks the server a fixed number of times, whatever is found."""
    settings = RetrieveSettings(store="qdrant", qdrant_url=double.url, qdrant_timeout_s=20)
    with Retriever(settings, embedder=minilm) as retriever:
        retriever.ingest([folder], collection="test-notes")
        double.requests.clear()
        answers(retriever, "hybrid")
        hybrid = len(double.requests)
        double.requests.clear()
        answers(retriever, "dense")

    assert hybrid == 5 * len(QUESTIONS)
    assert len(double.requests) == 4 * len(QUESTIONS)
