"""Search: one question to passages, best first. No I/O of its own: the collection is an argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from .collection import Collection, Found, Ranked
from .errors import StepError
from .filters import parse_filters
from .fusion import fuse_dbsf, fuse_rrf
from .manifest import Manifest
from .models import Result, RetrieveRequest, RetrieveResponse
from .stores import Leg


def retrieve(request: RetrieveRequest, *, collection: Collection, version: str) -> RetrieveResponse:
    """Find the passages of a collection that fit the question.

    Args:
        request: The question and how to search.
        collection: Where to search.
        version: Version of the step, for provenance.

    Returns:
        At most `top_k` results, by descending score, ties by chunk id.

    Raises:
        StepError: `invalid_request` (filters, or options of another retriever), `retriever_…` or
            `embedder_…` from below.
    """
    options = request.retrieve
    for name, value in (("weights", options.weights), ("category", options.category)):
        if value is not None:
            raise StepError(
                "invalid_request",
                f"'{name}' is an option of the retriever 'superlinked', but 'builtin' is configured; "
                "leave it out, or set RAG_RETRIEVER=superlinked and RAG_SUPERLINKED_URL",
                param=f"retrieve.{name}",
            )
    names = ["dense", "sparse"] if options.mode == "hybrid" else [str(options.mode)]
    snapshot = collection.search(
        [_leg(name, request, collection) for name in names],
        parse_filters(request.filters),
        lambda found: _rank(dict(zip(names, found, strict=True)), request),
        complete=options.mode == "hybrid",
        documents=options.max_per_document is not None,
    )
    results = [result_of(ranked, payload) for ranked, payload in snapshot.passages]
    return respond(request, results, snapshot.manifest, {"version": version})


def respond(
    request: RetrieveRequest,
    results: list[Result],
    manifest: Manifest,
    provenance: dict[str, JsonValue],
) -> RetrieveResponse:
    """Return the response: the request's fields, the results, and where they come from."""
    provenance |= {
        "corpus_digest": manifest.corpus_digest,
        "embedding_model": manifest.recipe.embedding_model,
    }
    return RetrieveResponse.model_validate(
        {
            **request.model_dump(exclude_unset=True),
            "query": request.query,
            "collection": request.collection,
            "warnings": request.warnings,
            "results": results,
            "provenance": {**request.provenance, "retrieve": provenance},
        }
    )


def _leg(name: str, request: RetrieveRequest, collection: Collection) -> Leg:
    limit = max(request.retrieve.candidates, request.top_k)
    if name == "dense":
        return ("dense", collection.analyzer.dense_query(request.query), limit)
    return ("sparse", collection.analyzer.sparse_query(request.query), limit)


def _rank(found: Mapping[str, Found], request: RetrieveRequest) -> list[Ranked]:
    """Fuse the legs, then apply threshold, document cap and top_k."""
    options = request.retrieve
    returned = {name: {hit.id: hit.score for hit in leg.hits} for name, leg in found.items()}
    scores = {name: {**returned[name], **leg.completed} for name, leg in found.items()}
    if len(scores) == 1:
        (fused,) = scores.values()
    elif options.fusion == "dbsf":
        fused = fuse_dbsf(scores)
    else:
        fused = fuse_rrf(returned, k=options.rrf_k)
    order = sorted(fused, key=lambda point_id: (-fused[point_id], point_id))
    if request.min_score is not None:
        order = [point_id for point_id in order if fused[point_id] >= request.min_score]
    if options.max_per_document is not None:
        order = _cap(order, found, options.max_per_document)
    return [
        Ranked(point_id, fused[point_id], {name: leg[point_id] for name, leg in scores.items()})
        for point_id in order[: request.top_k]
    ]


def _cap(order: list[str], found: Mapping[str, Found], most: int) -> list[str]:
    documents = {hit.id: hit.payload["document_id"] for leg in found.values() for hit in leg.hits}
    taken: Counter[str] = Counter()
    kept = []
    for point_id in order:
        taken[documents[point_id]] += 1
        if taken[documents[point_id]] <= most:
            kept.append(point_id)
    return kept


def result_of(ranked: Ranked, payload: Mapping[str, Any]) -> Result:
    """Return a passage as a result; raises `retriever_bad_response` when its payload is not whole."""
    try:
        return Result(
            chunk_id=ranked.id,
            document_id=payload["document_id"],
            title=payload["title"],
            source=payload["source"],
            text=payload["text"],
            span=payload["span"],
            page=payload["page"],
            score=ranked.score,
            scores=ranked.scores,
            metadata=payload["metadata"],
        )
    except (KeyError, ValueError) as error:
        raise StepError(
            "retriever_bad_response",
            f"the store gave a passage without a valid payload ({type(error).__name__}); reindex it",
        ) from None
