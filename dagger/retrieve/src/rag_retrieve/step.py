"""Search: one question to passages, best first. No I/O of its own: the collection is an argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from pydantic import JsonValue

from rag_kit.errors import StepError
from rag_kit.passages import Result, TablePart

from .index.collection import Collection, DocumentsOf, Found, Ranked
from .index.embedders import Vectors
from .index.manifest import Manifest
from .index.sentence_vectors import similarities
from .models import RetrieveRequest, RetrieveResponse
from .search.filters import parse_filters
from .search.fusion import fuse_dbsf, fuse_rrf
from .stores.base import Leg

__version__ = version("rag-retrieve")

# Dense cosine from which a passage takes the place of one of a document that has half of them. On
# the chunking set, five long documents, recall of 5 passages is 0.886 without this rule, 0.884 with
# it, and 0.807 if every passage counted as close.
CLOSE = 0.4


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
    legs = [_leg(name, request, collection) for name in names]
    snapshot = collection.search(
        legs,
        parse_filters(request.filters),
        lambda found, documents_of: _rank(
            dict(zip(names, found, strict=True)), request, documents_of
        ),
        complete=options.mode == "hybrid",
    )
    vector = next((np.asarray(leg[1]) for leg in legs if leg[0] == "dense"), None)
    results = [result_of(ranked, payload, vector) for ranked, payload in snapshot.passages]
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


def _rank(
    found: Mapping[str, Found], request: RetrieveRequest, documents_of: DocumentsOf
) -> list[Ranked]:
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
    dense = scores.get("dense")

    def ranked() -> Iterator[tuple[str, bool]]:
        page = 2 * request.top_k
        for at in range(0, len(order), page):
            ids = order[at : at + page]
            for point_id, document in zip(ids, documents_of(ids), strict=True):
                yield document, dense is None or dense[point_id] >= CLOSE

    kept = cap(ranked(), options.max_per_document, request.top_k)
    return [
        Ranked(point_id, fused[point_id], {name: leg[point_id] for name, leg in scores.items()})
        for point_id in (order[at] for at in kept)
    ]


def cap(ranked: Iterable[tuple[object, bool]], most: int | None, top_k: int) -> list[int]:
    """Choose `top_k` passages so that no document displaces others that are as relevant.

    Args:
        ranked: Document of each passage and whether it is close to the question, best first; read
            only as far as needed.
        most: Passages of one document; None: half of `top_k`, and more where no other document
            has a passage that is close.
        top_k: How many to choose.

    Returns:
        Positions of the chosen passages, best first.
    """
    taken: Counter[object] = Counter()
    kept: list[int] = []
    spare: list[int] = []
    limit = most or (top_k + 1) // 2
    for at, (document, is_close) in enumerate(ranked):
        taken[document] += 1
        fits = is_close or at < top_k or most is not None
        (kept if fits and taken[document] <= limit else spare).append(at)
        if len(kept) == top_k:
            break
    if most is None:
        kept += spare[: top_k - len(kept)]
    return sorted(kept)


def result_of(ranked: Ranked, payload: Mapping[str, Any], query: Vectors | None = None) -> Result:
    """Return a passage as a result; `query` is the question's vector, where it has one.

    Raises:
        StepError: `retriever_bad_response`: the payload is incomplete.
    """
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
            headings=payload.get("headings", []),
            in_code=payload.get("in_code", False),
            tables=[
                TablePart(span=[start, end], columns=columns, delimiter=delimiter)
                for start, end, columns, delimiter in payload.get("tables", ())
            ],
            similarities=similarities(payload, query),
        )
    except (KeyError, ValueError) as error:
        raise StepError(
            "retriever_bad_response",
            f"the store gave a passage without a valid payload ({type(error).__name__}); reindex it",
        ) from None
