"""Sentences of a passage have vectors of their own, from the run that embeds the passage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_retrieve import Retriever, RetrieveRequest, RetrieveSettings
from rag_retrieve.index.cache import EmbeddingCache
from rag_retrieve.index.embedders import MiniLM
from rag_retrieve.index.sentence_vectors import folded_spans, packed, sentence_spans, similarities

TEXT = (
    "The crane is painted yellow. Its licence is renewed every five years.\n\nLunch is at noon.\n"
)


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    """The packaged model, loaded once."""
    return MiniLM()


@pytest.fixture
def retriever(tmp_path: Path, minilm: MiniLM) -> Retriever:
    """A retriever over one document of three sentences."""
    (tmp_path / "crane.md").write_text(TEXT)
    settings = RetrieveSettings(home=tmp_path / "home")
    found = Retriever(settings, embedder=minilm)
    found.ingest([tmp_path / "crane.md"])
    return found


def ask(retriever: Retriever, query: str, **options: str) -> list[tuple[str, float]]:
    request = RetrieveRequest.model_validate({"query": query, "retrieve": options})
    (result,) = retriever.retrieve(request).results
    start = result.span[0]
    return [
        (result.text[one.span[0] - start : one.span[1] - start].strip(), one.cosine)
        for one in result.similarities
    ]


def test_the_sentence_that_answers_is_nearest(retriever: Retriever) -> None:
    """Each sentence has its cosine with the question; together they are the passage."""
    found = ask(retriever, "How often must the licence of the crane be renewed?")

    assert [text for text, _ in found] == [
        "The crane is painted yellow.",
        "Its licence is renewed every five years.",
        "Lunch is at noon.",
    ]
    assert max(found, key=lambda one: one[1])[0] == "Its licence is renewed every five years."


def test_a_question_costs_no_further_run_of_the_model(retriever: Retriever) -> None:
    """Sentences are embedded with their passage: one text at ingest, one query at question time."""
    ask(retriever, "When is lunch?")

    assert retriever.counters.texts_embedded == 1
    assert retriever.counters.queries_embedded == 1


def test_sparse_search_embeds_nothing(retriever: Retriever) -> None:
    """Without the question's vector there is no cosine."""
    assert ask(retriever, "When is lunch?", mode="sparse") == []
    assert retriever.counters.queries_embedded == 0


def test_a_passage_has_the_vector_it_has_alone(minilm: MiniLM) -> None:
    """Vectors of the parts change nothing about that of the whole; beyond the window they are 0."""
    text = "word " * 400
    (rows,) = minilm.embed_parts([text], [[(0, 5), (1900, 2000)]])

    assert np.array_equal(rows[0], minilm.embed([text])[0])
    assert rows.shape == (3, 384)
    assert np.linalg.norm(rows[1]) == pytest.approx(1)
    assert not rows[2].any()


def test_what_is_packed_comes_back_within_a_hundredth() -> None:
    """One byte a component is enough for a cosine."""
    draw = np.random.default_rng(7)
    rows = draw.normal(size=(4, 384)).astype(np.float32)
    query = rows[2] / np.linalg.norm(rows[2])
    spans = [(0, 4), (4, 9), (9, 30), (30, 31)]

    found = similarities({"sentences": packed(spans, rows)}, [query])

    exact = rows @ query / np.linalg.norm(rows, axis=1)
    assert [tuple(one.span) for one in found] == spans
    assert [one.cosine for one in found] == pytest.approx(exact.tolist(), abs=0.01)


def test_the_closest_query_counts() -> None:
    """Of several queries, each sentence has its cosine with the closest one."""
    queries = [np.eye(3)[0], np.eye(3)[1]]
    spans = [(0, 30), (30, 60)]

    found = similarities({"sentences": packed(spans, np.eye(3, dtype=np.float32)[[1, 2]])}, queries)

    assert [one.cosine for one in found] == [1.0, 0.0]


def test_vectors_of_zeros_pack() -> None:
    """A sentence beyond the model's window has cosine 0."""
    (one,) = similarities(
        {"sentences": packed([(0, 1)], np.zeros((1, 3), np.float32))}, [np.eye(3)[0]]
    )

    assert one.cosine == 0


def test_short_pieces_join_the_next() -> None:
    """A bullet or a bracket is no sentence; nothing of the passage is left out."""
    assert sentence_spans([12, 14, 60], 10, 90) == [(10, 60), (60, 90)]
    assert sentence_spans([], 10, 90) == [(10, 90)]


def test_folding_moves_spans() -> None:
    """Spans point into the text that is embedded, where a ligature is two letters."""
    text = "The \ufb01sh. It swims."

    assert folded_spans(text, [(0, 9), (9, 18)]) == [(0, 10), (10, 19)]
    assert folded_spans("plain text", [(0, 5)]) == [(0, 5)]


def test_the_cache_keeps_them(tmp_path: Path) -> None:
    """A store built anew embeds no passage again; one cut otherwise counts as new."""
    asked: list[str] = []

    def embed(texts, parts):  # type: ignore[no-untyped-def]
        asked.extend(texts)
        return [
            np.full((1 + len(own), 2), len(text), np.float32)
            for text, own in zip(texts, parts, strict=True)
        ]

    cache = EmbeddingCache(tmp_path, identity="lengths", dim=2)
    first, computed = cache.fill_parts(["ab", "abc"], [[(0, 1)], []], embed)
    second, again = cache.fill_parts(["abc", "ab"], [[], [(0, 1)]], embed)
    _, anew = cache.fill_parts(["ab"], [[(0, 2)]], embed)

    assert [row.tolist() for row in first] == [[[2, 2], [2, 2]], [[3, 3]]]
    assert [row.tolist() for row in second] == [[[3, 3]], [[2, 2], [2, 2]]]
    assert (computed, again, anew) == (2, 0, 1)
    assert asked == ["ab", "abc", "ab"]
