"""The contract of `rerank`: request and response as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rag_kit.passages import Result
from rag_kit.request import StepRequest


class RerankOptions(BaseModel):
    """How to rank again; unknown options are refused."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool | None = Field(
        None,
        description="false: passages keep their order; true: fail where no reranker is configured; "
        "null: rank again where one is.",
    )
    candidates: int | None = Field(
        None,
        ge=1,
        le=100,
        description="How many passages, best first, are ranked again; the others are dropped. `rag` "
        "has as many searched; null: all, and in `rag` RAG_RERANK_CANDIDATES.",
    )
    top_n: int | None = Field(
        None,
        ge=1,
        le=100,
        description="How many passages are kept; null: all, and in `rag` as many as its top_k.",
    )
    min_relevance: float | None = Field(
        None,
        description="Drop passages whose score is lower after reranking, 0 to 1; in `rag` its "
        "min_score.",
    )
    max_per_document: int | None = Field(
        None,
        ge=1,
        le=100,
        description="At most this many passages of one document; null: half of top_n, more where other "
        "documents have none that is relevant.",
    )
    required: bool = Field(
        False, description="Fail when the reranker does, instead of keeping the order found."
    )


class RerankRequest(StepRequest):
    """Passages to rank for a question. Unknown fields are carried to the response untouched."""

    step = "rerank"

    results: list[Result] = Field(max_length=1000, description="Passages, best first.")
    rerank: RerankOptions = Field(default_factory=lambda: RerankOptions())


class RerankResponse(BaseModel):
    """Passages for the question, best first, ties in the order found; other fields as sent."""

    model_config = ConfigDict(extra="allow")

    query: str = Field(description="The question as asked.")
    results: list[Result] = Field(description="Best first.")
    degraded: bool = Field(
        False, description="Whether the reranker failed and the passages keep the order found."
    )
    warnings: list[str] = Field(default_factory=list, description="What the caller should know.")
    provenance: dict[str, dict[str, JsonValue]] = Field(
        description="By step; `rerank` holds version, reranker, its model, and the digest of a local "
        "one."
    )
