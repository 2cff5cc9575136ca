"""Scores of texts for a question, for clients of reranking servers: `POST /v1/rerank`, `POST /rerank`.

The first is Cohere's and Jina's API, which Open WebUI, LiteLLM and Dify speak; the second that of
text-embeddings-inference. The configured reranker scores; a request cannot choose another one. Here
a reranker that fails is an error: the order of the texts is the client's, and it knows that already.
"""

from __future__ import annotations

from typing import Annotated, Any

import pydantic_core
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, field_validator

from rag_kit.request import check_query

from ..http.openapi import FAILURES
from ..http.requests import otherwise, takes
from .dependencies import Caller, ServiceDep, json_body

router = APIRouter(tags=["Reranking"], responses=FAILURES)

MOST = 1000  # texts


class Document(BaseModel):
    """A text as some clients send it; other fields are ignored."""

    text: str = Field(description="The text.")


class RerankBody(BaseModel):
    """A question and the texts to score for it; unknown fields are ignored, as such servers do."""

    model: str | None = Field(None, description="Ignored: the configured reranker scores.")
    query: str = Field(description="The question, 1 character to 8 KiB of UTF-8.")
    documents: list[Annotated[str | Document, otherwise('send a text, or {"text": "…"}')]] = Field(
        min_length=1, max_length=MOST, description="The texts."
    )
    top_n: int | None = Field(None, ge=1, description="How many results, best first; null: all.")
    return_documents: bool | None = Field(None, description="Whether results have the texts.")

    _query = field_validator("query")(check_query)


class TextsBody(BaseModel):
    """The same for clients of text-embeddings-inference."""

    query: str = Field(description="The question, 1 character to 8 KiB of UTF-8.")
    texts: list[str] = Field(min_length=1, max_length=MOST, description="The texts.")
    return_text: bool | None = Field(None, description="Whether results have the texts.")
    raw_scores: bool | None = Field(None, description="Only false: scores are from 0 to 1.")
    truncate: bool | None = Field(None, description="Ignored: long texts are cut.")

    _query = field_validator("query")(check_query)

    @field_validator("raw_scores")
    @classmethod
    def _raw_scores(cls, value: bool | None) -> bool | None:
        if value:
            raise ValueError("raw_scores: scores are from 0 to 1 here; leave it out")
        return value


class Ranked(BaseModel):
    """One text and its score."""

    model_config = ConfigDict(extra="forbid")

    index: int = Field(description="Which of the texts, from 0.")
    relevance_score: float = Field(description="0 to 1; higher is better.")
    document: Document | None = Field(
        None, exclude_if=lambda value: value is None, description="The text, where asked for."
    )


class RerankReply(BaseModel):
    """The texts by descending score."""

    id: str = Field(description="Id of this request.")
    model: str = Field(description="The model that scored.")
    results: list[Ranked] = Field(description="Best first; equal scores in the order sent.")


class Scored(BaseModel):
    """One text and its score, as text-embeddings-inference gives it."""

    index: int = Field(description="Which of the texts, from 0.")
    score: float = Field(description="0 to 1; higher is better.")
    text: str | None = Field(
        None, exclude_if=lambda value: value is None, description="The text, where asked for."
    )


@router.post(
    "/v1/rerank", summary="Rank texts, as Cohere's and Jina's API", openapi_extra=takes(RerankBody)
)
@router.post("/v2/rerank", include_in_schema=False)
async def rerank(
    request: Request,
    service: ServiceDep,
    caller: Caller,
    body: Annotated[RerankBody, Depends(json_body(RerankBody))],
) -> RerankReply:
    """Score the documents for the query with the configured reranker."""
    texts = [each if isinstance(each, str) else each.text for each in body.documents]
    reply = await service.rerank(request, to_step(body.query, texts, caller.request_id))
    results = [
        Ranked(
            index=index,
            relevance_score=score,
            document=Document(text=texts[index]) if body.return_documents else None,
        )
        for index, score in ranked(reply)[: body.top_n]
    ]
    return RerankReply(id=caller.request_id, model=model_of(reply), results=results)


@router.post(
    "/rerank", summary="Rank texts, as text-embeddings-inference", openapi_extra=takes(TextsBody)
)
async def rerank_texts(
    request: Request,
    service: ServiceDep,
    caller: Caller,
    body: Annotated[TextsBody, Depends(json_body(TextsBody))],
) -> list[Scored]:
    """Score the texts for the query with the configured reranker."""
    reply = await service.rerank(request, to_step(body.query, body.texts, caller.request_id))
    return [
        Scored(index=index, score=score, text=body.texts[index] if body.return_text else None)
        for index, score in ranked(reply)
    ]


def to_step(query: str, texts: list[str], request_id: str) -> str:
    """Return the request of the step `rerank`; the chunk id of a passage is its text's index."""
    results = [
        {
            "chunk_id": str(index),
            "document_id": str(index),
            "text": text,
            "span": [0, len(text)],
            "score": 0.0,
        }
        for index, text in enumerate(texts)
    ]
    options = {"enabled": True, "required": True}
    request = {"query": query, "request_id": request_id, "results": results, "rerank": options}
    return pydantic_core.to_json(request).decode()


def ranked(reply: dict[str, Any]) -> list[tuple[int, float]]:
    """Return index and score of each text, best first."""
    return [(int(each["chunk_id"]), each["score"]) for each in reply["results"]]


def model_of(reply: dict[str, Any]) -> str:
    """Return the name of the model that scored, or of its kind where it has none."""
    made = reply["provenance"].get("rerank", {})
    return str(made.get("model") or made.get("reranker") or "rerank")
