"""Search for OpenAI clients: `POST /v1/vector_stores/{id}/search`; a vector store is a collection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic_core
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from rag_kit.errors import StepError
from rag_kit.request import explain
from rag_pipeline.models import RagRequest

from ..http.openapi import FAILURES
from ..http.requests import NOT_BLANK, CollectionName, otherwise, takes
from ..service import Service
from .dependencies import ServiceDep, json_body
from .openai_input import ignored, warned

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=FAILURES)

COMPARISONS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin")
FILE_ID = re.compile(r"file-[0-9a-f]{24}")  # of `POST /v1/files`
QUERIES = 8  # in one request
Text = Annotated[str, Field(json_schema_extra=NOT_BLANK)]


class HybridSearch(BaseModel):
    """What counts how much; only whether a weight is 0 matters here."""

    embedding_weight: float = Field(ge=0, description="Likeness of meaning; 0: words alone.")
    text_weight: float = Field(ge=0, description="Words in common; 0: meaning alone.")


class RankingOptions(BaseModel):
    """How results are ranked; the ranker is the service's own."""

    ranker: str | None = Field(None, description="Ignored.")
    score_threshold: float | None = Field(None, description="Drop passages with a lower score.")
    hybrid_search: HybridSearch | None = None

    def mode(self) -> str | None:
        """Return the mode of the search; None: the service's own."""
        weights = self.hybrid_search
        if weights is None or bool(weights.embedding_weight) == bool(weights.text_weight):
            return None
        return "dense" if weights.embedding_weight else "sparse"


class VectorSearchRequest(BaseModel):
    """What to find, in OpenAI's terms; unknown fields are ignored, and a header names them."""

    model_config = ConfigDict(extra="allow")

    query: Annotated[
        Text | Annotated[list[Text], Field(min_length=1, max_length=QUERIES)],
        otherwise(f"send a text, or a list of 1 to {QUERIES} texts"),
    ] = Field(
        description="What to find; of several, each is searched, and a passage has its best score."
    )
    filters: dict[str, JsonValue] | None = Field(
        None,
        description='{"type": "eq|ne|gt|gte|lt|lte|in|nin", "key", "value"}, or '
        '{"type": "and|or", "filters": […]}.',
    )
    max_num_results: int | None = Field(None, ge=1, le=50, description="At most; default 10.")
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = Field(
        None,
        description="true: a query with several parts is split, and its parts are searched, too.",
    )


class VectorSearch(BaseModel):
    """OpenAI's page of search results."""

    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[dict[str, JsonValue]]
    has_more: Literal[False]
    next_page: None


@router.post(
    "/vector_stores/{collection}/search",
    summary="Find passages, as OpenAI's API",
    openapi_extra=takes(VectorSearchRequest),
)
async def search_vector_store(
    request: Request,
    response: Response,
    service: ServiceDep,
    collection: CollectionName,
    body: Annotated[VectorSearchRequest, Depends(json_body(VectorSearchRequest))],
) -> VectorSearch:
    """Find the passages of a collection that fit a query."""
    warned(response, ignored(body.model_extra, {}, {}))
    queries = [body.query] if isinstance(body.query, str) else body.query
    limit = body.max_num_results or 10
    best: dict[str, dict[str, Any]] = {}
    for query in queries:
        question = _question(body, query, collection, limit)
        try:
            found = await service.search(request, question)
        except StepError as error:
            if error.code != "collection_not_found" or not await _is_empty(service, collection):
                raise
            break
        for result in pydantic_core.from_json(found)["results"]:
            known = best.get(result["chunk_id"])
            if known is None or known["score"] < result["score"]:
                best[result["chunk_id"]] = result
    results = sorted(best.values(), key=lambda result: -result["score"])[:limit]
    return VectorSearch(
        object="vector_store.search_results.page",
        search_query=queries,
        data=[to_item(result) for result in results],
        has_more=False,
        next_page=None,
    )


async def _is_empty(service: Service, collection: str) -> bool:
    """Whether a vector store was created and holds nothing yet."""
    files = service.files
    return files is not None and collection in await asyncio.to_thread(files.stores)


def _question(body: VectorSearchRequest, query: str, collection: str, limit: int) -> RagRequest:
    ranking = body.ranking_options or RankingOptions()
    question = {
        "query": query,
        "collection": collection,
        "top_k": limit,
        "filters": to_filters(body.filters, "filters") if body.filters else None,
        "min_score": ranking.score_threshold,
        "search_queries": None if body.rewrite_query else [],
        "retrieve": {"mode": mode} if (mode := ranking.mode()) else {},
    }
    try:
        return RagRequest.model_validate(question, strict=True)
    except ValidationError as error:
        raise explain(error) from None


def to_filters(filters: Any, where: str) -> dict[str, Any]:
    """Return OpenAI's filter as ours.

    Args:
        filters: A comparison or a compound.
        where: Its place in the request, for errors.

    Raises:
        StepError: `invalid_request`, it is neither.
    """
    kind = filters.get("type") if isinstance(filters, dict) else None
    if kind in ("and", "or"):
        parts = filters.get("filters")
        if filters.keys() != {"type", "filters"} or not isinstance(parts, list) or not parts:
            raise _wrong(where, f'{kind} takes a list: {{"type": "{kind}", "filters": […]}}')
        inner = [to_filters(part, f"{where}.filters.{at}") for at, part in enumerate(parts)]
        return {f"${kind}": inner}
    if kind not in COMPARISONS:
        raise _wrong(where, f"type must be and, or, {', '.join(COMPARISONS)}")
    key = filters.get("key")
    if filters.keys() != {"type", "key", "value"} or not isinstance(key, str):
        raise _wrong(where, f'a comparison is {{"type": "{kind}", "key": "…", "value": …}}')
    if key.startswith("$"):
        raise _wrong(where, "a key must not start with $")
    return {key: {f"${kind}": filters["value"]}}


def _wrong(where: str, text: str) -> StepError:
    return StepError("invalid_request", f"{where}: {text}", param=where)


def file_id_of(document_id: str) -> str:
    """Return the id of the file that a document came from; of another document its own."""
    file_id, slash, _ = document_id.partition("/")
    return file_id if slash and FILE_ID.fullmatch(file_id) else document_id


def filename_of(place: Mapping[str, Any]) -> str:
    """Return the name of the file that a passage or a citation is from."""
    return str(place["source"]).removeprefix(f"{file_id_of(place['document_id'])}/")


def to_item(result: dict[str, Any]) -> dict[str, Any]:
    """Return a passage as OpenAI's result; attributes are the metadata that are plain values."""
    plain = {
        name: value
        for name, value in result["metadata"].items()
        if isinstance(value, (str, int, float, bool))
    }
    return {
        "file_id": file_id_of(result["document_id"]),
        "filename": filename_of(result),
        "score": result["score"],
        "attributes": plain,
        "content": [{"type": "text", "text": result["text"]}],
        "chunk_id": result["chunk_id"],
        "title": result["title"],
        "span": result["span"],
        "page": result["page"],
        **{name: result[name] for name in ("headings", "date") if name in result},
    }
