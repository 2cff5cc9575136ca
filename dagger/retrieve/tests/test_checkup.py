"""What `rag doctor` finds wrong with stored collections, and what its repair does; and foreign things."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from crash_kit import HashedWords, whole
from qdrant_double import QdrantDouble
from qdrant_kit import Qdrant

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings, StepError
from rag_retrieve.index.points import document_point_id
from rag_retrieve.stores.base import Point, Sparse
from rag_retrieve.stores.qdrant.database import ServerStores
from rag_retrieve.stores.shared import Writer


def texts(*names: str) -> list[LoadedDocument]:
    return [
        LoadedDocument(name, "", "d", f"Text of {name}.\n\nMore of it.", "text/plain")
        for name in names
    ]


@pytest.fixture(params=["embedded", "double"])
def filled(request: pytest.FixtureRequest, settings: RetrieveSettings) -> Iterator[Retriever]:
    """A collection of three documents, in both stores."""
    if request.param == "double":
        double = request.getfixturevalue("double")
        settings = Qdrant(double.url, None, "test", double).settings(qdrant_lease_s=0.5)
    with Retriever(settings, embedder=HashedWords()) as retriever:
        retriever.ingest_documents(texts("a", "b", "c"))
        yield retriever


def check(retriever: Retriever, problem: str | None) -> None:
    problems = retriever.checkup("default").problems
    assert problems == [] if problem is None else problem in "; ".join(problems)


def test_a_sound_collection_has_nothing_to_mend(filled: Retriever) -> None:
    """Looking changes nothing, and neither does mending."""
    before, digest = whole(filled), filled.collections()[0].corpus_digest
    check(filled, None)
    assert filled.repair("default") == []
    assert (whole(filled), filled.collections()[0].corpus_digest) == (before, digest)


def test_a_document_without_its_passages_is_completed_from_its_text(filled: Retriever) -> None:
    """The passages are those it had, vectors included, and the document is found again."""
    store = filled._collection("default").store
    points = list(store.scroll({"kind": "chunk", "document_id": "b"}))
    before = store.get([point.id for point in points], with_vectors=True)
    store.delete([point.id for point in points])
    check(filled, "1 documents lack passages (b)")
    assert filled.repair("default") == ["mended: 1 documents lack passages (b)"]
    check(filled, None)
    assert set(whole(filled)) == {"a", "b", "c"}
    after = store.get(list(before), with_vectors=True)
    assert {i: p.payload for i, p in after.items()} == {i: p.payload for i, p in before.items()}
    assert [
        r.document_id for r in filled.retrieve(RetrieveRequest(query="text b", top_k=9)).results
    ]


def test_stray_passages_are_removed(filled: Retriever) -> None:
    """Passages that no document names go; every document stays."""
    store = filled._collection("default").store
    store.delete([document_point_id("b")])
    check(filled, "passages belong to no document")
    assert any("belong to no document" in done for done in filled.repair("default"))
    check(filled, None)
    assert set(whole(filled)) == {"a", "c"}


def test_a_wrong_manifest_is_counted_anew(filled: Retriever) -> None:
    """Digest and counts equal those of the documents that are there."""
    right = filled.collections()[0]
    opened = filled._collection("default")
    wrong = opened.manifest.model_copy(update={"documents": 7, "corpus_sum": "abc"})
    filled._stores.write_manifest("default", wrong.model_dump())
    opened.manifest = wrong
    check(filled, "the manifest says 7 documents")
    filled.repair("default")
    check(filled, None)
    assert filled.collections()[0] == right


@pytest.fixture
def server(double: QdrantDouble) -> Iterator[Retriever]:
    """Two documents on a server, whose writers are dead after half a second of silence."""
    settings = Qdrant(double.url, None, "test", double).settings(qdrant_lease_s=0.5)
    with Retriever(settings, embedder=HashedWords()) as retriever:
        retriever.ingest_documents(texts("a", "b"))
        yield retriever


def test_a_dead_writer_is_named_and_cleaned_up_after(server: Retriever) -> None:
    """One elsewhere cannot be told from a living one at a glance; repairing watches it for its lease."""
    stores = server._stores
    assert isinstance(stores, ServerStores)
    generation = stores.generation("default")
    ghost = Writer(generation, "indexing", 0.5)
    ghost._who |= {"owner": "process 1 on elsewhere", "process": ""}
    generation.store.upsert([ghost._journal([["a", None, 0]])])
    generation.store.set_fields([document_point_id("a")], {"claim": ghost.token}, {"claim": None})

    checkup = server.checkup("default")
    assert checkup.notes == ["process 1 on elsewhere writes, or died elsewhere"]
    assert server.repair("default") == ["cleaned up after process 1 on elsewhere"]
    assert server.checkup("default").notes == []
    assert set(whole(server)) == {"a", "b"}
    server.ingest_documents(texts("a", "c"))


def test_a_lost_alias_is_found_and_restored(server: Retriever, double: QdrantDouble) -> None:
    """As an older version left it, when its server was killed between two saves."""
    double.aliases.clear()
    assert server.lost_collections() == ["default"]
    server.restore_collection("default")
    assert server.lost_collections() == []
    assert set(whole(server)) == {"a", "b"}


# -- what others made ---------------------------------------------------------------------------


def foreign_collection(double: QdrantDouble, name: str) -> None:
    body = {"vectors": {"theirs": {"size": 3, "distance": "Cosine"}}}
    double.answer("PUT", f"/collections/{name}", body)


@pytest.mark.parametrize("kind", ["collection", "alias"])
def test_a_name_that_others_have_is_refused_and_left_alone(
    server: Retriever, double: QdrantDouble, kind: str
) -> None:
    """No orphan is left, however often it is tried, and the way out can be followed."""
    foreign_collection(double, "rag_theirs" if kind == "collection" else "elsewhere")
    if kind == "alias":
        double.aliases["rag_theirs"] = "elsewhere"
    before = sorted(double.collections), dict(double.aliases)
    for call in (
        lambda: server.ingest_documents(texts("x"), collection="theirs"),
        lambda: server.retrieve(RetrieveRequest(query="x", collection="theirs")),
        lambda: server.documents("theirs"),
    ) * 2:
        with pytest.raises(StepError, match="Choose another name") as caught:
            call()
        assert caught.value.code == "collection_mismatch"
    assert (sorted(double.collections), dict(double.aliases)) == before
    assert server.foreign() == ["rag_theirs"]


@pytest.mark.parametrize("id_", ["00000000-0000-0000-0000-000000000001", 5])
def test_a_point_of_others_harms_no_search(
    server: Retriever, double: QdrantDouble, id_: Any
) -> None:
    """Whatever its id, it is not found, and everything else is."""
    request = RetrieveRequest.model_validate({"query": "Text of a", "top_k": 9})
    before = [result.chunk_id for result in server.retrieve(request).results]
    vectors = {
        "dense": [0.25] * 16,
        "sparse": {"indices": [1], "values": [1.0]},
    }
    body = {"points": [{"id": id_, "vector": vectors, "payload": {"colour": "red"}}]}
    double.collections["rag_default~g1"].answer("PUT", ["points"], body)

    assert [result.chunk_id for result in server.retrieve(request).results] == before
    check(server, None)


def test_an_alias_on_a_generation_of_others_is_no_success(
    server: Retriever, double: QdrantDouble
) -> None:
    """Reindexing it says what is wrong, and removes nothing."""
    foreign_collection(double, "rag_default~g9")
    double.aliases["rag_default"] = "rag_default~g9"
    before = sorted(double.collections)
    with pytest.raises(StepError) as caught:
        server.reindex("default")
    assert caught.value.code == "store_corrupt"
    assert sorted(double.collections) == before


def test_a_key_that_no_header_can_carry_is_named(double: QdrantDouble) -> None:
    """The error is about the key, and does not show it."""
    settings = Qdrant(double.url, "schlüssel", "test", double).settings()
    with pytest.raises(StepError, match="RAG_QDRANT_API_KEY") as caught:
        Retriever(settings, embedder=HashedWords())
    assert "schl" not in caught.value.message


def test_the_next_node_is_asked_when_one_cannot_be_used(double: QdrantDouble) -> None:
    """A question is answered though the first address is of nobody."""
    settings = Qdrant(f"http://127.0.0.1:1, {double.url}", None, "test", double).settings()
    with Retriever(settings, embedder=HashedWords()) as retriever:
        assert retriever.collections() == []
        assert retriever.ingest_documents(texts("a")).added == ["a"]


def test_shards_copies_and_consistency_are_settings(double: QdrantDouble) -> None:
    """They are sent when a collection is made; unset, Qdrant's own configuration decides."""
    spread = {"shard_number": 3, "replication_factor": 2, "write_consistency_factor": 1}
    qdrant = Qdrant(double.url, None, "test", double)
    for name, options in (("one", spread), ("two", {})):
        stores = qdrant.stores(**{f"qdrant_{key}": value for key, value in options.items()})
        stores.create(name, dim=2)
        body = double.collections[f"rag_{name}~g1"].body
        assert {key: body.get(key) for key in spread} == {**dict.fromkeys(spread), **options}
        stores.close()


@pytest.mark.parametrize(
    ("status", "words", "code", "told"),
    [
        (400, 'Index required but not found for "metadata.x"', "retriever_misconfigured", "Index"),
        (422, "Validation error: limit", "retriever_misconfigured", "Validation error: limit"),
        (408, "Timeout", "deadline_exceeded", "in time"),
        (403, "Collection is locked", "retriever_misconfigured", "Collection is locked"),
        (507, "full", "storage_full", "disk space"),
    ],
)
def test_a_refusal_is_told_in_the_words_of_the_server(
    server: Retriever, double: QdrantDouble, status: int, words: str, code: str, told: str
) -> None:
    """Neither the URL nor a proxy is blamed for what the server's own limits refuse."""
    double.faults.status, double.faults.words = status, words
    with pytest.raises(StepError) as caught:
        server.retrieve(RetrieveRequest(query="x"))
    assert caught.value.code == code
    assert told in caught.value.message
    assert "proxy" not in caught.value.message


def test_null_in_a_list_is_found_by_a_path_of_its_own(double: QdrantDouble) -> None:
    """A server looks for nulls among a list's elements only when asked for `x[]`."""
    from rag_retrieve.search.filters import parse_filters
    from rag_retrieve.stores.qdrant.collection import to_client

    condition = parse_filters({"x": None})
    assert condition is not None
    sent = to_client(condition).model_dump_json()
    assert '"metadata.x"' in sent and '"metadata.x[]"' in sent
    store = Qdrant(double.url, None, "test", double).stores().create("nulls", dim=2)
    values: list[Any] = [None, [1, None], [1], 0]
    points = [
        Point(
            document_point_id(str(n)),
            {"kind": "chunk", "metadata": {"x": x, "n": n}},
            [1.0, 1.0],
            Sparse([1], [1.0]),
        )
        for n, x in enumerate(values)
    ]
    store.upsert(
        [
            *points,
            Point(document_point_id("5"), {"kind": "chunk", "metadata": {"n": 5}}, [1.0, 1.0]),
        ]
    )
    [hits] = store.search([("dense", [1.0, 0.0], 9)], condition)
    assert sorted(hit.payload["metadata"]["n"] for hit in hits) == [0, 1]
