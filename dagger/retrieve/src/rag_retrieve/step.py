"""Search: one question to passages, best first. No I/O of its own: the collection is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

from pydantic import JsonValue

from rag_kit.errors import StepError
from rag_kit.passages import Result, TablePart
from rag_kit.ranking import CLOSE, CLOSE_SHARE, cap
from rag_kit.spelling import doubtful, replaced
from rag_kit.workers import side_by_side

from .index.collection import Ahead, Collection, DocumentsOf, Found, Ranked, Snapshot
from .index.embedders import Vectors
from .index.manifest import Manifest
from .index.sentence_vectors import similarities
from .index.sparse import sparse_of
from .models import RetrieveOptions, RetrieveRequest, RetrieveResponse
from .search.filters import Condition, parse_filters
from .search.fusion import BY_WORDS, WEIGHTS, fuse_dbsf, fuse_queries, fuse_rrf
from .search.spelling import MOST_CORRECTED, certain, corrections, one_edit_away
from .stores.base import Leg, Sparse

__version__ = version("rag-retrieve")


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
    condition = parse_filters(request.filters)
    queries = [request.query, *request.search_queries]
    asked = _asked(queries, names, request, collection, condition, look_up=True)
    corrected = certain(asked.words.near)
    if not corrected:
        near, snapshot = _search(asked, names, request, collection, condition)
        corrected = corrections(near, (payload for _, payload in snapshot.passages))
    if corrected:
        queries = list(dict.fromkeys([*queries, *(replaced(one, corrected) for one in queries)]))
        asked = _asked(queries, names, request, collection, condition)
        _, snapshot = _search(asked, names, request, collection, condition)
    results = [result_of(ranked, payload, asked.vectors) for ranked, payload in snapshot.passages]
    warnings = _unknown(collection.unknown_fields(condition)) if condition else []
    warnings += map(_spelling, corrected, corrected.values())
    if "dense" in names and any(map(collection.analyzer.is_unfit, queries)):
        warnings.append(_unfit(snapshot.manifest, hybrid=len(names) > 1))
    provenance: dict[str, JsonValue] = {"version": version}
    if corrected:
        provenance["corrected"] = dict(corrected)
    return respond(request, results, snapshot.manifest, provenance, warnings)


def _asked(
    queries: Sequence[str],
    names: Sequence[str],
    request: RetrieveRequest,
    collection: Collection,
    condition: Condition | None,
    *,
    look_up: bool = False,
) -> _Asked:
    """Embed the queries for each leg; meanwhile the words are searched, and with `look_up` looked up."""
    limit = _limit(request)
    look_near = partial(one_edit_away, request.query, collection=collection, condition=condition)

    def search_words() -> _Words:
        if "sparse" not in names:
            return _Words([], {}, None, {})
        lookup = _doubtful_terms(queries, collection) if look_up else {}
        return _search_words(queries, limit, lookup, collection, condition, look_near)

    def embed() -> list[Vectors]:
        return [collection.analyzer.dense_query(one) for one in queries if "dense" in names]

    at_once = len(names) > 1
    words, vectors = side_by_side(search_words, embed) if at_once else (search_words(), embed())
    return _Asked(queries, vectors, words, look_near)


def _search(
    asked: _Asked,
    names: Sequence[str],
    request: RetrieveRequest,
    collection: Collection,
    condition: Condition | None,
) -> tuple[dict[str, str | None], Snapshot]:
    """Search each leg for each query.

    Returns:
        The words that no passage has, where they were looked up, with the words one edit away from
        them; and the passages chosen.
    """
    queries, vectors, words, look_near = asked
    dense: list[Leg] = [("dense", vector, _limit(request)) for vector in vectors]
    by_query = zip(*filter(None, (dense, words.legs)), strict=True)
    weights = BY_WORDS if any(map(collection.analyzer.is_unfit, queries)) else WEIGHTS
    snapshot = collection.search(
        [leg for legs in by_query for leg in legs],
        condition,
        lambda found, documents_of: _rank(
            list(_by_query(names, found)), request, weights, documents_of
        ),
        complete=len(names) * len(queries) > 1,
        lookup=list(words.lookup.values()),
        ahead=words.ahead,
    )
    absent = [list(words.lookup)[at] for at in snapshot.absent][:MOST_CORRECTED]
    late = look_near([word for word in absent if word not in words.near])
    return {word: (words.near | late)[word] for word in absent}, snapshot


def _limit(request: RetrieveRequest) -> int:
    """Return how many passages each leg finds."""
    return max(request.retrieve.candidates, request.top_k)


class _Words(NamedTuple):
    """The sparse legs, the words to look up, what both found already, and words near unknown ones."""

    legs: list[Leg]
    lookup: dict[str, Sparse]
    ahead: Ahead | None
    near: dict[str, str | None]


class _Asked(NamedTuple):
    """What is searched: the queries, their vectors, their words, and what looks for near words."""

    queries: Sequence[str]
    vectors: list[Vectors]
    words: _Words
    look_near: Callable[[Sequence[str]], dict[str, str | None]]


def _search_words(
    queries: Sequence[str],
    limit: int,
    lookup: dict[str, Sparse],
    collection: Collection,
    condition: Condition | None,
    look_near: Callable[[Sequence[str]], dict[str, str | None]],
) -> _Words:
    """Search what needs no embedding; over a network only the terms are made."""
    terms = [collection.analyzer.terms.query(one, collection.languages) for one in queries]
    legs: list[Leg] = [("sparse", one, limit) for one in terms]
    ahead = collection.search_ahead(legs, condition, list(lookup.values()))
    if ahead is None:
        return _Words(legs, lookup, None, {})
    looked_up = zip(lookup, ahead.hits[len(legs) :], strict=True)
    absent = [word for word, hits in looked_up if not hits]
    return _Words(legs, lookup, ahead, look_near(absent))


def _doubtful_terms(queries: Sequence[str], collection: Collection) -> dict[str, Sparse]:
    """Return the words of the queries that may be misspelt, as terms to look up."""
    if collection.languages is None:
        return {}
    encoder = collection.analyzer.terms
    found = {}
    for query in queries:
        words = set(doubtful(query))
        for term in encoder.query_terms(query, collection.languages):
            if term.word in words:
                found[term.word] = sparse_of([term])
    return found


def _spelling(word: str, other: str) -> str:
    return f"spelling: no passage has '{word}'; '{other}' was searched, too"


def _unknown(fields: Sequence[str]) -> list[str]:
    return [
        f"filter_field_unknown: no passage of the collection has the metadata field '{name}'; "
        "`rag documents list --json` shows the fields there are"
        for name in fields
    ]


def _unfit(manifest: Manifest, *, hybrid: bool) -> str:
    instead = "words decide" if hybrid else "its order says little: search with mode hybrid"
    return (
        f"dense_leg_unfit: {manifest.recipe.embedding_model} knows English, and the question is in another "
        f"script; {instead}. RAG_EMBEDDER=openai or fastembed takes a multilingual model"
    )


def respond(
    request: RetrieveRequest,
    results: list[Result],
    manifest: Manifest,
    provenance: dict[str, JsonValue],
    warnings: Sequence[str] = (),
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
            "warnings": [*request.warnings, *warnings, *filter(None, [manifest.outdated])],
            "results": results,
            "provenance": {**request.provenance, "retrieve": provenance},
        }
    )


def _by_query(names: Sequence[str], found: Sequence[Found]) -> Iterator[dict[str, Found]]:
    """Yield the legs of each query by name."""
    for start in range(0, len(found), len(names)):
        yield dict(zip(names, found[start : start + len(names)], strict=True))


def _fuse(
    found: Mapping[str, Found], options: RetrieveOptions, weights: Mapping[str, float]
) -> dict[str, float]:
    """Fuse the legs of one query."""
    scores = _scores(found)
    if len(scores) == 1:
        return next(iter(scores.values()))
    if options.fusion == "dbsf":
        return fuse_dbsf(scores, weights)
    returned = {name: {hit.id: hit.score for hit in leg.hits} for name, leg in found.items()}
    return fuse_rrf(returned, k=options.rrf_k)


def _scores(found: Mapping[str, Found]) -> dict[str, dict[str, float]]:
    return {
        name: {**{hit.id: hit.score for hit in leg.hits}, **leg.completed}
        for name, leg in found.items()
    }


def _rank(
    searched: Sequence[Mapping[str, Found]],
    request: RetrieveRequest,
    weights: Mapping[str, float],
    documents_of: DocumentsOf,
) -> list[Ranked]:
    """Fuse the legs of each query and the queries, then apply threshold, document cap and top_k."""
    options = request.retrieve
    fused = fuse_queries([_fuse(found, options, weights) for found in searched])
    by_query = [_scores(found) for found in searched]
    scores = {name: fuse_queries([one[name] for one in by_query]) for name in by_query[0]}
    order = sorted(fused, key=lambda point_id: (-fused[point_id], point_id))
    if request.min_score is not None:
        order = [point_id for point_id in order if fused[point_id] >= request.min_score]
    judged, least = scores.get("dense"), CLOSE
    if judged is None:  # searched by words alone
        judged, least = fused, CLOSE_SHARE * max(fused.values(), default=0.0)

    def ranked() -> Iterator[tuple[str, bool]]:
        for at in range(0, len(order), request.top_k):
            ids = order[at : at + request.top_k]
            for point_id, document in zip(ids, documents_of(ids), strict=True):
                yield document, judged[point_id] >= least

    kept = cap(ranked(), options.max_per_document, request.top_k)
    return [
        Ranked(point_id, fused[point_id], {name: leg[point_id] for name, leg in scores.items()})
        for point_id in (order[at] for at in kept)
    ]


def result_of(
    ranked: Ranked, payload: Mapping[str, Any], queries: Sequence[Vectors] = ()
) -> Result:
    """Return a passage as a result; `queries` are the vectors of what was searched, where there are any.

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
            date=payload.get("date"),
            language=payload.get("language"),
            headings=payload.get("headings", []),
            in_code=payload.get("in_code", False),
            tables=[
                TablePart(span=[start, end], columns=columns, delimiter=delimiter)
                for start, end, columns, delimiter in payload.get("tables", ())
            ],
            similarities=similarities(payload, queries),
        )
    except (KeyError, ValueError) as error:
        raise StepError(
            "retriever_bad_response",
            f"the store gave a passage without a valid payload ({type(error).__name__}); reindex it",
        ) from None
