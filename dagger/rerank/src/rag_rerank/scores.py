"""Read the scores in a server's reply, in any order, and bring them to one scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from rag_kit.errors import StepError


def cohere_scores(reply: Any) -> Iterable[tuple[Any, Any]]:
    """Yield index and score of each result: `{"results": [{"index", "relevance_score"}]}`."""
    results = reply.get("results") if isinstance(reply, dict) else None
    return _pairs(results, "relevance_score", "no object with a list `results`")


def tei_scores(reply: Any) -> Iterable[tuple[Any, Any]]:
    """Yield index and score of each result: `[{"index", "score"}]`."""
    return _pairs(reply, "score", "no list")


def _pairs(results: Any, field: str, fault: str) -> Iterable[tuple[Any, Any]]:
    if not isinstance(results, list):
        raise bad_response(f"its reply is {fault}; does RAG_RERANKER say what it speaks?")
    for result in results:
        if not isinstance(result, dict):
            raise bad_response("a result is no object")
        yield result.get("index"), result.get(field)


def in_order(pairs: Iterable[tuple[Any, Any]], count: int, *, logits: bool) -> list[float]:
    """Return the scores in the order of the texts.

    Args:
        pairs: Index and score of each result, in any order.
        count: How many texts were sent; each needs one score.
        logits: Whether these are logits, whose sigmoid is taken.

    Raises:
        StepError: `reranker_bad_response`: an index is wrong, doubled or missing, a score is no
            number from 0 to 1.
    """
    scores: dict[int, float] = {}
    for index, score in pairs:
        if type(index) is not int or not 0 <= index < count:
            raise bad_response(f"the index {str(index)[:40]} is none of the {count} texts")
        if index in scores:
            raise bad_response(f"the text {index} has two scores")
        scores[index] = probability(score, logits=logits)
    if len(scores) < count:
        raise bad_response(f"{count - len(scores)} of {count} texts have no score")
    return [scores[index] for index in range(count)]


def probability(score: Any, *, logits: bool) -> float:
    """Return a score as a number from 0 to 1; raises `reranker_bad_response` for any other."""
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
        raise bad_response(f"the score {str(score)[:40]} is no finite number")
    if logits:
        return sigmoid(score)
    if not 0 <= score <= 1:
        raise bad_response(
            f"the score {score:g} is not from 0 to 1; set RAG_RERANKER_LOGITS=true if the model gives "
            "logits"
        )
    return float(score)


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(-logit)), for any finite logit."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return (grown := math.exp(logit)) / (1 + grown)


Reader = Callable[[Any], Iterable[tuple[Any, Any]]]
"""Reads index and score of each result in a server's reply."""


def bad_response(fault: str) -> StepError:
    """Return the error of a server that answers with something unusable."""
    return StepError("reranker_bad_response", f"the reranker answered, but {fault}")
