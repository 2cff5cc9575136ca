"""Documents and collections behave as a plain dictionary does, and a write is seen at once."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from crash_kit import HashedWords, whole
from crash_lane import load_once, memory
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from qdrant_double import QdrantDouble

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings, StepError

STEPS = 25
COLLECTIONS = st.sampled_from(["a", "b"])
IDS = st.sampled_from(["tea", "moon", "mars", "rent", "leave"])
SIZES = st.integers(1, 4)


class Documents(RuleBasedStateMachine):
    """Writes one after the other, each followed by questions; `model` is what must be there.

    Each version of a document has a word of its own, which stands in each of its passages.
    """

    reads = 0
    opened: Callable[[], Retriever]
    retriever: Retriever | None = None  # stays open over many examples
    words = 0

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, dict[str, str]] = {}
        kind = type(self)
        kind.retriever = kind.retriever or kind.opened()
        self.store = kind.retriever
        for info in self.store.collections():
            self.store.delete_collection(info.name)

    @rule(name=COLLECTIONS, sizes=st.dictionaries(IDS, SIZES, min_size=1, max_size=3))
    def ingest(self, name: str, sizes: dict[str, int]) -> None:
        documents, words = [], {}
        for document_id, size in sizes.items():
            type(self).words += 1
            words[document_id] = word = f"qx{self.words}z"
            parts = [f"{word} says rule {n} of the house. " * 6 for n in range(size)]
            text = "\n\n".join(parts)
            documents.append(LoadedDocument(document_id, "", document_id, text, "text/plain"))
        before = self.model.get(name, {})
        report = self.store.ingest_documents(documents, collection=name)
        assert sorted(report.added) == sorted(set(words) - set(before))
        assert sorted(report.updated) == sorted(set(words) & set(before))
        self.model[name] = {**before, **words}
        self.see(name, gone=[word for key, word in before.items() if key in words], new=words)

    @rule(name=COLLECTIONS, ids=st.sets(IDS, min_size=1, max_size=3))
    def delete(self, name: str, ids: set[str]) -> None:
        if name not in self.model:
            return self.is_not_there(lambda: self.store.delete_documents(name, sorted(ids)))
        before = self.model[name]
        report = self.store.delete_documents(name, sorted(ids))
        assert sorted(report.deleted) == sorted(ids & set(before))
        assert sorted(report.missing) == sorted(ids - set(before))
        self.model[name] = {key: word for key, word in before.items() if key not in ids}
        self.see(name, gone=[before[key] for key in report.deleted])
        return None

    @rule(name=COLLECTIONS)
    def reindex(self, name: str) -> None:
        if name not in self.model:
            return self.is_not_there(lambda: self.store.reindex(name))
        self.store.reindex(name)
        return self.see(name, new=self.model[name])

    @rule(name=COLLECTIONS)
    def drop(self, name: str) -> None:
        if name not in self.model:
            return self.is_not_there(lambda: self.store.delete_collection(name))
        del self.model[name]
        self.store.delete_collection(name)
        return self.is_not_there(lambda: self.found(name, "rule"))

    @rule()
    def restart(self) -> None:
        kind = type(self)
        self.store.close()
        kind.retriever = self.store = kind.opened()
        for name, words in self.model.items():
            self.see(name, new=words)

    def is_not_there(self, call: Callable[[], Any]) -> None:
        type(self).reads += 1
        with pytest.raises(StepError) as caught:
            call()
        assert caught.value.code == "collection_not_found"

    def see(
        self, name: str, *, gone: list[str] | None = None, new: dict[str, str] | None = None
    ) -> None:
        for word in gone or []:
            assert self.found(name, word) == [], f"{word} was deleted or replaced"
        chunks = {info.document_id: info.chunks for info in self.store.documents(name)}
        for document_id, word in (new or {}).items():
            found = self.found(name, word)
            assert [one.document_id for one in found] == [document_id] * chunks[document_id]
            assert all(word in one.text for one in found)

    def found(self, name: str, word: str) -> list[Any]:
        type(self).reads += 1
        options = {"mode": "sparse", "max_per_document": None}
        request = RetrieveRequest(query=word, collection=name, top_k=100, retrieve=options)
        return self.store.retrieve(request).results

    @invariant()
    def every_collection_is_listed(self) -> None:
        listed = {info.name: info.documents for info in self.store.collections()}
        assert listed == {name: len(words) for name, words in self.model.items()}

    def teardown(self) -> None:
        for name, words in self.model.items():
            texts = whole(self.store, name)
            assert {key: text.partition(" ")[0] for key, text in texts.items()} == words


@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", ["embedded", "server"])
def test_threat_ingestion_during_queries_each_answer_is_of_whole_versions(
    lane: Any, store: str
) -> None:
    """Two writers and two readers, on a server each a connection of its own."""
    load_once()
    replacements = lane(12, 300)
    answers: list[dict[str, set[str]]] = []
    problems: list[BaseException] = []
    over = threading.Event()
    with QdrantDouble() as double, tempfile.TemporaryDirectory(dir=memory()) as home:
        given: dict[str, Any] = {"home": Path(home), "chunk_tokens": 32, "chunk_overlap_tokens": 0}
        if store == "server":
            given |= {"store": "qdrant", "qdrant_url": double.url, "qdrant_timeout_s": 30}

        def version(name: str, number: int) -> LoadedDocument:
            parts = [f"Rule {part} of {name} in release {number}. " * 6 for part in range(4)]
            return LoadedDocument(name, "", name, "\n\n".join(parts), "text/plain")

        def writing(name: str) -> None:
            try:
                for number in range(1, replacements):
                    writer.ingest_documents([version(name, number)], collection="c")
            except BaseException as error:
                problems.append(error)

        def reading(retriever: Retriever) -> None:
            request = RetrieveRequest(query="rule of release", collection="c", top_k=50)
            while not over.is_set():
                seen: dict[str, set[str]] = {"tea": set(), "moon": set()}
                try:
                    for one in retriever.retrieve(request).results:
                        seen[one.document_id].add(one.text.split("release ")[1].split(".")[0])
                except BaseException as error:
                    problems.append(error)
                    return
                answers.append(seen)

        with ExitStack() as stack:
            opened = [
                stack.enter_context(Retriever(RetrieveSettings(**given), embedder=HashedWords()))
                for _ in range(2 if store == "server" else 1)
            ]
            writer, reader = opened[0], opened[-1]
            for name in ("tea", "moon"):
                writer.ingest_documents([version(name, 0)], collection="c")
            readers = [threading.Thread(target=reading, args=(reader,)) for _ in range(2)]
            writers = [threading.Thread(target=writing, args=(name,)) for name in ("tea", "moon")]
            for thread in (*readers, *writers):
                thread.start()
            for thread in writers:
                thread.join()
            over.set()
            for thread in readers:
                thread.join()
            final = whole(writer, "c")
    assert problems == []
    assert len(answers) > replacements / 2
    assert [one for one in answers if any(len(found) > 1 for found in one.values())] == []
    assert {f"release {replacements - 1}." in text for text in final.values()} == {True}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("store", ["embedded", "server"])
def test_every_read_right_after_a_write_sees_it(lane: Any, tmp_path: Path, store: str) -> None:
    """Interleaved changes of two collections equal a dictionary's; each write is seen at once."""
    wanted = lane(240 if store == "embedded" else 60, 5000)
    load_once()
    with QdrantDouble() as double, tempfile.TemporaryDirectory(dir=memory()) as home:
        given: dict[str, Any] = {"home": Path(home), "chunk_tokens": 32, "chunk_overlap_tokens": 0}
        if store == "server":
            given |= {"store": "qdrant", "qdrant_url": double.url, "qdrant_timeout_s": 30}

        class Machine(Documents):
            opened = staticmethod(
                lambda: Retriever(RetrieveSettings(**given), embedder=HashedWords())
            )

        at = lane.seed
        try:
            while Machine.reads < wanted:
                at += 1
                run_state_machine_as_test(
                    seed(at)(Machine),
                    settings=settings(
                        max_examples=4,
                        stateful_step_count=STEPS,
                        deadline=None,
                        database=None,
                        suppress_health_check=list(HealthCheck),
                    ),
                    _min_steps=STEPS // 2,
                )
        finally:
            if Machine.retriever:
                Machine.retriever.close()
        assert Machine.reads >= wanted
