"""Runs and deletions in one collection at a time: each finds what the others left, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from crash_kit import HashedWords, whole
from qdrant_double import QdrantDouble

from rag_retrieve import LoadedDocument, Retriever, RetrieveSettings, StepError
from rag_retrieve.index.ingest import StopIngest


def note(name: str, text: str = "") -> LoadedDocument:
    return LoadedDocument(name, "", "d", text or f"A note called {name}.", "text/plain")


@pytest.fixture(params=["embedded", "qdrant"])
def settings(
    request: pytest.FixtureRequest, double: QdrantDouble, settings: RetrieveSettings
) -> RetrieveSettings:
    """Settings of each store."""
    if request.param == "embedded":
        return settings
    return RetrieveSettings(store="qdrant", qdrant_url=double.url, qdrant_timeout_s=20)


@contextmanager
def opened(
    settings: RetrieveSettings, at: str, meanwhile: Callable[[Retriever], object]
) -> Iterator[tuple[Retriever, list[str]]]:
    """Yield a retriever that does something else once, at a step; put its name into the list."""
    armed: list[str] = []

    def on_step(name: str) -> None:
        if name in armed:
            armed.clear()
            meanwhile(retriever)

    with Retriever(settings, embedder=HashedWords(), on_step=on_step) as retriever:
        yield retriever, armed


def test_what_changes_during_a_reindex_is_in_the_new_index(settings: RetrieveSettings) -> None:
    """One document deleted, one replaced, one added after the old ones were read."""

    def meanwhile(retriever: Retriever) -> None:
        retriever.delete_documents("default", ["a"])
        retriever.ingest_documents([note("b", "Another text of b."), note("d")])

    with opened(settings, "embedded", meanwhile) as (retriever, armed):
        retriever.ingest_documents([note("a"), note("b"), note("c")])
        armed.append("embedded")
        report = retriever.reindex("default")

        assert whole(retriever).keys() == {"b", "c", "d"}
        assert retriever.document("default", "b").text == "Another text of b."
        assert sorted(report.added) == ["b", "c", "d"]
        assert retriever.collections()[0].documents == 3


def test_a_reindex_that_is_ended_leaves_the_old_index(settings: RetrieveSettings) -> None:
    def stop() -> None:
        raise StopIngest

    with Retriever(settings, embedder=HashedWords()) as retriever:
        retriever.ingest_documents([note("a")])
        with pytest.raises(StopIngest):
            retriever.reindex("default", check=stop)
        assert whole(retriever).keys() == {"a"}
        assert retriever.reindex("default").added == ["a"]


def test_a_second_reindex_of_a_collection_is_refused(settings: RetrieveSettings) -> None:
    codes: list[str] = []

    def meanwhile(retriever: Retriever) -> None:
        with pytest.raises(StepError) as refused:
            retriever.reindex("default")
        codes.append(refused.value.code)

    with opened(settings, "embedded", meanwhile) as (retriever, armed):
        retriever.ingest_documents([note("a")])
        armed.append("embedded")
        retriever.reindex("default")
        assert codes == ["in_progress"]


@pytest.mark.parametrize("same", [True, False], ids=["the same content", "another content"])
def test_a_document_that_came_meanwhile_is_replaced_once(
    settings: RetrieveSettings, same: bool
) -> None:
    """Between embedding and commit of one run another one stores the same document."""
    text = "" if same else "Stored by the other run."
    with opened(settings, "", lambda one: one.ingest_documents([note("a", text)])) as (one, armed):
        armed.append("embedded")
        report = one.ingest_documents([note("a"), note("b")])

        assert report.unchanged == (["a"] if same else [])
        assert report.updated == ([] if same else ["a"])
        assert report.added == ["b"]
        assert whole(one).keys() == {"a", "b"}
        assert one.document("default", "a").text == "A note called a."


def test_a_run_into_a_collection_that_was_deleted_meanwhile_fails(
    settings: RetrieveSettings,
) -> None:
    """It does not bring the collection back, whose deletion was acknowledged."""
    with opened(settings, "", lambda one: one.delete_collection("default")) as (retriever, armed):
        armed.append("embedded")
        with pytest.raises(StepError) as failed:
            retriever.ingest_documents([note("a")])
        assert failed.value.code == "collection_not_found"
        assert retriever.collections() == []


def test_a_collection_made_for_a_run_that_is_stopped_stays_when_another_one_uses_it(
    settings: RetrieveSettings,
) -> None:
    stopping = False

    def check() -> None:
        if stopping:
            raise StopIngest

    def meanwhile(retriever: Retriever) -> None:
        nonlocal stopping
        stopping = True
        retriever.ingest_documents([note("other")])

    with opened(settings, "", meanwhile) as (retriever, armed):
        armed.append("embedded")
        with pytest.raises(StopIngest):
            retriever.ingest_documents([note("a")], check=check)
        assert whole(retriever).keys() == {"other"}
