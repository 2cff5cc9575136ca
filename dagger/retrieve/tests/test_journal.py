"""The journal of an ingest: what it says, who may take it over and when, and what a commit prepares."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from crash_kit import HashedWords, whole
from qdrant_double import QdrantDouble

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings, StepError
from rag_retrieve.index.embedders import Vectors
from rag_retrieve.stores.embedded.locks import this_process

ELSEWHERE = "process 1 on elsewhere"


class Recorder(HashedWords):
    """`HashedWords` that remembers what it embedded, call by call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        return super().embed(texts)


def notes(count: int) -> list[LoadedDocument]:
    return [LoadedDocument(f"d{n}", "", "d", f"Note {n}.", "text/plain") for n in range(count)]


@pytest.fixture
def remote(double: QdrantDouble) -> RetrieveSettings:
    """Settings over the double, where the journal is read by other processes, too."""
    return RetrieveSettings(store="qdrant", qdrant_url=double.url, qdrant_timeout_s=20)


def test_the_journal_tells_who_writes_since_when_and_all_that_is_uncertain(
    remote: RetrieveSettings,
) -> None:
    """Two commits before one checkpoint: the second journal holds the versions of both."""
    journals: list[dict[str, Any]] = []

    def on_step(name: str) -> None:
        if name == "journal":
            journals.append(retriever._stores.read_journal("default") or {})

    began = time.time()
    with Retriever(remote, embedder=HashedWords(), on_step=on_step) as retriever:
        retriever.ingest_documents(notes(40))
        collection = retriever._collection("default")
        after = retriever._stores.read_journal("default")

    versions = collection.manifest.documents
    assert [len(journal["versions"]) for journal in journals] == [32, versions] == [32, 40]
    for journal in journals:
        assert journal.keys() == {"owner", "process", "started", "versions"}
        assert (journal["owner"], journal["process"]) == (collection._owner, this_process())
        assert began <= journal["started"] <= time.time()
    assert sorted(name for name, _, _ in journals[1]["versions"]) == sorted(
        note.document_id for note in notes(40)
    )
    assert after is None


def test_a_question_between_two_commits_does_not_lose_their_count(remote: RetrieveSettings) -> None:
    """What is written at the next checkpoint counts more than the manifest of the last."""

    def on_step(name: str) -> None:
        if name in ("journal", "swept"):
            retriever._collection("default").refresh()

    with Retriever(remote, embedder=HashedWords(), on_step=on_step) as retriever:
        retriever.ingest_documents(notes(40))

        assert retriever.collections()[0].documents == 40
        assert len(whole(retriever)) == 40


def test_what_another_process_counted_is_counted_here(remote: RetrieveSettings) -> None:
    """On a server the manifest is read again for each request: somebody else may have written it."""
    with (
        Retriever(remote, embedder=HashedWords()) as ours,
        Retriever(remote, embedder=HashedWords()) as theirs,
    ):
        ours.ingest_documents(notes(1))
        assert theirs._collection("default").manifest.documents == 1
        ours.ingest_documents(notes(3))

        assert theirs._collection("default").manifest == ours._collection("default").manifest
        assert theirs._collection("default").manifest.documents == 3
        assert theirs.ingest_documents(notes(4)).added == ["d3"]
        assert ours.collections()[0].documents == 4


@pytest.mark.parametrize(
    ("age_s", "ended", "waits"),
    [(10, False, True), (890, False, True), (910, False, False), (10, True, False)],
    ids=["alive", "nearly too old", "too old", "ended"],
)
def test_a_journal_of_another_writer_is_respected_until_it_surely_died(
    remote: RetrieveSettings, age_s: int, ended: bool, waits: bool
) -> None:
    """Fifteen minutes for one elsewhere; none for a process of this machine that is gone."""
    process = ""
    if ended:
        place, _, started = this_process().rsplit(" ", 2)
        with subprocess.Popen([sys.executable, "-c", ""]) as short:
            short.wait()
        process = f"{place} {short.pid} {started}"
    with Retriever(remote, embedder=HashedWords()) as retriever:
        retriever.ingest_documents(notes(1))
        journal = {"owner": ELSEWHERE, "versions": [["d9", "hash", 1]]}
        journal |= {"process": process} if process else {}  # one of an unknown process has none
        journal["started"] = round(time.time()) - age_s
        retriever._stores.write_journal("default", journal)
        if waits:
            with pytest.raises(StepError) as caught:
                retriever.ingest_documents(notes(2))
            assert caught.value.code == "in_progress"
            assert caught.value.retry_after == pytest.approx(900 - age_s, abs=5)
            assert f"{ELSEWHERE} has been writing" in caught.value.message
            assert re.search(
                rf"for ({age_s - 1}|{age_s}|{age_s + 1}|{age_s + 2}) s", caught.value.message
            )
            assert retriever._stores.read_journal("default") == journal
        else:
            assert retriever.ingest_documents(notes(2)).added == ["d1"]
            assert retriever._stores.read_journal("default") is None
        assert set(whole(retriever)) == ({"d0"} if waits else {"d0", "d1"})


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
