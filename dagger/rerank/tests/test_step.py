"""The step: order, scores, thresholds, caps, what happens when the reranker fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from rerank_kit import TEXTS, make_request, result
from reranker_double import shared_words

from rag_kit.errors import StepError
from rag_rerank import rerank
from rag_rerank.models import RerankRequest, RerankResponse
from rag_rerank.reranker import Scored

UP = StepError("reranker_unavailable", "the reranker failed (500)")


@dataclass
class Words:
    """A double of a reranker: the share of the question's words in a text; or it fails."""

    name: str = "words"
    model: str | None = "w"
    digest: str | None = None
    error: StepError | None = None
    fixed: list[float] | None = None
    asked: list[list[str]] = field(default_factory=list)

    def score(self, query: str, texts: Sequence[str]) -> Scored:
        self.asked.append([*texts])
        if self.error is not None:
            raise self.error
        return Scored(self.fixed or [shared_words(query, text) for text in texts], "w-2")


def run(words: Words | None, /, **fields: Any) -> RerankResponse:
    request = RerankRequest.model_validate({**make_request(), **fields}, strict=True)
    return rerank(request, reranker=words)


def ids(response: RerankResponse) -> list[str]:
    return [each.chunk_id for each in response.results]


def test_passages_come_by_the_rerankers_score() -> None:
    """The scores of all stages stay visible; every other field of a passage is as it was."""
    response = run(Words())
    best = response.results[0]

    assert ids(response) == ["c3", "c4", "c1", "c2"]
    assert best.score == 0.75
    assert best.scores == {
        "dense": pytest.approx(0.6),
        "sparse": 3.5,
        "retrieve": 1 / 3,
        "rerank": 0.75,
    }
    kept = {"score": 1 / 3, "scores": result(3, "x")["scores"]}
    assert best.model_dump() | kept == result(3, TEXTS[2])
    assert response.provenance["rerank"] == {
        "version": "0.1.0",
        "reranker": "words",
        "model": "w-2",
    }
    assert (response.degraded, response.warnings) == (False, [])


def test_equal_scores_keep_the_order_found() -> None:
    """The order is the same in every run."""
    response = run(Words(fixed=[0.5, 0.25, 0.5, 0.5]))

    assert ids(response) == ["c1", "c3", "c4", "c2"]


def test_without_a_reranker_nothing_changes() -> None:
    """Passages, scores and warnings pass on as they are."""
    response = run(None, warnings=["w"])

    assert [each.model_dump(exclude_unset=True) for each in response.results] == make_request()[
        "results"
    ]
    assert response.provenance["rerank"] == {"version": "0.1.0", "reranker": "none"}
    assert (response.degraded, response.warnings) == (False, ["w"])


def test_a_request_can_turn_it_off() -> None:
    """`enabled: false` asks no model."""
    words = Words()
    response = run(words, rerank={"enabled": False})

    assert (ids(response), words.asked) == (["c1", "c2", "c3", "c4"], [])


def test_a_request_that_insists_is_told_when_there_is_none() -> None:
    """`enabled: true` without a reranker is refused, not ignored."""
    with pytest.raises(StepError, match="no reranker is configured") as caught:
        run(None, rerank={"enabled": True})

    assert (caught.value.code, caught.value.param) == ("invalid_request", "rerank.enabled")


@pytest.mark.parametrize("words", [Words(), None], ids=["reranked", "as found"])
def test_top_n_keeps_the_best(words: Words | None) -> None:
    """Also where nothing is ranked again: more were searched than are wanted."""
    assert len(ids(run(words, rerank={"top_n": 2}))) == 2
    assert len(ids(run(words, rerank={"top_n": 100}))) == 4


def test_candidates_bound_the_cost() -> None:
    """Only so many texts are scored, and at least top_n."""
    words = Words()

    assert ids(run(words, rerank={"candidates": 3})) == ["c3", "c1", "c2"]
    assert len(ids(run(words, rerank={"candidates": 1, "top_n": 2}))) == 2
    assert [len(texts) for texts in words.asked] == [3, 2]


def test_min_relevance_is_on_the_rerankers_scale() -> None:
    """It drops by the new score; none may be left."""
    assert ids(run(Words(), rerank={"min_relevance": 0.2})) == ["c3", "c4"]
    assert ids(run(Words(), rerank={"min_relevance": 1e9})) == []


def of_documents(*documents: str) -> list[dict[str, Any]]:
    texts = [*TEXTS, *TEXTS][: len(documents)]
    return [
        result(number, text, document_id=document)
        for number, (text, document) in enumerate(zip(texts, documents, strict=True), 1)
    ]


def test_no_document_takes_more_than_half_while_another_is_relevant() -> None:
    """The cap works on the new order; a passage that is not relevant displaces nothing."""
    results = of_documents("a", "a", "a", "b")
    capped = run(Words(fixed=[0.9, 0.8, 0.7, 0.6]), results=results, rerank={"top_n": 3})
    full = run(Words(fixed=[0.9, 0.8, 0.7, 0.1]), results=results, rerank={"top_n": 3})
    one = run(Words(), results=results, rerank={"top_n": 3, "max_per_document": 1})

    assert ids(capped) == ["c1", "c2", "c4"]
    assert ids(full) == ["c1", "c2", "c3"]
    assert ids(one) == ["c3", "c4"]


def test_a_failure_keeps_the_order_found() -> None:
    """The answer does not depend on the reranker: a warning, `degraded`, and the old scores."""
    response = run(Words(error=UP), rerank={"top_n": 2, "min_relevance": 0.99})

    assert ids(response) == ["c1", "c2"]
    assert [each.score for each in response.results] == [1.0, 0.5]
    assert response.degraded
    assert response.warnings == [
        "degraded: reranker_unavailable: the reranker failed (500); the passages keep the order in "
        "which they were found"
    ]
    assert response.provenance["rerank"]["failed"] == "reranker_unavailable"


def test_a_request_may_rather_fail() -> None:
    """`required` gives the reranker's own error."""
    with pytest.raises(StepError) as caught:
        run(Words(error=UP), rerank={"required": True})

    assert caught.value is UP


def test_title_headings_and_text_are_read_without_hidden_characters() -> None:
    """Invisible characters never reach the model; a passage has at most 8,000 characters."""
    words = Words()
    results = [
        result(1, "Sign\u200b here.", title="By-laws\u202e", headings=["By-laws", "§ 3"]),
        result(2, "x" * 9000),
        result(3, "short", title="t" * 9000),
    ]
    run(words, results=results)

    assert words.asked == [["By-laws > § 3\nSign here.", "x" * 8000, f"{'t' * 200}\nshort"]]


def test_a_passage_without_text_is_not_sent() -> None:
    """A server refuses an empty text; such a passage comes last."""
    words = Words()
    results = [result(1, " "), result(2, "sign"), result(3, "\u200b", title="Titles alone")]

    assert ids(run(words, results=results)) == ["c2", "c1", "c3"]
    assert ids(run(words, results=results[:1])) == ["c1"]
    assert words.asked == [["sign"]]


def test_no_passages_are_no_failure() -> None:
    """Nothing is asked, nothing is found."""
    words = Words(error=UP)
    response = run(words, results=[])

    assert (ids(response), response.degraded, words.asked) == ([], False, [])


def test_unknown_fields_are_carried() -> None:
    """Options of other steps, and what nobody here knows."""
    response = run(Words(), augment={"seed": 7}, x_own=[1], top_k=30, rerank={"top_n": 1})
    sent = json.loads(response.model_dump_json())

    assert (sent["augment"], sent["x_own"], sent["top_k"]) == ({"seed": 7}, [1], 30)
    assert sent["rerank"] == {"top_n": 1}
