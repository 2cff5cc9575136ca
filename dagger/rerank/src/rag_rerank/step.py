"""Rank passages again: score, order, threshold, document cap. The reranker is an argument.

results ─▶ candidates ─▶ reranker ─▶ by score ─▶ min_relevance ─▶ cap, top_n
               └──────────────── it failed: the order found ────────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from pydantic import JsonValue

from rag_kit.errors import StepError
from rag_kit.passages import Result
from rag_kit.ranking import CLOSE, cap
from rag_kit.request import clean

from .models import RerankOptions, RerankRequest, RerankResponse
from .reranker import Reranker

__version__ = version("rag-rerank")

# Score from which a passage takes the place of one of a document that has half of them.
RELEVANT = 0.5
MAX_CHARACTERS = 8000  # of a passage; models read 512 tokens to a few thousand
MAX_NAME, MAX_HEADINGS = 200, 6  # characters of a title or heading; the innermost headings
RERANK, RETRIEVE, DENSE = "rerank", "retrieve", "dense"  # names among a passage's scores


def rerank(request: RerankRequest, *, reranker: Reranker | None) -> RerankResponse:
    """Rank the passages of a question again.

    Args:
        request: The question and its passages, best first.
        reranker: Scores them; None: they keep their order.

    Returns:
        At most `top_n` passages by descending score, equal ones in the order found. When the
        reranker fails, the order found, with `degraded` and a warning.

    Raises:
        StepError: `invalid_request`, `enabled` without a reranker; the reranker's own, when the
            request says `required`.
    """
    options = request.rerank
    if options.enabled and reranker is None:
        raise StepError(
            "invalid_request",
            "no reranker is configured; leave out rerank.enabled, or set RAG_RERANKER_URL, or "
            "RAG_RERANKER=onnx",
            param="rerank.enabled",
        )
    if reranker is None or options.enabled is False:
        return _respond(request, _chosen(request.results, options), {"reranker": "none"})
    provenance: dict[str, JsonValue] = {"reranker": reranker.name, "model": reranker.model}
    if reranker.digest:
        provenance["digest"] = reranker.digest
    candidates = request.results[: _limit(options)]
    try:
        scores, model = _scores(request.standalone_query or request.query, candidates, reranker)
    except StepError as error:
        if options.required:
            raise
        kept = _chosen(candidates, options.model_copy(update={"min_relevance": None}))
        return _respond(request, kept, {**provenance, "failed": error.code}, error)
    provenance["model"] = model or reranker.model
    ranked = sorted(map(_scored, candidates, scores), key=lambda result: -result.score)
    return _respond(request, _chosen(ranked, options), provenance)


def _limit(options: RerankOptions) -> int | None:
    return max(options.candidates, options.top_n or 0) if options.candidates else None


def _scores(
    query: str, candidates: Sequence[Result], reranker: Reranker
) -> tuple[list[float], str | None]:
    """Return a score for each candidate, 0 for one without text, and the model's name."""
    texts = [_text(result) for result in candidates]
    sent = [text for text in texts if text]
    if not sent:
        return [0.0] * len(texts), None
    scored = reranker.score(query, sent)
    scores = iter(scored.scores)
    return [next(scores) if text else 0.0 for text in texts], scored.model


def _text(result: Result) -> str:
    """Return what the reranker reads: title and headings on a line, then the text; "" without text.

    BEIR joins title and text, too (Thakur et al., NeurIPS 2021).
    """
    text = clean(result.text).strip()
    names = [
        clean(name[:MAX_NAME]).strip() for name in (result.title, *result.headings[-MAX_HEADINGS:])
    ]
    lead = " > ".join(name for name in dict.fromkeys(names) if name)
    return f"{lead}\n{text}".strip()[:MAX_CHARACTERS] if text else ""


def _scored(result: Result, score: float) -> Result:
    scores = {**result.scores, RETRIEVE: result.score, RERANK: score}
    return result.model_copy(update={"score": score, "scores": scores})


def _chosen(ranked: Sequence[Result], options: RerankOptions) -> list[Result]:
    """Apply threshold, document cap and top_n."""
    least = options.min_relevance
    passing = [result for result in ranked if least is None or result.score >= least]
    kept = cap(
        [(result.document_id, _is_close(result)) for result in passing],
        options.max_per_document,
        options.top_n or max(1, len(passing)),
    )
    return [passing[at] for at in kept]


def _is_close(result: Result) -> bool:
    if RERANK in result.scores:
        return result.scores[RERANK] >= RELEVANT
    return result.scores.get(DENSE, CLOSE) >= CLOSE


def _respond(
    request: RerankRequest,
    results: list[Result],
    provenance: dict[str, JsonValue],
    failed: StepError | None = None,
) -> RerankResponse:
    """Return the response: the request's fields, the results, and who ranked them."""
    warnings = [*request.warnings]
    if failed is not None:
        warnings.append(
            f"degraded: {failed.code}: {failed.message}; the passages keep the order in which they "
            "were found"
        )
    made: dict[str, JsonValue] = {"version": __version__, **provenance}
    return RerankResponse.model_validate(
        {
            **request.model_dump(exclude_unset=True),
            "query": request.query,
            "results": results,
            "degraded": failed is not None,
            "warnings": warnings,
            "provenance": {**request.provenance, "rerank": made},
        }
    )
