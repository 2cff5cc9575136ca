"""Search: one question to passages, best first. No I/O of its own: the collection is an argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pydantic import JsonValue

from .collection import Collection
from .errors import StepError
from .filters import parse_filters
from .fusion import fuse_dbsf, fuse_rrf
from .models import Result, RetrieveRequest, RetrieveResponse
from .stores import Hit, Leg


def retrieve(request: RetrieveRequest, *, collection: Collection, version: str) -> RetrieveResponse:
    """Find the passages of a collection that fit the question.

    Args:
        request: The question and how to search.
        collection: Where to search.
        version: Version of the step, for provenance.

    Returns:
        At most `top_k` results, by descending score, ties by chunk id.

    Raises:
        StepError: `invalid_request` (filters), `retriever_…` or `embedder_…` from below.
    """
    options = request.retrieve
    condition = parse_filters(request.filters)
    hybrid = options.mode == "hybrid"
    names = ["dense", "sparse"] if hybrid else [str(options.mode)]
    legs = [_leg(name, request, collection) for name in names]
    found = collection.search(legs, condition, complete=hybrid)
    hits = {hit.id: hit for leg in found for hit in leg.hits}
    returned = {
        name: {hit.id: hit.score for hit in leg.hits}
        for name, leg in zip(names, found, strict=True)
    }
    scores = {
        name: {**returned[name], **leg.completed} for name, leg in zip(names, found, strict=True)
    }
    if not hybrid:
        fused = scores[names[0]]
    elif options.fusion == "dbsf":
        fused = fuse_dbsf(scores)
    else:
        fused = fuse_rrf(returned, k=options.rrf_k)
    ranked = sorted(fused, key=lambda point_id: (-fused[point_id], point_id))
    if request.min_score is not None:
        ranked = [point_id for point_id in ranked if fused[point_id] >= request.min_score]
    if options.max_per_document is not None:
        ranked = _cap(ranked, hits, options.max_per_document)
    manifest = collection.manifest
    provenance: dict[str, JsonValue] = {
        "version": version,
        "corpus_digest": manifest.corpus_digest,
        "embedding_model": manifest.recipe.embedding_model,
    }
    return RetrieveResponse.model_validate(
        {
            **request.model_dump(exclude_unset=True),
            "query": request.query,
            "collection": request.collection,
            "warnings": request.warnings,
            "results": [
                _result(hits[point_id], fused[point_id], scores)
                for point_id in ranked[: request.top_k]
            ],
            "provenance": {**request.provenance, "retrieve": provenance},
        }
    )


def _leg(name: str, request: RetrieveRequest, collection: Collection) -> Leg:
    limit = max(request.retrieve.candidates, request.top_k)
    if name == "dense":
        return ("dense", collection.analyzer.dense_query(request.query), limit)
    return ("sparse", collection.analyzer.sparse_query(request.query), limit)


def _cap(ranked: list[str], hits: Mapping[str, Hit], most: int) -> list[str]:
    taken: Counter[str] = Counter()
    kept = []
    for point_id in ranked:
        document_id = hits[point_id].payload["document_id"]
        taken[document_id] += 1
        if taken[document_id] <= most:
            kept.append(point_id)
    return kept


def _result(hit: Hit, score: float, scores: Mapping[str, Mapping[str, float]]) -> Result:
    payload = hit.payload
    try:
        return Result(
            chunk_id=hit.id,
            document_id=payload["document_id"],
            title=payload["title"],
            source=payload["source"],
            text=payload["text"],
            span=payload["span"],
            page=payload["page"],
            score=score,
            scores={name: leg[hit.id] for name, leg in scores.items() if hit.id in leg},
            metadata=payload["metadata"],
        )
    except (KeyError, ValueError) as error:
        raise StepError(
            "retriever_bad_response",
            f"the store gave a passage without a valid payload ({type(error).__name__}); reindex it",
        ) from None
