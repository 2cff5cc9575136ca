"""Counts of terms of collections on a server: right after every change, cheap, and mended by `rag doctor`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from crash_kit import HashedWords
from qdrant_double import QdrantDouble
from qdrant_kit import Qdrant

from rag_retrieve import LoadedDocument, Retriever, RetrieveRequest, RetrieveSettings, StepError
from rag_retrieve.index.collection import Collection
from rag_retrieve.index.manifest import Manifest
from rag_retrieve.index.shared import SharedCollection
from rag_retrieve.index.term_counts import MOST_PARTS, TermCounts, part_id, small_parts, weighed
from rag_retrieve.stores.base import Sparse
from rag_retrieve.stores.qdrant.database import ServerStores
from rag_retrieve.stores.shared import STATE_ID, State


def texts(*contents: str) -> list[LoadedDocument]:
    return [LoadedDocument(f"d{n}", "", "d", text, "text/plain") for n, text in enumerate(contents)]


@pytest.fixture
def server(double: QdrantDouble) -> Iterator[Retriever]:
    """A retriever over the double."""
    settings = Qdrant(double.url, None, "test", double).settings()
    with Retriever(settings, embedder=HashedWords()) as retriever:
        yield retriever


def opened(retriever: Retriever) -> SharedCollection:
    collection: Collection = retriever._collection("default")
    assert isinstance(collection, SharedCollection)
    return collection


def scores(retriever: Retriever, query: str) -> list[tuple[str, float]]:
    fields = {"query": query, "retrieve": {"mode": "sparse"}}
    results = retriever.retrieve(RetrieveRequest.model_validate(fields)).results
    return [(one.chunk_id, pytest.approx(one.score, rel=1e-5)) for one in results]


# -- arithmetic -----------------------------------------------------------------------------------


def vectors(seed: int, count: int) -> list[Sparse]:
    chance = random.Random(seed)
    lists = [
        sorted({chance.choice([0, 7, 2**31, 2**32 - 1, chance.randrange(50)]) for _ in range(5)})
        for _ in range(count)
    ]
    return [Sparse(ids, [1.0] * len(ids)) for ids in lists]


def as_dict(counts: TermCounts) -> dict[int, int]:
    return dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))


def test_counts_are_those_of_counting_one_by_one() -> None:
    """In any order and grouping; what is taken away again leaves nothing behind."""
    one, other = vectors(1, 30), vectors(2, 20)
    expected = Counter(id_ for vector in [*one, *other] for id_ in vector.indices)
    both = TermCounts.sum([TermCounts.of(other), TermCounts.of(one)])
    assert (both.passages, as_dict(both)) == (50, dict(expected))
    back = TermCounts.sum([both, -TermCounts.of(other), -TermCounts.of(one)])
    assert (back.passages, as_dict(back)) == (0, {})
    asked = np.array([0, 7, 49, 51, 2**32 - 1], np.uint32)
    assert both.counts_of(asked).tolist() == [expected[int(id_)] for id_ in asked]
    assert back.counts_of(asked).tolist() == [0] * 5


@pytest.mark.parametrize("counts", [TermCounts.of([]), -TermCounts.of(vectors(3, 40))])
def test_counts_are_read_as_they_were_written(counts: TermCounts) -> None:
    """Also none, and negative ones."""
    found = TermCounts.read(counts.point().payload)
    assert (found.passages, as_dict(found)) == (counts.passages, as_dict(counts))


@pytest.mark.parametrize(
    "change", [{"counts": "no base64"}, {"counts": "AAAA"}, {"terms": 3}, {"passages": None}]
)
def test_damaged_counts_are_told(change: dict[str, object]) -> None:
    """Whoever reads them is told how they are mended."""
    payload = TermCounts.of(vectors(3, 40)).point().payload
    with pytest.raises(StepError, match="rag doctor --repair"):
        TermCounts.read({**payload, **change})


def test_rare_terms_weigh_more_and_wrong_counts_give_no_nonsense() -> None:
    """As BM25 has it; a count larger than the number of passages is taken for all of them."""
    parts = [TermCounts.of([Sparse([1, 2], [1.0, 1.0]), Sparse([2], [1.0])])]
    once, twice, never = weighed(Sparse([1, 2, 3], [1.0, 1.0, 1.0]), parts).values
    assert (once, twice, never) == pytest.approx((np.log(2), np.log(1.2), np.log(6)), rel=1e-6)
    wrong = [*parts, *parts, -TermCounts(3, np.array([], np.uint32), np.array([], np.int32))]
    assert all(np.isfinite(weighed(Sparse([1, 2, 3], [1.0] * 3), wrong).values))
    assert weighed(Sparse([], []), parts).values == []


def test_each_part_is_summed_up_a_logarithmic_number_of_times() -> None:
    """A thousand commits write each count anew a few times, and few parts are there at any time."""
    parts: list[tuple[str, int]] = []
    written = 0
    for number in range(1000):
        parts.append((str(number), 10))
        if chosen := small_parts(parts):
            size = sum(terms for id_, terms in parts if id_ in chosen)
            parts = [part for part in parts if part[0] not in chosen] + [(f"s{number}", size)]
            written += size
        assert len(parts) <= MOST_PARTS + 1
    assert written < 8 * 10 * 1000


# -- a collection ---------------------------------------------------------------------------------


def test_counts_follow_every_change(server: Retriever, settings: RetrieveSettings) -> None:
    """Added, replaced, deleted, reindexed: scores equal those of the embedded store each time."""
    first = texts("red fox", "red dog and red cat", "blue whale", "")
    second = texts("red fox", "green dog", "blue bird")[1:]
    with Retriever(settings, embedder=HashedWords()) as embedded:

        def alike() -> None:
            for query in ("red dog", "blue", "whale"):
                assert scores(server, query) == scores(embedded, query)
            assert opened(server).miscounted_terms() is None

        for documents in (first, second):
            for retriever in (server, embedded):
                retriever.ingest_documents(documents)
            alike()
        for retriever in (server, embedded):
            retriever.delete_documents("default", ["d0"])
        alike()
        server.reindex("default")
        alike()
        (part,) = opened(server)._terms or []
        assert [p.id for p in opened(server).store.scroll({"kind": "terms"})] == [part[0]]


def test_many_commits_leave_few_parts(server: Retriever) -> None:
    """They are summed up on the way, and the sums are right."""
    for number in range(MOST_PARTS + 3):
        server.ingest_documents(texts(f"word{number} and word{number // 2}"))
    parts = opened(server)._terms or []
    assert len(parts) <= MOST_PARTS
    assert len(list(opened(server).store.scroll({"kind": "terms"}))) == len(parts)
    assert opened(server).miscounted_terms() is None


def requests(double: QdrantDouble, server: Retriever, documents: Sequence[LoadedDocument]) -> int:
    double.requests.clear()
    server.ingest_documents(documents)
    return sum("/points" in one for one in double.requests)


def test_counting_costs_no_request_for_new_documents_and_one_for_replaced_ones(
    double: QdrantDouble, server: Retriever
) -> None:
    """As many as in a collection whose terms the server counts, and one that reads what is replaced."""
    earlier(double, server, "default")
    server.ingest_documents([])
    added, replaced = (requests(double, server, texts(f"fox{n}", "dog")) for n in (1, 2))
    server.delete_collection("default")
    server.ingest_documents([])
    assert requests(double, server, texts("fox1", "dog")) == added
    assert requests(double, server, texts("fox2", "dog")) == replaced + 1


def earlier(double: QdrantDouble, server: Retriever, name: str) -> None:
    """Make a collection as earlier versions did: the server counts terms, the state knows of none."""
    remote = f"rag_{name}~g1"
    body = {
        "vectors": {"dense": {"size": 16, "distance": "Cosine"}},
        "sparse_vectors": {"sparse": {"modifier": "idf"}},
    }
    double.answer("PUT", f"/collections/{remote}", body)
    double.answer(
        "POST",
        "/collections/aliases",
        {"actions": [{"create_alias": {"collection_name": remote, "alias_name": f"rag_{name}"}}]},
    )
    stores = server._stores
    assert isinstance(stores, ServerStores)
    state = State(Manifest.new(name, server._recipe).model_dump()).point()
    del state.payload["terms"]
    stores._store(name, remote, 16).upsert([state])


def test_a_collection_of_an_earlier_version_works_as_before(
    double: QdrantDouble, server: Retriever, settings: RetrieveSettings
) -> None:
    """The server weighs its terms; `rag doctor` says what a reindex brings, and it brings it."""
    earlier(double, server, "default")
    server.ingest_documents(texts("red fox", "red dog"))
    server.ingest_documents(texts("red fox", "blue dog"))
    assert opened(server)._terms is None
    assert list(opened(server).store.scroll({"kind": "terms"})) == []
    checkup = server.checkup("default")
    assert checkup.problems == []
    assert any("rag reindex --collection default" in note for note in checkup.notes)
    assert len(scores(server, "red")) == 1
    server.reindex("default")
    assert opened(server)._terms
    assert server.checkup("default").notes == []
    with Retriever(settings, embedder=HashedWords()) as embedded:
        embedded.ingest_documents(texts("red fox", "blue dog"))
        assert scores(server, "red dog") == scores(embedded, "red dog")


@pytest.mark.parametrize("damage", ["part lost", "part wrong", "part unnamed", "all unknown"])
def test_wrong_counts_are_found_and_counted_anew(server: Retriever, damage: str) -> None:
    """Whatever became of them; nothing unnamed stays behind."""
    server.ingest_documents(texts("red fox", "red dog"))
    right = scores(server, "red dog")
    collection = opened(server)
    ((id_, _),) = collection._terms or []
    generation = server._stores.generation("default")  # type: ignore[attr-defined]
    if damage == "part lost":
        collection.store.delete([id_])
    elif damage == "part wrong":
        generation.store.upsert([TermCounts.of(vectors(1, 9)).point(id_)])
    elif damage == "part unnamed":
        generation.store.upsert([TermCounts.of(vectors(1, 9)).point(part_id("lost"))])
    else:
        generation.store.unset_fields([STATE_ID], ["terms"], {})
    collection._parts = {}
    if damage == "part lost":
        with pytest.raises(StepError, match="rag doctor --repair"):
            scores(server, "red")
    if damage != "part unnamed":
        assert "the counts of terms" in "; ".join(server.checkup("default").problems)
        server.repair("default")
    assert server.checkup("default").problems == []
    assert scores(server, "red dog") == right
