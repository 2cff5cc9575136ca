"""Search: modes, order, caps and thresholds on a small real collection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crash_kit import HashedWords

from rag_kit import workers
from rag_kit.ranking import cap
from rag_retrieve import (
    LoadedDocument,
    Retriever,
    RetrieveRequest,
    RetrieveResponse,
    RetrieveSettings,
)
from rag_retrieve.index.collection import Snapshot
from rag_retrieve.index.embedders import Vectors
from rag_retrieve.stores.base import Hit, Leg, Point

TEXTS = {
    "apollo": "Apollo 11 landed on the Moon in July 1969 with Neil Armstrong and Buzz Aldrin.",
    "luna": "Luna 2 was the first spacecraft to reach the surface of the Moon, in 1959.",
    "bread": "Sourdough bread rises slowly because wild yeast works at its own pace.",
    "pasta": "Cook pasta in salted boiling water until it is firm to the bite.",
}


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retriever]:
    """Four documents, one of them twice under other ids."""
    home: Path = tmp_path_factory.mktemp("search")
    with Retriever.open(RetrieveSettings(home=home)) as opened:
        opened.ingest_documents(
            LoadedDocument(name, "", name, text, "text/plain", metadata={"length": len(text)})
            for name, text in {**TEXTS, "copy-b": TEXTS["luna"], "copy-a": TEXTS["luna"]}.items()
        )
        yield opened


def search(retriever: Retriever, **fields: object) -> RetrieveResponse:
    """Search with a request of these fields."""
    return retriever.retrieve(RetrieveRequest.model_validate(fields))


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_every_mode_finds_the_passage(retriever: Retriever, mode: str) -> None:
    """Each mode ranks the right passage first and gives only the scores of its legs."""
    response = search(retriever, query="astronauts landed Moon 1969", retrieve={"mode": mode})

    assert response.results[0].document_id == "apollo"
    legs = {"dense", "sparse"} if mode == "hybrid" else {mode}
    assert set(response.results[0].scores) <= legs


def test_results_are_ordered_by_score_then_id(retriever: Retriever) -> None:
    """Equal texts have equal scores and come in order of their ids, every time."""
    first = search(retriever, query="first spacecraft to reach the Moon", top_k=10)
    keys = [(-result.score, result.chunk_id) for result in first.results]

    assert keys == sorted(keys)
    assert first == search(retriever, query="first spacecraft to reach the Moon", top_k=10)


def test_top_k_and_candidates_bound_the_results(retriever: Retriever) -> None:
    """A larger top_k keeps the order of a smaller one."""
    few = search(retriever, query="Moon", top_k=2).results
    many = search(retriever, query="Moon", top_k=100).results

    assert [r.chunk_id for r in many[:2]] == [r.chunk_id for r in few]
    assert len(many) == 6


def test_min_score_drops_what_is_lower(retriever: Retriever) -> None:
    """The threshold is on `score`; a high one leaves nothing."""
    dense = {"mode": "dense"}
    everything = search(retriever, query="Moon landing", retrieve=dense, top_k=10).results
    threshold = everything[1].score

    kept = search(retriever, query="Moon landing", retrieve=dense, top_k=10, min_score=threshold)

    assert [r.score for r in kept.results] == [r.score for r in everything if r.score >= threshold]
    assert search(retriever, query="Moon landing", retrieve=dense, min_score=2.0).results == []


def test_sparse_search_without_a_shared_term_finds_nothing(retriever: Retriever) -> None:
    """No term in common is no result, not a random one."""
    assert search(retriever, query="zyzzyva", retrieve={"mode": "sparse"}).results == []


def test_a_document_cap_leaves_room_for_others(tmp_path: Path) -> None:
    """At most so many passages of one document, the best ones."""
    long = "\n\n".join(f"The Moon fact number {n} is written here. " * 12 for n in range(6))
    with Retriever.open(RetrieveSettings(home=tmp_path, chunk_tokens=64)) as opened:
        opened.ingest_documents(
            [
                LoadedDocument("long", "", "long", long, "text/plain"),
                LoadedDocument("short", "", "short", "The Moon.", "text/plain"),
            ]
        )
        capped = search(
            opened, query="Moon fact number", top_k=5, retrieve={"max_per_document": 2}
        ).results

    documents = [result.document_id for result in capped]
    assert documents.count("long") == 2
    assert "short" in documents


def test_threat_corpus_poisoning_leaves_half_of_the_places() -> None:
    """Without a cap of one's own: half for one document, rounded up, more only for want of others."""
    close = [("bad", True)] * 5 + [("good", True), ("fine", True)]

    assert cap(close, None, 5) == [0, 1, 2, 5, 6]
    assert cap(close, None, 4) == [0, 1, 5, 6]
    assert cap(close, None, 1) == [0]
    assert cap(close, 1, 5) == [0, 5, 6]
    assert cap(close, 100, 5) == [0, 1, 2, 3, 4]
    assert cap([("bad", True)] * 5, None, 5) == [0, 1, 2, 3, 4]
    # one that is not close pushes nobody out, but stays where it stands
    far = [*[("bad", True)] * 5, ("good", False), ("fine", True)]
    assert cap(far, None, 5) == [0, 1, 2, 3, 6]
    assert cap([("good", False), *[("bad", True)] * 5], None, 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("other", "places"),
    [
        ("The keeper of the lighthouse trims it every evening: the lamp.", 3),
        ("The lamp is dark.", 5),
    ],
)
def test_by_words_alone_only_close_passages_take_places(
    tmp_path: Path, other: str, places: int
) -> None:
    """A passage with few of the question's words does not displace a document's better ones."""
    part = "The keeper of the lighthouse trims the lamp every evening. " + "Waves and wind. " * 30
    with Retriever.open(RetrieveSettings(home=tmp_path)) as opened:
        opened.ingest_documents(
            [
                LoadedDocument("long", "", "long", "\n\n".join([part] * 8), "text/plain"),
                *(LoadedDocument(f"{at}", "", f"{at}", other, "text/plain") for at in range(2)),
            ]
        )
        query = "Which lighthouse keeper trims the lamp every evening?"
        found = search(opened, query=query, top_k=5, retrieve={"mode": "sparse"}).results

    assert [result.document_id for result in found].count("long") == places


def test_provenance_names_version_digest_and_model(retriever: Retriever) -> None:
    """An answer can be traced to what made it; earlier provenance is kept."""
    response = search(retriever, query="Moon", provenance={"caller": {"version": "9"}})

    assert response.provenance["caller"] == {"version": "9"}
    assert response.provenance["retrieve"]["corpus_digest"].startswith("sha256:")  # type: ignore[union-attr]
    assert response.provenance["retrieve"]["embedding_model"] == "all-MiniLM-L6-v2-onnx-int8"


def test_unknown_fields_flow_through(retriever: Retriever) -> None:
    """What this step does not know reaches the next one as it was sent."""
    response = search(retriever, query="Moon", augment={"seed": 7}, tenant={"a": [1, None]})

    assert response.model_extra is not None
    assert response.model_extra["augment"] == {"seed": 7}
    assert response.model_extra["tenant"] == {"a": [1, None]}


def test_words_are_found_however_their_characters_are_written(tmp_path: Path) -> None:
    """Ligatures, accents, soft hyphens, line ends and thousands do not part query and passage."""
    texts = {
        "ligature": "The e\ufb03ciency is 97 percent.",
        "accent": "Die U\u0308berpru\u0308fung ist im März.",
        "soft": "Das War\u00adtungs\u00adinter\u00advall ist kurz.",
        "line": "The main-\ntenance is yearly.",
        "number": "It carries 1,500 kg.",
    }
    queries = {
        "efficiency": "ligature",
        "Überprüfung": "accent",
        "Wartungsintervall": "soft",
        "maintenance": "line",
        "1500": "number",
    }
    with Retriever.open(RetrieveSettings(home=tmp_path)) as opened:
        opened.ingest_documents(
            LoadedDocument(name, "", name, text, "text/plain") for name, text in texts.items()
        )
        for query, name in queries.items():
            (result,) = search(opened, query=query, retrieve={"mode": "sparse"}).results
            assert result.document_id == name
            assert result.text == texts[name]


def test_payloads_are_read_of_the_best_passages_only(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded store reads the texts of `top_k` passages at a time, not of every candidate."""
    store = retriever._collection("default")._store
    read: list[str] = []
    get = store.get

    def counting(ids: Sequence[str], *rest: object, **fields: object) -> dict[str, Point]:
        read.extend(ids)
        return get(ids, *rest, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "get", counting)
    response = search(retriever, query="the Moon", top_k=1)

    assert len(response.results) == 1
    assert len(read) == 1 < len(TEXTS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "guide.md",
            "# Pumps\n\n## Service\n\n{long}\n\n### Filter\n\n{filter}\n",
        ),
        (
            "guide.rst",
            "Pumps\n=====\n\nService\n-------\n\n{long}\n\nFilter\n~~~~~~\n\n{filter}\n",
        ),
        (
            "guide.html",
            "<h1>Pumps</h1><h2>Service</h2><p>{long}</p><h3>Filter</h3><p>{filter}</p>",
        ),
    ],
)
def test_a_result_names_its_headings(tmp_path: Path, name: str, text: str) -> None:
    """Whatever the format, a result has the headings it stands under, outermost first."""
    file = tmp_path / name
    file.write_text(
        text.format(
            long="The pump runs day and night without a pause. " * 30,
            filter="Change the filter each month. " * 30,
        )
    )
    with Retriever.open(RetrieveSettings(home=tmp_path / "store")) as retriever:
        retriever.ingest([file])
        found = search(retriever, query="How often is the filter changed?").results

    assert found[0].headings == ["Pumps", "Service", "Filter"]
    assert all(result.headings[:2] == ["Pumps", "Service"] for result in found)


@pytest.mark.parametrize("options", [{}, {"fusion": "rrf"}, {"mode": "dense"}, {"mode": "sparse"}])
def test_further_queries_bring_their_own_passages(
    retriever: Retriever, options: dict[str, str]
) -> None:
    """The best of each query leads; a passage has its best score, and the order stays fixed."""
    fields = {"query": "astronauts on the Moon in 1969", "top_k": 4, "retrieve": options}
    alone = search(retriever, **fields).results
    both = search(retriever, **fields, search_queries=["how sourdough bread rises"]).results

    assert alone[0].document_id == "apollo"
    assert {both[0].document_id, both[1].document_id} == {"apollo", "bread"}
    assert [-r.score for r in both] == sorted(-r.score for r in both)
    assert both == search(retriever, **fields, search_queries=["how sourdough bread rises"]).results
    same = search(retriever, **fields, search_queries=[fields["query"]]).results
    assert [(r.chunk_id, r.score) for r in same] == [(r.chunk_id, r.score) for r in alone]


def test_a_further_query_is_checked_like_the_question() -> None:
    """Blank ones are refused, and more than eight."""
    for queries in ([" "], ["x"] * 9):
        with pytest.raises(ValueError, match="search_queries"):
            RetrieveRequest.model_validate({"query": "x", "search_queries": queries})


class SlowWords(HashedWords):
    """The double of an embedder, which does something else before it embeds a question."""

    before: Callable[[], object] = staticmethod(lambda: None)

    def embed_query(self, query: str) -> Vectors:
        """Embed one text."""
        before, self.before = self.before, lambda: None
        before()
        return super().embed_query(query)


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Retriever, SlowWords]]:
    """A retriever with a helper thread, whatever this machine has, and its embedder."""
    embedder = SlowWords()
    settings = RetrieveSettings(home=tmp_path)
    with ThreadPoolExecutor(2) as pool, Retriever(settings, embedder=embedder) as opened:
        monkeypatch.setattr(workers, "_helpers", lambda: pool)
        opened.ingest_documents(
            LoadedDocument(name, "", name, text, "text/plain") for name, text in TEXTS.items()
        )
        yield opened, embedder


def watched(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[list[str]], threading.Event]:
    """Return the legs of each search for candidates, and what tells that words were searched."""
    searched: list[list[str]] = []
    words = threading.Event()
    store = retriever._collection("default")._store
    search_all = store.search

    def recording(legs: Sequence[Leg], *rest: Any) -> list[list[Hit]]:
        found = search_all(legs, *rest)
        if candidates := [leg[0] for leg in legs if leg[2] == 100]:
            searched.append(candidates)
        words.set()
        return found

    monkeypatch.setattr(store, "search", recording)
    return searched, words


@pytest.mark.parametrize("helpers", [True, False])
def test_words_are_searched_while_the_question_is_embedded(
    slow: tuple[Retriever, SlowWords], monkeypatch: pytest.MonkeyPatch, helpers: bool
) -> None:
    """The embedder waits for the words; each leg is searched once, with one processor, too."""
    retriever, embedder = slow
    question = "Which spacecraft was first to reach the Moon?"
    searched, words = watched(retriever, monkeypatch)
    if helpers:
        embedder.before = lambda: words.wait(30) or pytest.fail("no words were searched")
    else:
        monkeypatch.setattr(workers, "_helpers", lambda: None)
    found = search(retriever, query=question)

    assert searched == [["sparse"], ["dense"]]
    assert found.results[0].document_id == "luna"
    monkeypatch.setattr(retriever._collection("default"), "search_ahead", lambda *_: None)
    assert search(retriever, query=question) == found
    assert searched[2:] == [["dense", "sparse"]]


def test_near_words_are_looked_for_while_the_question_is_embedded(
    slow: tuple[Retriever, SlowWords], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedder waits until the passages with words near a misspelt one are known."""
    retriever, embedder = slow
    collection = retriever._collection("default")
    found_near = threading.Event()
    search_all = collection.search

    def recording(*legs: Any, **options: Any) -> Snapshot:
        snapshot = search_all(*legs, **options)
        found_near.set()
        return snapshot

    monkeypatch.setattr(collection, "search", recording)
    embedder.before = lambda: found_near.wait(30) or pytest.fail("no near words were looked for")
    found = search(retriever, query="Which spacecraft reached the surfase?")

    assert found.provenance["retrieve"]["corrected"] == {"surfase": "surface"}
    assert found.results[0].document_id == "luna"


def test_a_corrected_question_is_searched_once(
    slow: tuple[Retriever, SlowWords], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own words and the corrected ones at once, when no passage is needed to correct it."""
    retriever, _ = slow
    searched, _ = watched(retriever, monkeypatch)
    found = search(retriever, query="Which spacecraft reached the surfase?")
    assert found.provenance["retrieve"]["corrected"] == {"surfase": "surface"}
    assert sum(legs.count("dense") for legs in searched) == 2  # one for each wording
    assert sum("dense" in legs for legs in searched) == 1


def test_a_change_while_the_question_is_embedded_is_seen_by_both_legs(
    slow: tuple[Retriever, SlowWords], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words that were searched before the change are searched again: an answer has one state."""
    retriever, embedder = slow
    question = "Which spacecraft was first to reach the moonlet?"
    searched, words = watched(retriever, monkeypatch)

    def change() -> None:
        assert words.wait(30)
        text = "The first spacecraft to reach the moonlet was Luna 9."
        retriever.ingest_documents([LoadedDocument("new", "", "new", text, "text/plain")])
        retriever.delete_documents("default", ["luna"])

    embedder.before = change
    found = search(retriever, query=question)

    assert searched == [["sparse"], ["dense", "sparse"]]
    assert found.results[0].document_id == "new"
    assert found.warnings == []
    assert search(retriever, query=question) == found
